# SPDX-License-Identifier: Apache-2.0
"""The ACPI tables of the machine: RSDP, XSDT, FADT, FACS, MADT and a DSDT that names its devices.

They are built as one blob for 0xE0000, inside the area that the memory map reserves and that an
operating system without another hint scans for the RSDP (ACPI 6.3, 5.2.5.1). The machine has fixed
hardware in the PC manner: PM1 registers, an SCI, a reset port; always in ACPI mode, so there is no
SMI command port.
"""

from __future__ import annotations

import struct

from pyvmm.boot import aml
from pyvmm.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NamedTuple

    from pyvmm.machine.memory import GuestMemory
else:
    from pyvmm.record import NamedTuple

#: Where the blob goes, and the first address after the room it has.
TABLES_BASE = 0xE0000
TABLES_END = 0x100000

PM1A_EVENT_PORT = 0x600
PM1A_CONTROL_PORT = 0x604
SCI_GSI = 9
RESET_PORT = 0xCF9
RESET_VALUE = 6
#: The value that the guest writes to SLP_TYP of PM1 control, with SLP_EN, to power off.
SLEEP_TYPE_S5 = 5

IOAPIC_ADDRESS = 0xFEC00000
LAPIC_ADDRESS = 0xFEE00000
#: Bytes of registers that a virtio-mmio device announces.
VIRTIO_MMIO_SIZE = 0x200

SERIAL_PORT = 0x3F8
SERIAL_IRQ = 4
PVPANIC_PORT = 0x505

_HEADER_SIZE = 36
_RSDP_SIZE = 36
_FACS_SIZE = 64
_FADT_SIZE = 276
_GAS_NONE = bytes(12)


class Tables(NamedTuple):
    """``blob`` belongs at guest-physical ``address``; the root pointer lies at ``rsdp``."""

    blob: bytes
    address: int
    rsdp: int


def build(
    cpus: int,
    virtio: Sequence[tuple[int, int]] = (),
    *,
    serial: bool = True,
    pvpanic: bool = True,
    pic: bool = True,
    timer_pin: int = 0,
    address: int = TABLES_BASE,
) -> Tables:
    """Build the tables for ``cpus`` processors whose APIC ids are 0 to ``cpus`` - 1.

    ``virtio`` holds (base address, GSI) of each virtio-mmio device. ``serial`` and ``pvpanic`` say
    which of those devices exist, ``pic`` whether the machine has the two 8259s, ``timer_pin`` which
    I/O APIC pin the PIT drives: 0 under KVM's default routing, 2 on a PC. ``address`` is a multiple
    of 64 (the FACS needs it). Raise `ConfigError` when something cannot be expressed or does not
    fit.
    """
    if cpus < 1:
        raise ConfigError(f"a machine needs at least one processor, not {cpus}")
    if address % 64:
        raise ConfigError(f"the ACPI tables cannot lie at {address:#x}: not a multiple of 64")
    blob = bytearray(_RSDP_SIZE)

    def append(table: bytes, alignment: int = 16) -> int:
        blob.extend(bytes(-len(blob) % alignment))
        blob.extend(table)
        return address + len(blob) - len(table)

    facs = append(_facs(), 64)
    dsdt = append(_table(b"DSDT", 2, _dsdt(virtio, serial, pvpanic)))
    fadt = append(_table(b"FACP", 6, _fadt(facs, dsdt, serial)))
    madt = append(_table(b"APIC", 5, _madt(cpus, pic, timer_pin)))
    xsdt = append(_table(b"XSDT", 1, struct.pack("<2Q", fadt, madt)))
    if len(blob) > TABLES_END - TABLES_BASE:
        raise ConfigError(
            f"the ACPI tables of {cpus} processors and {len(virtio)} virtio devices take "
            f"{len(blob)} bytes, and there is room for {TABLES_END - TABLES_BASE}; use fewer"
        )
    blob[:_RSDP_SIZE] = _rsdp(xsdt)
    return Tables(bytes(blob), address, address)


def install(
    memory: GuestMemory,
    cpus: int,
    virtio: Sequence[tuple[int, int]] = (),
    *,
    serial: bool = True,
    pvpanic: bool = True,
    pic: bool = True,
    timer_pin: int = 0,
) -> int:
    """Build the tables, write them to guest memory, and return the guest-physical address of the
    RSDP.

    The parameters are those of `build`, and so is what is raised.
    """
    tables = build(cpus, virtio, serial=serial, pvpanic=pvpanic, pic=pic, timer_pin=timer_pin)
    memory.write(tables.address, tables.blob)
    return tables.rsdp


def _checksum(data: bytes | bytearray) -> int:
    return -sum(data) & 0xFF


def _table(signature: bytes, revision: int, body: bytes) -> bytes:
    """Return a system description table: the common header (5.2.6) with its checksum, and ``body``."""
    table = bytearray(
        struct.pack(
            "<4sIBB6s8sI4sI",
            signature,
            _HEADER_SIZE + len(body),
            revision,
            0,
            b"PYVMM ",
            b"PYVMM   ",
            1,
            b"PYVM",
            1,
        )
    )
    table += body
    table[9] = _checksum(table)
    return bytes(table)


def _rsdp(xsdt: int) -> bytes:
    """Return the root pointer (5.2.5.3); its first checksum covers the 20 bytes that ACPI 1.0 knew."""
    rsdp = bytearray(
        struct.pack("<8sB6sBIIQB3x", b"RSD PTR ", 0, b"PYVMM ", 2, 0, _RSDP_SIZE, xsdt, 0)
    )
    rsdp[8] = _checksum(rsdp[:20])
    rsdp[32] = _checksum(rsdp)
    return bytes(rsdp)


def _facs() -> bytes:
    """Return the firmware control structure (5.2.10), version 2; it has no checksum."""
    return struct.pack("<4sI", b"FACS", _FACS_SIZE) + bytes(24) + b"\x02" + bytes(31)


def _io_register(port: int, bits: int, access: int) -> bytes:
    """Return a generic address (5.2.3.2) in I/O space; ``access`` is 1 for bytes, 2 for words."""
    return struct.pack("<BBBBQ", 1, bits, 0, access, port)


def _fadt(facs: int, dsdt: int, serial: bool) -> bytes:
    """Return the body of the fixed description table (5.2.9), revision 6.3."""
    # IA-PC boot architecture: there is no VGA (bit 2) and no CMOS clock (bit 5), and the clear bit
    # 1 says no 8042; bit 0 says that there are devices on an ISA bus.
    boot_arch = 1 << 2 | 1 << 5 | int(serial)
    # WBINVD (0) and C1 (2) work; no sleep button (5) and no fixed RTC wake (6); the reset register
    # works (10); no display or keyboard (12). Bit 4 is clear: the power button is fixed hardware.
    flags = 1 << 0 | 1 << 2 | 1 << 5 | 1 << 6 | 1 << 10 | 1 << 12
    body = bytearray(_FADT_SIZE - _HEADER_SIZE)

    def put(layout: str, offset: int, *values: int | bytes) -> None:
        struct.pack_into(layout, body, offset - _HEADER_SIZE, *values)

    put("<II", 36, facs, dsdt)
    put("<H", 46, SCI_GSI)
    # SMI_CMD (48) stays 0: the machine is always in ACPI mode.
    put("<I", 56, PM1A_EVENT_PORT)
    put("<I", 64, PM1A_CONTROL_PORT)
    put("<BB", 88, 4, 2)
    # Latencies above 100 and 1000 us say that C2 and C3 do not exist.
    put("<HH", 96, 0x0FFF, 0x0FFF)
    put("<H", 109, boot_arch)
    put("<I", 112, flags)
    put("<12sB", 116, _io_register(RESET_PORT, 8, 1), RESET_VALUE)
    put("<B", 131, 3)
    # The FACS is below 4 GiB, so only the 32-bit field names it; the DSDT may stand in both.
    put("<Q", 140, dsdt)
    put("<12s", 148, _io_register(PM1A_EVENT_PORT, 32, 2))
    put("<12s", 172, _io_register(PM1A_CONTROL_PORT, 16, 2))
    put("<8s", 268, b"PYVMM\0\0\0")
    return bytes(body)


def _madt(cpus: int, pic: bool, timer_pin: int) -> bytes:
    """Return the body of the interrupt controller table (5.2.12)."""
    parts = [struct.pack("<II", LAPIC_ADDRESS, int(pic))]
    # 255 is the broadcast id of the xAPIC; from there on only the x2APIC entry can name a
    # processor.
    for apic in range(min(cpus, 255)):
        parts.append(struct.pack("<BBBBI", 0, 8, apic, apic, 1))
    for apic in range(255, cpus):
        parts.append(struct.pack("<BBHIII", 9, 16, 0, apic, 1, apic))
    parts.append(struct.pack("<BBBBII", 1, 12, 0, 0, IOAPIC_ADDRESS, 0))
    if timer_pin:
        parts.append(struct.pack("<BBBBIH", 2, 10, 0, 0, timer_pin, 0))
    # The SCI is level triggered and active high; without a word it would be an ISA interrupt, edge.
    parts.append(struct.pack("<BBBBIH", 2, 10, 0, SCI_GSI, SCI_GSI, 0b1101))
    # LINT1 of every processor is its NMI.
    parts.append(struct.pack("<BBBHB", 4, 6, 0xFF, 0, 1))
    if cpus > 255:
        parts.append(struct.pack("<BBHIB3x", 10, 12, 0, 0xFFFFFFFF, 1))
    return b"".join(parts)


def _dsdt(virtio: Sequence[tuple[int, int]], serial: bool, pvpanic: bool) -> bytes:
    """Return the body of the differentiated table: the S5 sleep type and the devices on the system
    bus.
    """
    if len(virtio) > 0x1000:
        raise ConfigError(f"{len(virtio)} virtio devices have no names; at most {0x1000}")
    sleep = aml.integer(SLEEP_TYPE_S5)
    zero = aml.integer(0)
    devices = [_virtio(index, base, gsi) for index, (base, gsi) in enumerate(virtio)]
    if serial:
        devices.append(_serial())
    if pvpanic:
        devices.append(_pvpanic())
    return aml.name("\\_S5", aml.package(sleep, sleep, zero, zero)) + aml.scope("\\_SB", *devices)


def _virtio(index: int, base: int, gsi: int) -> bytes:
    return aml.device(
        f"V{index:03X}",
        aml.name("_HID", aml.string("LNRO0005")),
        aml.name("_UID", aml.integer(index)),
        aml.name(
            "_CRS",
            aml.resource_template(aml.memory32(base, VIRTIO_MMIO_SIZE), aml.interrupt(gsi)),
        ),
    )


def _serial() -> bytes:
    return aml.device(
        "COM1",
        aml.name("_HID", aml.eisa_id("PNP0501")),
        aml.name("_UID", aml.integer(1)),
        aml.name("_CRS", aml.resource_template(aml.io(SERIAL_PORT, 8), aml.irq(SERIAL_IRQ))),
    )


def _pvpanic() -> bytes:
    return aml.device(
        "PEVT",
        aml.name("_HID", aml.string("QEMU0001")),
        aml.name("_STA", aml.integer(0x0F)),
        aml.name("_CRS", aml.resource_template(aml.io(PVPANIC_PORT, 1))),
    )
