# SPDX-License-Identifier: Apache-2.0
"""The lab's host side as far as it needs no outer machine: image, command line, folders, streams."""

from __future__ import annotations

import argparse
import io
import lzma
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from pyvmm.cli import lab as command_line
from pyvmm.debian import suites
from pyvmm.errors import ConfigError, StateError
from pyvmm.lab import Lab, LabError, emulator, image, qemu, streams, surroundings
from pyvmm.lab.session import mebibytes
from pyvmm.lab.terminal import RawTerminal
from tests.support.fake_apt import FakeApt

IMAGE = image.Image("/c/vmlinux", "/c/initramfs", ("/modules/kvm_amd.ko",), "/c/modules", "6.1")


# -- image


def bzimage(payload: bytes) -> bytes:
    head = bytearray(0x400)
    head[0x1F1] = 1
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", head, 0x248, 0, len(payload))
    return bytes(head) + payload


@pytest.mark.parametrize("form", ["xz", "zstd"])
def test_the_elf_kernel_comes_out_of_a_bzimage(form: str) -> None:
    kernel = b"\x7fELF" + bytes(range(256)) * 100
    if form == "xz":
        packed = lzma.compress(kernel)
    else:
        packed = subprocess.run(
            ["zstd", "-q"], input=kernel, capture_output=True, check=True
        ).stdout
    made = bzimage(packed + struct.pack("<I", len(kernel)))
    assert image.bootable(made) == kernel


def test_a_bzimage_of_another_form_stays_as_it_is() -> None:
    made = bzimage(b"\x02\x21\x4c\x18lz4")
    assert image.bootable(made) == made


def test_what_is_no_bzimage_is_refused() -> None:
    with pytest.raises(ConfigError, match="not a bzImage"):
        image.bootable(bytes(2000))


def test_signatures_are_taken_off() -> None:
    module = b"\x7fELF module"
    signed = module + b"S" * 30 + bytes(8) + struct.pack(">I", 30) + image.SIGNATURE
    assert image.unsigned(signed) == module
    assert image.unsigned(module) == module
    lying = module + bytes(8) + struct.pack(">I", 1 << 30) + image.SIGNATURE
    assert image.unsigned(lying) == lying


def test_the_digest_follows_the_sources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kernel = image.kernels.KernelFiles("/c/vmlinuz", "/c/modules", "6.1")
    first = image.digest(kernel)
    assert first == image.digest(kernel)
    changed = tmp_path / "init.c"
    changed.write_text("int main(void) { return 1; }")
    monkeypatch.setattr(image, "sources", lambda: [changed])
    assert image.digest(kernel) != first


# -- QEMU's command line


def test_command_line_of_the_emulator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYVMM_QEMU", "true")
    words = qemu.command(IMAGE, cpus=3, memory=512, shares=["/a,b"], port_fd=7, console_fd=8)
    text = " ".join(words)
    assert "-smp 3 -m 512" in text
    assert "tcg,thread=multi" in text
    assert "socket,id=port,fd=7" in text
    assert "id=base,path=/,security_model=none,readonly=on" in text
    assert "id=share0,path=/a,,b,security_model=none,readonly=off" in text


def test_all_cpus_on_one_thread_where_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulator, "find", lambda shadow: emulator.Emulator(f"/q-{shadow}", True))
    for npt in (True, False):
        words = qemu.command(IMAGE, cpus=3, memory=512, shares=[], port_fd=7, console_fd=8, npt=npt)
        assert f"/q-{not npt}" in words
        assert "tcg,thread=single" in words


def test_time_is_what_was_executed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYVMM_QEMU", "true")
    words = qemu.command(IMAGE, cpus=1, memory=512, shares=[], port_fd=7, console_fd=8, icount=True)
    assert "tcg,thread=single" in words
    assert words[words.index("-icount") + 1] == "shift=2,sleep=on"
    assert words[words.index("-append") + 1].endswith(" tsc_early_khz=1000000")
    made = surroundings.environment({}, None, npt=True, icount=True)
    assert made["PYVMM_LAB"] == "svm-icount"


# -- the outer kernel


def test_a_kernel_that_is_there_is_used(apt: FakeApt, monkeypatch: pytest.MonkeyPatch) -> None:
    """6.12 where 6.1 could not be had at first: the network is not asked again for each lab."""
    monkeypatch.delenv("PYVMM_LAB_LINUX", raising=False)
    apt.kernel("linux-image-6.12.5-amd64", "6.12.5-amd64")
    apt.meta("linux-image-amd64", "linux-image-6.12.5-amd64")
    apt.targets("Packages Debian Debian trixie http://mirror/debian/\n")
    Path(suites.OS_RELEASE).write_text("ID=debian\nVERSION_CODENAME=trixie\n")
    apt.fail_updates()
    for _ in range(2):
        assert image.outer_kernel().release == "6.12.5-amd64"
    assert len(apt.updates()) == 2  # one of each suite that could have it


# -- surroundings


def test_environment() -> None:
    given = {"PATH": "/p", "LC_ALL": "C", "PYVMM_CACHE": "/c", "SECRET": "s", "TMPDIR": "/t"}
    made = surroundings.environment(given, {"PATH": "/q", "X": "y"}, npt=False)
    assert made == {
        "PATH": "/q",
        "LC_ALL": "C",
        "PYVMM_CACHE": "/c",
        "PYVMM_LAB": "svm-shadow",
        "PYVMM_LAB_THREADS": "single",
        "X": "y",
    }


def test_environment_tells_the_threads_there_are() -> None:
    given = {"PYVMM_LAB_THREADS": "multi"}
    for threads in ("single", "multi"):
        made = surroundings.environment(given, None, npt=True, threads=threads)
        assert made["PYVMM_LAB_THREADS"] == threads


def test_environment_has_a_path() -> None:
    assert surroundings.environment({}, None, npt=True)["PATH"] == surroundings.DEFAULT_PATH


def test_project_folder(tmp_path: Path) -> None:
    deep = tmp_path / "project" / "a" / "b"
    deep.mkdir(parents=True)
    assert surroundings.project_folder(str(deep)) == str(deep)
    (tmp_path / "project" / ".git").mkdir()
    assert surroundings.project_folder(str(deep)) == str(tmp_path / "project")


def test_writable_folders(tmp_path: Path) -> None:
    for name in ("a", "a/b", "ab", "c"):
        (tmp_path / name).mkdir()
    extra = [str(tmp_path / name) for name in ("a/b", "ab", "ab/", "a")]
    made = surroundings.writable_folders(str(tmp_path / "c"), extra)
    assert made == [str(tmp_path / name) for name in ("a", "ab", "c")]


@pytest.mark.parametrize("path", ["/", "/proc", "/sys/kernel", "/dev/shm", "/etc/passwd", "/none"])
def test_folders_that_cannot_be_shared(path: str) -> None:
    with pytest.raises(ConfigError, match=path):
        surroundings.writable_folders("/etc", [path])


def test_the_root_is_never_shared() -> None:
    assert surroundings.writable_folders("/", []) == []


def test_a_cache_under_tmp_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surroundings, "HIDDEN", (str(tmp_path),))
    monkeypatch.setenv("PYVMM_CACHE", str(tmp_path / "cache"))
    assert surroundings.uncovered_folders([]) == []
    (tmp_path / "cache").mkdir()
    assert surroundings.uncovered_folders([]) == [str(tmp_path / "cache")]
    assert surroundings.uncovered_folders([str(tmp_path)]) == []


def test_a_python_and_a_package_under_tmp_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(surroundings, "HIDDEN", (str(tmp_path),))
    package = tmp_path / "src" / "pyvmm" / "lab"
    for folder in (tmp_path / "venv" / "bin", package, tmp_path / "src" / "cache"):
        folder.mkdir(parents=True)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "venv"))
    monkeypatch.setattr(surroundings, "__file__", str(package / "surroundings.py"))
    monkeypatch.setenv("PYVMM_CACHE", str(tmp_path / "src" / "cache"))
    source, venv = str(tmp_path / "src"), str(tmp_path / "venv")
    assert surroundings.uncovered_folders([]) == [source, venv]
    assert surroundings.uncovered_folders([source]) == [venv]


@pytest.mark.parametrize("letter", ",:\\")
def test_a_folder_that_cannot_be_mounted_is_refused(
    letter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(surroundings, "HIDDEN", (str(tmp_path),))
    cache = tmp_path / f"a{letter}b"
    cache.mkdir()
    monkeypatch.setenv("PYVMM_CACHE", str(cache))
    with pytest.raises(ConfigError, match="the lab cannot show"):
        surroundings.uncovered_folders([])


# -- streams


@pytest.mark.parametrize(
    ("flags", "reason"), [(os.O_WRONLY, "No space"), (os.O_RDONLY, "Bad file")]
)
def test_sink_that_takes_no_more_is_told(flags: int, reason: str) -> None:
    fd = os.open("/dev/full", flags)
    sink = streams.Sink(fd, 1)
    sink.take(b"word")
    with pytest.raises(LabError, match=f"what the command wrote is lost: {reason}"):
        sink.drain()
    os.close(fd)


def test_sink_of_a_descriptor(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as file:
        sink = streams.Sink(file, 1)
        sink.take(bytes(5000))
        sink.drain()
        assert len(sink.pending) == 5000 - streams.PIPE_ROOM
        sink.drain()
    assert (tmp_path / "out").stat().st_size == 5000


def test_sink_of_an_object_and_of_nothing() -> None:
    buffer = io.BytesIO()
    sink = streams.Sink(buffer, 1)
    sink.take(b"text")
    assert (buffer.getvalue(), sink.pending) == (b"text", b"")
    nothing = streams.Sink(subprocess.DEVNULL, 1)
    nothing.take(b"text")
    assert not nothing.pending


def test_source_reads_no_more_than_there_is_room_for() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"abcdef")
    os.close(writing)
    source = streams.Source(reading, 4)
    assert source.read() == b"abcd"
    assert not source.wants()
    source.credit += 4
    assert (source.read(), source.read()) == (b"ef", b"")
    assert not source.wants()
    os.close(reading)


def test_source_of_a_descriptor_that_is_closed() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    os.close(writing)
    assert streams.Source(reading, 4).read() == b""


# -- arguments


def test_sizes() -> None:
    assert mebibytes("8G") == 8192
    assert mebibytes("2048") == mebibytes(2048) == 2048
    for wrong in ("100M", "lots", "-1"):
        with pytest.raises(ConfigError):
            mebibytes(wrong)


@pytest.mark.parametrize("cpus", [0, -1, 1000])
def test_numbers_of_cpus(cpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYVMM_LAB", raising=False)
    with pytest.raises(ConfigError, match="CPUs"):
        Lab(cpus=cpus)


def test_no_lab_in_a_lab(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYVMM_LAB", "svm")
    with pytest.raises(StateError, match="already"):
        Lab()


def test_use_before_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYVMM_LAB", raising=False)
    lab = Lab()
    with pytest.raises(StateError, match="not running"):
        lab.run(["true"])
    lab.close()
    with pytest.raises(ConfigError, match="timeout"):
        lab.run(["true"], timeout=float("nan"))
    for wrong in ([], ["a\0b"]):
        with pytest.raises(ConfigError, match="word"):
            lab.run(wrong)


def test_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "1")
    monkeypatch.delenv("GONE", raising=False)
    assert command_line.variables(["HERE", "GONE", "A=", "B=c=d"]) == {
        "HERE": "1",
        "A": "",
        "B": "c=d",
    }
    with pytest.raises(ConfigError, match="names no variable"):
        command_line.variables(["=x"])


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command_line.add_parser(parser.add_subparsers())
    return parser.parse_args(["lab", *words])


def test_options_of_the_command_are_its_own() -> None:
    args = parsed("--cpus", "3", "--", "ls", "--cpus", "--", "-x")
    assert (args.cpus, args.words[-4:]) == (3, ["ls", "--cpus", "--", "-x"])
    assert parsed("ls", "-l").words == ["ls", "-l"]


@pytest.mark.parametrize("words", [("--",), ("--", ""), ("--", "", "ls")])
def test_no_command(words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="no command"):
        command_line.main(parsed(*words))


def test_failure_of_the_lab_is_125(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*words: object, **options: object) -> int:
        raise LabError("no emulator")

    monkeypatch.setattr("pyvmm.lab.run", fail)
    monkeypatch.setattr("signal.signal", lambda number, handler: None)
    assert command_line.main(parsed("--", "true")) == command_line.LAB_FAILED
    assert capsys.readouterr().err == "pyvmm lab: no emulator\n"


def test_three_escapes_within_a_second() -> None:
    terminal = RawTerminal(0)
    assert not terminal.escaped(b"\x1d\x1d")
    assert not terminal.escaped(b"a\x1d")
    assert not terminal.escaped(b"\x1d")
    assert terminal.escaped(b"\x1d")


def test_the_first_process_compiles_without_a_warning(tmp_path: Path) -> None:
    units = [str(path) for path in image.sources() if path.suffix == ".c"]
    flags = ["-std=gnu11", "-Wall", "-Wextra", "-Wshadow", "-Werror", "-O2", "-fsyntax-only"]
    subprocess.run(["gcc", *flags, *units], check=True)


def test_the_lab_is_not_on_the_launch_path() -> None:
    code = "import sys, pyvmm, pyvmm.launch.launch; print('pyvmm.lab' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code]) == b"False\n"
