# SPDX-License-Identifier: Apache-2.0
"""What lies under drgn: memory of another process, the note of a kernel, the choice of a vmlinux; all made up here."""

from __future__ import annotations

import argparse
import io
import os
import struct
import subprocess
import sys
from pathlib import Path

import drgn
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.cli import drgn as command
from pyvmm.drgn import make_program, session, vmcoreinfo, vmlinux
from pyvmm.drgn.physical import RemoteMemory
from pyvmm.drgn.program import reader
from pyvmm.errors import (
    ConfigError,
    GuestDataError,
    GuestMemoryError,
    HostError,
    ImageError,
    StateError,
    SymcallError,
)
from pyvmm.launch import status
from pyvmm.machine.memory import Region
from pyvmm.symbiotic.facts import Facts

MIB = 1 << 20
KERNEL_MAP = vmcoreinfo.KERNEL_MAP
#: Of the made-up kernel: KASLR offset, guest-physical address of its page table and that table's virtual address.
KASLR, ROOT, NOTE = 0x1A00000, 0x3000, 0x10000
PHYS_BASE = 0x1000 - KASLR & (1 << 64) - 1
TABLE = KERNEL_MAP + ROOT - PHYS_BASE & (1 << 64) - 1
BUILD_ID = "00112233445566778899aabbccddeeff00112233"


class Memory:
    """Two mebibytes of RAM at 0 and one at 4 GiB."""

    ram = (Region(0, 2 * MIB), Region(4 << 30, MIB))

    def __init__(self) -> None:
        self.parts = {region.gpa: bytearray(region.size) for region in self.ram}

    def _at(self, gpa: int, length: int) -> tuple[bytearray, slice]:
        for start, data in self.parts.items():
            if start <= gpa and gpa + length <= start + len(data):
                return data, slice(gpa - start, gpa - start + length)
        raise GuestMemoryError(f"{gpa:#x}")

    def read(self, gpa: int, length: int) -> bytes:
        data, where = self._at(gpa, length)
        return bytes(data[where])

    def write(self, gpa: int, content: bytes) -> None:
        data, where = self._at(gpa, len(content))
        data[where] = content


def text(**changes: str | None) -> bytes:
    """The text of a note; None leaves a line out."""
    fields: dict[str, str | None] = {
        "OSRELEASE": "6.12.117-made-up",
        "BUILD-ID": BUILD_ID,
        "PAGESIZE": "4096",
        "SYMBOL(swapper_pg_dir)": f"{TABLE:x}",
        "KERNELOFFSET": f"{KASLR:x}",
        "NUMBER(phys_base)": str(PHYS_BASE - (1 << 64) if PHYS_BASE >> 63 else PHYS_BASE),
        "NUMBER(pgtable_l5_enabled)": "0",
    }
    fields.update(changes)
    return "".join(f"{k}={v}\n" for k, v in fields.items() if v is not None).encode()


def note(content: bytes) -> bytes:
    return struct.pack("<III", 11, len(content), 0) + b"VMCOREINFO\0\0" + content


def guest(content: bytes | None = None, where: int = NOTE) -> Memory:
    """Memory with page tables that map themselves, and with a note."""
    memory = Memory()
    table = ROOT
    for level, shift in enumerate((39, 30, 21, 12)):
        target = ROOT if shift == 12 else 0x4000 + level * 0x1000
        memory.write(table + (TABLE >> shift & 511) * 8, struct.pack("<Q", target | 3))
        table = target
    memory.write(where, note(text() if content is None else content))
    return memory


def facts(**changes: object) -> Facts:
    found = Facts(
        release="6.12.117-made-up",
        version="#1",
        out_of_tree=False,
        kaslr_offset=KASLR,
        phys_base=PHYS_BASE,
        page_offset=None,
        vmcoreinfo_gpa=NOTE,
        vmcoreinfo_size=4096,
        kernel_pgd_gpa=ROOT,
        page_table_levels=4,
        percpu_base=None,
        cpu=0,
        possible_cpus=1,
    )
    return found._replace(**changes)


# The note.


def test_note_where_the_kernel_says():
    info = vmcoreinfo.of_guest(guest(), facts())
    assert (info.release, info.build_id, info.root_gpa) == ("6.12.117-made-up", BUILD_ID, ROOT)
    assert info.text == text()


def test_text_without_a_note():
    memory = guest()
    memory.write(NOTE, text().ljust(4096, b"\0"))
    assert vmcoreinfo.of_guest(memory, facts()).text == text()


@pytest.mark.parametrize("known", [None, facts(vmcoreinfo_gpa=None)])
def test_note_is_looked_for(known):
    assert vmcoreinfo.of_guest(guest(), known).text == text()


def test_note_in_the_last_page_of_ram():
    assert vmcoreinfo.search(guest(where=(4 << 30) + MIB - 4096)).text == text()


def test_note_that_is_another_kernels_is_passed_over():
    memory = guest(where=0x90000)
    memory.write(0x20000, note(text(**{"NUMBER(phys_base)": "0"})))
    memory.write(0x30000, note(b"VMCOREINFO\0"))
    memory.write(0x40008, note(text(OSRELEASE="not at a page")))
    assert vmcoreinfo.search(memory).text == text()


def test_no_note():
    with pytest.raises(GuestDataError, match="CONFIG_VMCORE_INFO"):
        vmcoreinfo.search(Memory())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vmcoreinfo_size": 0}, "0 bytes"),
        ({"vmcoreinfo_size": 1 << 20}, "1048576 bytes"),
        ({"vmcoreinfo_gpa": 3 << 30}, "0xc0000000"),
        ({"vmcoreinfo_gpa": (1 << 64) - 8}, "0xfffffffffffffff8"),
        ({"vmcoreinfo_gpa": 0x50000}, "names no kernel release"),
        ({"kaslr_offset": 0}, "contradicts itself: KASLR offset"),
        ({"kernel_pgd_gpa": 0x8000}, "contradicts itself: page table"),
        ({"release": "5.0"}, "contradicts itself: release"),
    ],
)
def test_facts_that_cannot_be(changes, message):
    with pytest.raises(GuestDataError, match=message):
        vmcoreinfo.of_guest(guest(), facts(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"OSRELEASE": None}, "names no kernel release"),
        ({"SYMBOL(swapper_pg_dir)": None}, "where the kernel's page table is"),
        ({"SYMBOL(swapper_pg_dir)": "no number"}, "where the kernel's page table is"),
        ({"NUMBER(phys_base)": None}, "where the kernel's page table is"),
        ({"NUMBER(phys_base)": "0"}, "not the kernel's: the PML4 entry"),
        ({"SYMBOL(swapper_pg_dir)": f"{TABLE + 0x1000:x}"}, "not the kernel's"),
        ({"SYMBOL(swapper_pg_dir)": f"{1 << 63:x}"}, "not canonical"),
        ({"NUMBER(pgtable_l5_enabled)": "1"}, "not the kernel's: the PML4 entry"),
    ],
)
def test_note_that_cannot_be(changes, message):
    with pytest.raises(GuestDataError, match=message):
        vmcoreinfo.of_guest(guest(text(**changes)), facts())


def test_note_that_maps_to_another_place():
    memory = guest()
    memory.write(0x6000 + (TABLE >> 12 & 511) * 8, struct.pack("<Q", 0x9000 | 3))
    with pytest.raises(GuestDataError, match="they map it to 0x9000"):
        vmcoreinfo.of_guest(memory, facts())


@pytest.mark.parametrize("size", [4073, 1 << 31])
def test_note_that_is_longer_than_its_place(size):
    memory = guest()
    memory.write(NOTE + 4, struct.pack("<I", size))
    with pytest.raises(GuestDataError, match=f"a note of {size} bytes in 4096"):
        vmcoreinfo.of_guest(memory, facts())


def test_what_the_note_says_can_be_printed():
    info = vmcoreinfo.parse(text(OSRELEASE="6.12\x1b[2J"))
    assert info.release == "6.12\\x1b[2J"


@given(st.binary(max_size=200), st.sampled_from([b"", note(b"")[:24], b"OSRELEASE=1\n"]))
def test_noise_is_a_note_or_an_error_of_ours(noise, start):
    try:
        info = vmcoreinfo.parse(start + noise)
    except GuestDataError:
        return
    assert info.release
    _ = info.root_gpa, info.build_id, info.five_levels


# Memory of another process.

HOLD = """
import mmap, sys
import ctypes
m = mmap.mmap(-1, 1 << 21)
m[:4] = b"head"
m[(1 << 21) - 4:] = b"tail"
print(ctypes.addressof(ctypes.c_char.from_buffer(m)), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def other():
    """A process with two mebibytes; yields it, the address and a descriptor of its memory."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    address = int(process.stdout.readline())
    fd = os.open(f"/proc/{process.pid}/mem", os.O_RDONLY)
    yield process, address, fd
    os.close(fd)
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        pipe.close()


def test_memory_of_another_process(other):
    process, address, fd = other
    memory = RemoteMemory(fd, [[4 << 30, MIB, address + MIB], [0, MIB, address]])
    assert memory.ram == (Region(0, MIB), Region(4 << 30, MIB))
    assert memory.read(0, 4) == b"head"
    assert memory.read((4 << 30) + MIB - 4, 4) == b"tail"
    assert memory.read(0, MIB) == b"head".ljust(MIB, b"\0")
    assert memory.read(0, 0) == b""
    for gpa, length in ((MIB, 1), (MIB - 1, 2), (-1, 1), (0, -1), ((4 << 30) + MIB, 1)):
        with pytest.raises(GuestMemoryError):
            memory.read(gpa, length)
    process.kill()
    process.wait()
    with pytest.raises(StateError, match="has ended"):
        memory.read(0, 4)


def test_memory_that_is_not_mapped(other):
    _, _, fd = other
    with pytest.raises(StateError, match="has ended"):
        RemoteMemory(fd, [[0, MIB, 4096]]).read(0, 4)
    with pytest.raises(HostError, match="reading the memory"):
        RemoteMemory(-1, [[0, MIB, 4096]]).read(0, 4)


@pytest.mark.parametrize(
    "regions",
    [
        [[0, 0, 4096]],
        [[0, -1, 4096]],
        [[-4096, 4096, 4096]],
        [[0, 4096, 0]],
        [[0, 8192, 4096], [4096, 4096, 1 << 20]],
        [[(1 << 64) - 1, 2, 4096]],
        [[0, 8192, (1 << 64) - 4096]],
    ],
)
def test_regions_that_cannot_be(regions):
    with pytest.raises(HostError, match="says it has RAM"):
        RemoteMemory(-1, regions)


# vmlinux.


def elf(
    folder: Path,
    name: str = "vmlinux",
    *,
    build_id: str = BUILD_ID,
    types: bool = True,
    banner: str = "6.12.117-made-up",
) -> str:
    """A kernel without code: sections for its build id, its banner and its types."""
    value = bytes.fromhex(build_id)
    notes = struct.pack("<III", 4, 4, 1) + b"GNU\0" + b"abcd"
    notes += struct.pack("<III", 4, len(value), 3) + b"GNU\0" + value
    bodies = {
        "": b"",
        ".notes": notes,
        ".rodata": f"Linux version {banner} (pyvmm@pyvmm)".encode(),
        ".debug_info" if types else ".symtab": bytes(8),
    }
    names = b""
    headers, data = b"", b""
    for section, body in [*bodies.items(), (".shstrtab", b"")]:
        at = len(names)
        names += section.encode() + b"\0"
        body = names if section == ".shstrtab" else body
        kind = {"": 0, ".notes": 7, ".shstrtab": 3}.get(section, 1)
        headers += struct.pack("<IIQQQQIIQQ", at, kind, 0, 0, 64 + len(data), len(body), 0, 0, 1, 0)
        data += body
    count = len(bodies) + 1
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        *(
            b"\x7fELF\x02\x01\x01",
            2,
            62,
            1,
            0,
            0,
            64 + len(data),
            0,
            64,
            0,
            0,
            64,
            count,
            count - 1,
        ),
    )
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header + data + headers)
    return str(path)


@pytest.fixture
def info(monkeypatch, tmp_path):
    monkeypatch.setenv("PYVMM_CACHE", str(tmp_path / "cache"))
    return vmcoreinfo.parse(text())


def test_vmlinux_that_is_given(info, tmp_path):
    path = elf(tmp_path)
    assert vmlinux.find(info, path) == vmlinux.Vmlinux(path, BUILD_ID, True)


def test_vmlinux_of_another_kernel(info, tmp_path):
    path = elf(tmp_path, build_id="ff" * 20)
    with pytest.raises(ImageError, match="not of the running kernel") as caught:
        vmlinux.find(info, path)
    assert "ff" * 20 in str(caught.value)
    assert BUILD_ID in str(caught.value)
    assert status.of_error(caught.value) == status.USAGE


def test_vmlinux_without_types(info, tmp_path):
    with pytest.raises(ImageError, match="no debug information; a kernel of pyvmm guest build"):
        vmlinux.find(info, elf(tmp_path, types=False))


@pytest.mark.parametrize(("banner", "same"), [("6.12.117-made-up", True), ("6.12.117", False)])
def test_vmlinux_without_a_build_id(banner, same, tmp_path):
    old = vmcoreinfo.parse(text(**{"BUILD-ID": None}))
    path = elf(tmp_path, banner=banner)
    if same:
        assert vmlinux.find(old, path).path == path
    else:
        with pytest.raises(ImageError, match="the guest's missing"):
            vmlinux.find(old, path)


def test_vmlinux_of_the_cache(info, tmp_path):
    folder = tmp_path / "cache" / "guest"
    elf(folder, "kernel-1/vmlinux.debug", build_id="ff" * 20)
    wanted = elf(folder, "kernel-2/vmlinux.debug")
    (folder / "kernel-0").mkdir()
    (folder / "kernel-0" / "vmlinux.debug").write_bytes(b"broken")
    assert vmlinux.find(info).path == wanted


def test_vmlinux_of_the_cache_without_types(info, tmp_path):
    elf(tmp_path / "cache/guest/kernel-1", "vmlinux.debug", types=False)
    with pytest.raises(ImageError, match="is the running kernel's but has no debug information"):
        vmlinux.find(info)


def test_no_vmlinux(info):
    with pytest.raises(ConfigError, match=r"no vmlinux of the running kernel 6.12.117-made-up"):
        vmlinux.find(info)


def test_release_is_no_way_out_of_a_folder():
    info = vmcoreinfo.parse(text(OSRELEASE="../../etc", **{"BUILD-ID": "../.."}))
    assert not [place for place in vmlinux.places(info) if ".." in place]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no 64-bit ELF"),
        (b"bzImage".ljust(4096, b"\0"), "no 64-bit ELF"),
        (b"\x7fELF\x02\x01".ljust(64, b"\0"), "no sections"),
    ],
)
def test_file_that_is_no_vmlinux(content, message, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=message):
        vmlinux.examine(str(path))


def test_vmlinux_that_is_not_there(tmp_path):
    with pytest.raises(ImageError, match="No such file"):
        vmlinux.examine(str(tmp_path / "vmlinux"))


@given(st.data())
def test_damaged_vmlinux(tmp_path_factory, data):
    path = Path(elf(tmp_path_factory.mktemp("elf")))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(4, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        vmlinux.examine(str(path))
    except ImageError:
        pass


# drgn itself.


def test_drgn_reads_through_the_page_tables():
    """As far as a kernel without code lets drgn come: to its memory, by physical and by virtual address."""
    memory = guest()
    prog = drgn.Program(drgn.Platform(drgn.Architecture.X86_64), vmcoreinfo=text())
    for region in memory.ram:
        prog.add_memory_segment(region.gpa, region.size, reader(memory), True)
    prog.set_linux_kernel_custom(text(), True)
    memory.write((4 << 30) + 16, b"high")
    assert prog.read((4 << 30) + 16, 4, physical=True) == b"high"
    assert prog.read(TABLE, 4096) == memory.read(ROOT, 4096)
    with pytest.raises(drgn.FaultError):
        prog.read(3 << 30, 4, physical=True)
    with pytest.raises(drgn.FaultError):
        prog.read(TABLE + 4096, 4)


@pytest.mark.parametrize("changes", [{"PAGESIZE": None}, {"PAGESIZE": "many"}, {"BUILD-ID": "zz"}])
def test_note_that_drgn_refuses(changes, info, tmp_path):
    path = elf(tmp_path, build_id="" if "BUILD-ID" in changes else BUILD_ID)
    with pytest.raises(GuestDataError, match="drgn cannot begin with it"):
        make_program(guest(text(**changes)), facts(), path)


def test_drgn_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "drgn", None)
    with pytest.raises(ConfigError, match=r"pip install 'pyvmm-kvm\[drgn\]'"):
        make_program(guest(), facts())


# A session.


@pytest.fixture
def prog():
    prog = drgn.Program(drgn.Platform(drgn.Architecture.X86_64), vmcoreinfo=text())
    memory = guest()
    prog.add_memory_segment(0, 2 * MIB, reader(memory), True)
    prog.set_linux_kernel_custom(text(), True)
    yield prog
    drgn.set_default_prog(None)


@pytest.fixture(autouse=True)
def _process_as_before(monkeypatch):
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(sys, "path", list(sys.path))


def test_code(prog, capsys):
    session.run(
        prog, code="import sys; print(sys.argv, for_each_task.__name__, prog.flags)", words=["a"]
    )
    assert capsys.readouterr().out.startswith(
        "['-c', 'a'] for_each_task ProgramFlags.IS_LINUX_KERNEL"
    )


def test_script(prog, capsys, tmp_path):
    (tmp_path / "beside.py").write_text("NAME = 'beside'\n")
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, beside, drgn\n"
        "assert drgn.get_default_prog() is prog\n"
        "print(sys.argv[1:], __name__, beside.NAME)\n"
        "raise SystemExit(3)\n"
    )
    with pytest.raises(SystemExit) as end:
        session.run(prog, words=[str(script), "a", "--b"])
    assert end.value.code == 3
    assert capsys.readouterr().out == "['a', '--b'] __main__ beside\n"


def test_script_that_is_none(prog):
    with pytest.raises(ConfigError, match="is no file"):
        session.run(prog, words=["print(1)"])


def test_standard_input(prog, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("print(prog.platform.arch.name)"))
    session.run(prog)
    assert capsys.readouterr().out == "X86_64\n"


def test_prompt(prog, monkeypatch):
    """At a terminal drgn's own prompt is opened on the program."""
    seen = []
    monkeypatch.setattr("drgn.cli.run_interactive", seen.append)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    session.run(prog)
    assert seen == [prog]


# The command.


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    args = parser.parse_args(["drgn", *words])
    command.take_options(args)
    return args


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["box"], (None, None, [])),
        (["--vmlinux", "v", "-c", "code", "box"], ("v", "code", [])),
        (["box", "--vmlinux", "v", "-c", "code", "a", "-b"], ("v", "code", ["a", "-b"])),
        (["-c", "code", "box", "--vmlinux", "v"], ("v", "code", [])),
        (["box", "script.py", "-c", "a"], (None, None, ["script.py", "-c", "a"])),
        (["box", "--", "script.py", "-c"], (None, None, ["script.py", "-c"])),
        (["box", "-c", "code", "--", "--vmlinux"], (None, "code", ["--vmlinux"])),
    ],
)
def test_words_of_the_command(words, expected):
    args = parsed(*words)
    assert (args.name, args.vmlinux, args.code, args.words) == ("box", *expected)


@pytest.mark.parametrize("words", [["box", "--vmlinux"], ["box", "-c"]])
def test_option_without_its_value(words):
    with pytest.raises(ConfigError, match="expected one argument"):
        parsed(*words)


class Client:
    """A connection to a VM whose guest answers, or does not."""

    name = "box"

    def __init__(self, answer: dict[str, object] | Exception) -> None:
        self.answer = answer

    def call(self, op: str) -> dict[str, object]:
        assert op == "facts"
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_facts_over_the_socket():
    assert command.facts_of(Client(facts()._asdict())) == facts()


@pytest.mark.parametrize("reason", ["absent", "disabled", "deadline"])
def test_guest_that_cannot_be_asked(reason):
    assert command.facts_of(Client(SymcallError("no", reason))) is None


def test_guest_that_answers_with_an_error():
    with pytest.raises(SymcallError):
        command.facts_of(Client(SymcallError("no", "error", 22)))


def test_vm_of_another_version():
    with pytest.raises(ConfigError, match="another version of pyvmm"):
        command.facts_of(Client({"news": 1}))


def test_command_without_drgn(monkeypatch):
    monkeypatch.setitem(sys.modules, "drgn", None)
    with pytest.raises(ConfigError, match=r"pip install 'pyvmm-kvm\[drgn\]'"):
        command.main(parsed("box"))


def test_command_over_another_process(monkeypatch, capsys, other):
    """From the client's side of the socket to the first line of code, with a stand-in for the program."""
    _, address, fd = other
    seen = {}

    class Connection(Client):
        def memory(self):
            return os.dup(fd), [[0, MIB, address]]

        def __enter__(self):
            return self

        def __exit__(self, *exc):
            pass

    def make(memory, known, path):
        seen["head"], seen["facts"], seen["path"] = memory.read(0, 4), known, path
        return drgn.Program()

    monkeypatch.setattr("pyvmm.control.client.connect", lambda name: Connection(facts()._asdict()))
    monkeypatch.setattr("pyvmm.drgn.make_program", make)
    assert command.main(parsed("box", "--vmlinux", "v", "-c", "print(prog.flags)")) == 0
    assert seen == {"head": b"head", "facts": facts(), "path": "v"}
    assert "ProgramFlags" in capsys.readouterr().out
    drgn.set_default_prog(None)


def test_sections_that_all_have_the_same_notes_and_a_name_without_end(tmp_path, monkeypatch):
    """What is read and copied stays in proportion to the file."""
    count, size = 40_000, 1 << 20
    body = b"n" * size
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01",
        2,
        62,
        1,
        0,
        0,
        64 + size,
        0,
        64,
        0,
        0,
        64,
        count,
        1,
    )
    row = struct.pack("<IIQQQQIIQQ", 0, 7, 0, 0, 64, size, 0, 0, 1, 0)
    path = tmp_path / "vmlinux"
    path.write_bytes(header + body + row * count)
    asked = []
    read_at = vmlinux._read_at
    monkeypatch.setattr(
        vmlinux, "_read_at", lambda file, at, size: asked.append(size) or read_at(file, at, size)
    )
    assert vmlinux.examine(str(path)).build_id == ""
    assert sum(asked) <= 3 * size + 64 * count


def test_memory_full_of_notes_is_given_up(monkeypatch):
    """A guest can write the head of the note into each page."""
    monkeypatch.setattr(vmcoreinfo, "_candidates", lambda memory: iter(range(1 << 30)))
    monkeypatch.setattr(vmcoreinfo, "load", lambda *args: vmcoreinfo.parse(b""))
    with pytest.raises(GuestDataError, match="1024 pages of the guest's memory look like it"):
        vmcoreinfo.search(None)


@pytest.mark.parametrize("piece", [1, 40, 1 << 20])
def test_a_text_is_found_across_the_pieces_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    path = elf(tmp_path)
    monkeypatch.setattr(vmlinux, "PIECE", piece)
    assert vmlinux._holds(path, b"Linux version 6.12.117-made-up ")
    assert not vmlinux._holds(path, b"Linux version 6.12.118-made-up ")
