# SPDX-License-Identifier: Apache-2.0
"""The tables, parsed by hand here and by ACPICA's disassembler where it is installed."""

import re
import struct
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvmm.boot import acpi
from pyvmm.errors import ConfigError
from tests.support.images import FakeMemory

#: Of a table (ACPI 6.5, 5.2.6).
HEADER_SIZE = 36
VIRTIO = [(0xD0000000, 16), (0xD0001000, 17), (0xD0002000, 5)]


class Parsed:
    """Finds every table from the RSDP on, as an operating system does, and checks each checksum."""

    def __init__(self, tables: acpi.Tables) -> None:
        self.tables = tables
        rsdp = self.at(tables.rsdp, 36)
        assert rsdp[:8] == b"RSD PTR "
        assert sum(rsdp[:20]) % 256 == 0
        assert sum(rsdp) % 256 == 0
        assert rsdp[15] == 2
        (length, xsdt) = struct.unpack_from("<IQ", rsdp, 20)
        assert length == 36
        self.by_name = {}
        root = self.table(xsdt)
        for (address,) in struct.iter_unpack("<Q", root[36:]):
            self.table(address)
        fadt = self.by_name["FACP"]
        self.facs_address, dsdt = struct.unpack_from("<II", fadt, 36)
        assert struct.unpack_from("<Q", fadt, 140) == (dsdt,)
        self.table(dsdt)

    def at(self, address: int, length: int) -> bytes:
        start = address - self.tables.address
        assert 0 <= start <= start + length <= len(self.tables.blob)
        return self.tables.blob[start : start + length]

    def table(self, address: int) -> bytes:
        (length,) = struct.unpack_from("<I", self.at(address, 36), 4)
        data = self.at(address, length)
        assert sum(data) % 256 == 0
        assert data[10:16] == b"PYVMM "
        self.by_name[data[:4].decode()] = data
        return data

    def madt(self) -> dict[int, list[bytes]]:
        """The entries of the MADT by type."""
        data = self.by_name["APIC"][44:]
        entries: dict[int, list[bytes]] = {}
        while data:
            entries.setdefault(data[0], []).append(data[: data[1]])
            data = data[data[1] :]
        return entries


def test_tables_are_where_a_scan_finds_them() -> None:
    memory = FakeMemory(2 << 20)
    rsdp = acpi.install(memory, 2, VIRTIO)
    assert rsdp == 0xE0000
    assert memory.read(rsdp, 8) == b"RSD PTR "


@given(
    st.integers(1, 4096),
    st.lists(st.tuples(st.integers(0, 0xFFFF0000), st.integers(0, 23)), max_size=100),
    st.booleans(),
    st.booleans(),
)
@settings(max_examples=50)
def test_checksums_and_pointers(cpus, virtio, serial, pvpanic) -> None:
    parsed = Parsed(acpi.build(cpus, virtio, serial=serial, pvpanic=pvpanic))
    assert set(parsed.by_name) == {"XSDT", "FACP", "APIC", "DSDT"}
    assert parsed.facs_address % 64 == 0
    assert parsed.at(parsed.facs_address, 8) == b"FACS" + struct.pack("<I", 64)


def test_fadt() -> None:
    fadt = Parsed(acpi.build(1)).by_name["FACP"]
    assert len(fadt) == 276
    assert (fadt[8], fadt[131]) == (6, 3)
    assert struct.unpack_from("<HIBBBB", fadt, 46) == (9, 0, 0, 0, 0, 0)
    assert struct.unpack_from("<8I", fadt, 56) == (0x600, 0, 0x604, 0, 0, 0, 0, 0)
    assert tuple(fadt[88:94]) == (4, 2, 0, 0, 0, 0)
    flags = struct.unpack_from("<I", fadt, 112)[0]
    assert flags & 1 << 10  # RESET_REG_SUP
    assert not flags & 1 << 4  # the power button is fixed hardware
    assert not flags & 1 << 20  # not hardware-reduced
    assert fadt[116:129] == bytes((1, 8, 0, 1)) + struct.pack("<Q", 0xCF9) + b"\x06"
    # X_PM1a blocks repeat the 32-bit ones; ACPICA complains when they differ.
    assert struct.unpack_from("<BBBBQ", fadt, 148) == (1, 32, 0, 2, 0x600)
    assert struct.unpack_from("<BBBBQ", fadt, 172) == (1, 16, 0, 2, 0x604)


@pytest.mark.parametrize("serial", [True, False])
def test_boot_architecture(serial: bool) -> None:
    fadt = Parsed(acpi.build(1, serial=serial)).by_name["FACP"]
    (flags,) = struct.unpack_from("<H", fadt, 109)
    assert flags == (1 << 2 | 1 << 5 | serial)


@pytest.mark.parametrize("cpus", [1, 2, 255, 256, 300])
def test_madt_names_every_processor_once(cpus: int) -> None:
    entries = Parsed(acpi.build(cpus)).madt()
    ids = [struct.unpack("<BBBBI", entry)[3] for entry in entries[0]]
    ids += [struct.unpack("<BBHIII", entry)[3] for entry in entries.get(9, [])]
    assert ids == list(range(cpus))
    assert all(apic < 255 for apic in ids[: len(entries[0])])
    assert (10 in entries) == (cpus > 255)


def test_madt_wiring() -> None:
    parsed = Parsed(acpi.build(1))
    entries = parsed.madt()
    assert struct.unpack_from("<II", parsed.by_name["APIC"], 36) == (0xFEE00000, 1)
    assert struct.unpack("<BBBBII", entries[1][0]) == (1, 12, 0, 0, 0xFEC00000, 0)
    # The SCI: level (11), active high (01). Nothing for the timer: KVM's routing is one to one.
    assert [struct.unpack("<BBBBIH", entry)[3:] for entry in entries[2]] == [(9, 9, 0xD)]
    assert entries[4] == [bytes((4, 6, 0xFF, 0, 0, 1))]


def test_madt_timer_on_pin_2_and_no_pic() -> None:
    parsed = Parsed(acpi.build(1, timer_pin=2, pic=False))
    overrides = [struct.unpack("<BBBBIH", entry)[3:] for entry in parsed.madt()[2]]
    assert overrides == [(0, 2, 0), (9, 9, 0xD)]
    assert struct.unpack_from("<I", parsed.by_name["APIC"], 40) == (0,)


@pytest.mark.parametrize(
    ("cpus", "virtio", "message"),
    [
        (0, [], "at least one"),
        (100000, [], "room"),
        (1, [(0xD0000000, 16)] * 0x1001, "at most"),
        (1, [(1 << 32, 16)], "4 GiB"),
        (1, [(0xD0000000, -1)], "GSI"),
    ],
)
def test_bad_input(cpus, virtio, message) -> None:
    with pytest.raises(ConfigError, match=message):
        acpi.build(cpus, virtio)


def test_bad_address() -> None:
    with pytest.raises(ConfigError, match="64"):
        acpi.build(1, address=0xE0010)


def disassemble(tmp_path, name: str, table: bytes) -> str:
    (tmp_path / f"{name}.dat").write_bytes(table)
    run = subprocess.run(
        ["iasl", "-d", f"{name}.dat"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    output = run.stdout + run.stderr
    assert run.returncode == 0, output
    assert "rror" not in output, output
    assert "arning" not in output, output
    return (tmp_path / f"{name}.dsl").read_text()


@pytest.mark.parametrize("name", ["FACP", "APIC", "XSDT"])
def test_iasl_reads_the_data_tables(tmp_path, name: str) -> None:
    source = disassemble(tmp_path, name, Parsed(acpi.build(300, VIRTIO)).by_name[name])
    assert "Invalid" not in source
    assert "Incorrect" not in source
    if name == "FACP":
        assert re.search(r"Hardware Reduced \(V5\) : 0", source)
        assert re.search(r"SCI Interrupt : 0009", source)


def test_iasl_reads_and_compiles_the_dsdt(tmp_path) -> None:
    source = disassemble(tmp_path, "DSDT", Parsed(acpi.build(2, VIRTIO)).by_name["DSDT"])
    assert source.count('"LNRO0005"') == 3
    assert re.search(r"Name \(_UID, 0x02\)", source)
    assert 'EisaId ("PNP0501")' in source
    assert '"QEMU0001"' in source
    assert re.search(r"Name \(_STA, 0x0F\)", source)
    assert re.search(r"Name \(\\?_S5, Package \(0x04\)", source)
    compiled = subprocess.run(
        ["iasl", "-p", "again", "DSDT.dsl"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert compiled.returncode == 0, compiled.stdout + compiled.stderr
    assert "0 Errors" in compiled.stdout + compiled.stderr


@pytest.mark.parametrize(
    "resources",
    [
        "Memory32Fixed (ReadWrite, 0xD0001000, 0x200)"
        "Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive) {17}",
        "IO (Decode16, 0x3F8, 0x3F8, 1, 8) IRQNoFlags () {4}",
        "IO (Decode16, 0x505, 0x505, 1, 1)",
    ],
    ids=["virtio", "serial", "pvpanic"],
)
def test_resources_are_what_iasl_makes_of_them(tmp_path, resources: str) -> None:
    """Not read back, because the iasl of 2026 shows resources as bytes, those of its own as well."""
    block = 'DefinitionBlock ("", "DSDT", 2, "PYVMM", "TEST", 1)'
    (tmp_path / "x.asl").write_text(
        block + "{ Name (_CRS, ResourceTemplate () {" + resources + "}) }"
    )
    run = subprocess.run(
        ["iasl", "x.asl"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    name = (tmp_path / "x.aml").read_bytes()[HEADER_SIZE:]
    assert name.startswith(b"\x08_CRS")
    assert name in Parsed(acpi.build(2, VIRTIO)).by_name["DSDT"]


def test_iasl_reads_a_bare_dsdt(tmp_path) -> None:
    tables = acpi.build(1, serial=False, pvpanic=False)
    source = disassemble(tmp_path, "DSDT", Parsed(tables).by_name["DSDT"])
    assert "Device" not in source
