# SPDX-License-Identifier: Apache-2.0
"""The lab with VT-x as far as it needs no emulator: what is packed, the boot disk, the settings, what is refused."""

from __future__ import annotations

import os
import py_compile
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pyvmm.errors import ConfigError, HostError, ImageError
from pyvmm.lab import Lab, bochs, bootdisk, outer, outerkernel, parcel, vmx
from pyvmm.lab.parcel import Parcel
from tests.support.fake_apt import FakeApt
from tests.support.images import Load, pvh_note, vmlinux

MIB = 1 << 20


def unpacked(archive: bytes, into: Path) -> Path:
    """The tree of an archive, under the name that it has in the lab."""
    into.mkdir()
    subprocess.run(
        ["cpio", "-idm", "--quiet"], cwd=into, input=archive, check=True, capture_output=True
    )
    return into / parcel.PLACE


# -- what is packed


def test_a_folder_comes_with_all_below_it(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    (folder / ".git").mkdir()
    (folder / ".git/config").write_text("not this")
    (folder / "deep/script").write_text("#!/bin/sh\n")
    (folder / "deep/script").chmod(0o755)
    made = Parcel()
    made.take(folder)
    made.take(folder / "deep/script")  # a second time nothing happens
    root = unpacked(made.finish(), tmp_path / "out")
    here = root / str(folder / "deep/script").lstrip("/")
    assert here.read_text() == "#!/bin/sh\n"
    assert os.access(here, os.X_OK)
    assert not (root / str(folder / ".git").lstrip("/")).exists()


def test_patterns_leave_names_out(tmp_path: Path) -> None:
    for name in ("lib/test/one.py", "lib/config-x/two.py", "lib/_testcapi.so", "lib/three.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    made = Parcel()
    made.take(tmp_path / "lib", parcel.NOT_OF_LIBRARY)
    inside = unpacked(made.finish(), tmp_path / "out") / str(tmp_path / "lib").lstrip("/")
    assert [path.name for path in inside.iterdir()] == ["three.txt"]


def test_links_on_the_way_come_too(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/file").write_text("content")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "absolute").symlink_to(tmp_path / "link")
    (tmp_path / "dangling").symlink_to("nowhere")
    made = Parcel()
    made.take(tmp_path / "absolute/file")
    made.take(tmp_path / "dangling")
    root = unpacked(made.finish(), tmp_path / "out")
    inside = root / str(tmp_path).lstrip("/")
    assert (inside / "absolute").readlink() == tmp_path / "link"
    assert (inside / "link").readlink() == Path("real")
    assert (inside / "link/file").read_text() == "content"


def test_what_is_put_goes_where_a_link_leads(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    made = Parcel()
    made.put(f"{tmp_path}/link/program", b"one", 0o755)
    made.link(f"{tmp_path}/link/program", "never")  # something is there
    made.link(f"{tmp_path}/link/other", "program")
    root = unpacked(made.finish(), tmp_path / "out")
    inside = root / str(tmp_path).lstrip("/")
    assert (inside / "real/program").read_bytes() == b"one"
    assert (inside / "link/other").read_bytes() == b"one"


def test_libraries_follow_their_programs(tmp_path: Path) -> None:
    made = Parcel()
    made.take(sys.executable)
    made.libraries()
    root = unpacked(made.finish(), tmp_path / "out")
    names = {path.name for path in root.rglob("*.so*")}
    assert "libc.so.6" in names
    assert any(name.startswith("ld-linux") for name in names)


def test_modules_come_compiled(tmp_path: Path) -> None:
    """Whatever the time of the source is in the lab, Python takes what was compiled here."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code/one.py").write_text("print(__cached__)\nVALUE = 1\n")
    (tmp_path / "code/broken.py").write_text("def\n")
    made = Parcel()
    made.take(tmp_path / "code")
    root = unpacked(made.finish(), tmp_path / "out")
    folder = root / str(tmp_path / "code").lstrip("/")
    os.utime(folder / "one.py", (12345, 12345))
    (folder / "one.py").write_text("VALUE = 2\n")
    done = subprocess.run(
        [sys.executable, "-c", "import one; print(one.VALUE)"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "1"
    assert [path.name.split(".")[0] for path in (folder / "__pycache__").iterdir()] == ["one"]


def test_what_python_keeps_is_used_while_it_is_up_to_date(tmp_path: Path) -> None:
    source = tmp_path / "one.py"
    source.write_text("VALUE = 1\n")
    kept = Path(py_compile.compile(str(source)))
    text, status = source.read_bytes(), source.stat()
    assert parcel.compiled(str(source), text, str(kept), status)[16:] == kept.read_bytes()[16:]
    kept.write_bytes(kept.read_bytes()[:16] + b"rubbish")
    assert parcel.compiled(str(source), text, str(kept), status).endswith(b"rubbish")
    os.utime(source, (12345, 12345))
    assert not parcel.compiled(str(source), text, str(kept), source.stat()).endswith(b"rubbish")


def test_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(bytes(2 * MIB))
    monkeypatch.setattr(parcel, "LARGEST", MIB)
    made = Parcel()
    made.take(tmp_path / "file")
    with pytest.raises(ConfigError, match="2 MiB of files"):
        made.finish()


def test_something_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="/no/such/file"):
        parcel.parcel(str(tmp_path), ["/no/such/file"])


def test_required_distributions_come_too() -> None:
    names = {Path(path).name for path in parcel.distribution_files(["pytest"])}
    assert "main.py" in names
    assert any("pluggy" in path for path in parcel.distribution_files(["pytest"]))
    assert list(parcel.distribution_files(["no-such-distribution"])) == []


# -- what is booted

KERNEL = bootdisk.Flat(b"k" * 1000, 0x1000000, 0x1000040)


def test_the_disk_is_what_the_rom_reads() -> None:
    boot = bootdisk.boot(KERNEL, b"\x55\xaa\x02code", "words", [b"i" * 600, b"j" * 100], 512 * MIB)
    assert len(boot.rom) == bootdisk.ROM_SIZE
    assert sum(boot.rom) % 256 == 0
    disk = b"".join(boot.parts)
    assert len(disk) % bootdisk.CYLINDER == 0
    numbers = [int.from_bytes(boot.rom[7 + at : 11 + at], "little") for at in range(0, 48, 4)]
    loads = [tuple(numbers[at : at + 3]) for at in range(0, 12, 3)]
    assert loads == [
        (2, 0, 0x1000000),
        (2, 2, bootdisk.INITRAMFS),
        (8, 4, bootdisk.PARAMETERS),
        (0, 0, 0x1000040),
    ]
    assert disk[:1000] == KERNEL.image
    assert disk[1024:1724] == b"i" * 600 + b"j" * 100
    assert disk[2048:6144] == bootdisk.parameters("words", 700, 512 * MIB)


def test_the_parameters_are_those_of_pvh() -> None:
    page = bootdisk.parameters("console=x", 700, 512 * MIB)
    numbers = [int.from_bytes(page[at : at + 8], "little") for at in range(16, 48, 8)]
    base = bootdisk.PARAMETERS
    assert page[:4] == bytes.fromhex("78c56e33")
    assert numbers == [base + bootdisk.MODULE, base + bootdisk.WORDS, 0, base + bootdisk.MAP]
    assert page[bootdisk.WORDS :].startswith(b"console=x\0")
    module = [int.from_bytes(page[at : at + 8], "little") for at in (0x180, 0x188)]
    assert module == [bootdisk.INITRAMFS, 700]
    ram = [int.from_bytes(page[at : at + 8], "little") for at in (0x80 + 72, 0x80 + 80)]
    assert ram == [MIB, 510 * MIB]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="do not fit"):
        bootdisk.boot(KERNEL, b"", "", [bytes(100 * MIB)], 128 * MIB)
    with pytest.raises(ConfigError, match="too long"):
        bootdisk.parameters("x" * 4096, 0, 512 * MIB)


def test_the_rom_is_assembled(tmp_path: Path) -> None:
    code = bootdisk.code(tmp_path)
    assert code.startswith(bytes([0x55, 0xAA, bootdisk.ROM_SIZE // 512]))
    assert list(tmp_path.iterdir()) == []


def test_a_kernel_is_laid_out_as_it_says(tmp_path: Path) -> None:
    loads = [Load(0x1000000, b"text" * 100, 0x2000), Load(0x1002000, b"data", 0x1000)]
    path = tmp_path / "vmlinux"
    path.write_bytes(vmlinux(loads, pvh_note(0x1000010)))
    kernel = bootdisk.flat(path)
    assert (kernel.base, kernel.entry, len(kernel.image)) == (0x1000000, 0x1000010, 0x2004)
    assert kernel.image.startswith(b"text")
    assert kernel.image.endswith(b"data")


def test_what_is_no_kernel_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(bytes(1000))
    with pytest.raises(ImageError, match="not an ELF file"):
        bootdisk.flat(path)


def test_the_outer_kernel_is_named_by_what_it_is_made_of(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = outerkernel.kernel.Plan("6.12", outerkernel.source.Source(Path("/s"), "x"), [], "")
    monkeypatch.setattr(outerkernel.source, "locate", lambda linux: plan.source)
    real = outerkernel.plan()
    assert "CONFIG_KVM_INTEL=y" in real.config
    assert [patch.name.rpartition("/")[2] for patch in real.patches] == ["outer.patch"]
    assert real.key() != plan.key()


# -- Bochs

BOCHS = bochs.Bochs((Path("/"),))


def test_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bochs.Bochs, "file", lambda self, name: Path("/t") / name)
    text = bochs.settings(BOCHS, memory=512, cpus=1, rom="/r", disk="/d", ports=(1, 2))
    lines = dict(line.split(": ", 1) for line in text.splitlines())
    assert lines["memory"] == "guest=512, host=512"
    assert lines["optromimage1"] == f"file=/r, address={bootdisk.ROM_ADDRESS:#x}"
    assert lines["com1"].endswith("dev=127.0.0.1:1")
    assert lines["com2"].endswith("dev=127.0.0.1:2")
    assert f"ips={bochs.RATE}" in lines["cpu"]
    assert f"tsc_early_khz={bochs.RATE // 1000} " in vmx.KERNEL_WORDS


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="no usr/bin/bochs-bin"):
        bochs.Bochs((tmp_path / "bochs",)).file(bochs.PROGRAM)


def test_where_apt_does_not_have_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apt = FakeApt(tmp_path / "apt", tmp_path / "cache")
    monkeypatch.setenv("PATH", f"{apt.bin}:{os.environ['PATH']}")
    monkeypatch.setenv("PYVMM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(bochs, "is_good", lambda found: False)
    with pytest.raises(HostError, match="no package 'bochs'"):
        bochs.find()


def test_what_is_missing_is_fetched_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "Inst libgtk-3-0 (3.24 Debian [amd64])\nInst bochs (2.7)\nConf bochs (2.7)\n"
    monkeypatch.setattr(bochs.tools, "run", lambda command, what: said)
    assert bochs.needed() == ["bochs", "bochs-term", "bochsbios", "libgtk-3-0", "vgabios"]


def test_connections_are_this_users(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()),
    ):
        line, _ = listener.accept()
        with line:
            assert bochs.is_ours(line)
            monkeypatch.setattr(os, "getuid", lambda: 12345)
            assert not bochs.is_ours(line)


def test_last_words_of_an_emulator() -> None:
    drawn = (
        b"\x1b[2J\x1b[1;1HBIOS\x1b(B\r\n====\r\nBochs is exiting with the following message:\r\n"
    )
    drawn += b"[CPU0  ] exception(): 3rd (13) exception with no resolution\r\n====\r\n"
    assert outer.last_words(drawn) == [
        "Bochs is exiting with the following message:",
        "[CPU0  ] exception(): 3rd (13) exception with no resolution",
    ]
    assert outer.last_words(b"\x1b[2Jonly a picture") == []


# -- what is refused


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"cpus": 2}, "one CPU"),
        ({"cpus": 0}, "one CPU"),
        ({"memory": "8G"}, "at most 2048 MiB"),
        ({"memory": "128M"}, "at least 512M"),
        ({"icount": True}, "counts instructions"),
        ({"share": "/usr"}, "brings no files back"),
        ({"arch": "arm"}, "not 'arm'"),
        ({"arch": "svm", "pack": "/usr"}, "sees all files"),
    ],
)
def test_refused(options: dict[str, object], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYVMM_LAB", raising=False)
    with pytest.raises(ConfigError, match=said):
        Lab(**{"arch": "vmx", **options})  # type: ignore[arg-type]


def test_usual_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYVMM_LAB", raising=False)
    made = Lab(arch="vmx")
    assert (made.cpus, made.memory, made.shares) == (1, 2048, [])
    made = Lab()
    assert (made.cpus, made.memory) == (2, 4096)
