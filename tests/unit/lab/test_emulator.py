# SPDX-License-Identifier: Apache-2.0
"""Which QEMU the lab takes, with made-up ones, and packages of backports from a made-up apt."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from pyvmm.debian import packages, suites
from pyvmm.errors import HostError
from pyvmm.lab import LabError, emulator
from tests.support.fake_apt import FakeApt
from tests.support.qemu_code import ASKS, VMRUN, program

DEBIAN = 'PRETTY_NAME="Debian"\nID=debian\nVERSION_CODENAME=bookworm\n'
TARGET = "Packages Debian Debian bookworm {uri}\n"


def fake_qemu(path: Path, version: str) -> Path:
    """A program that names its version as QEMU does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho 'QEMU emulator version {version} (Debian 1:{version})'\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def debian(apt: FakeApt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeApt:
    """A Debian whose apt has a mirror, and QEMU 7.2 on the path."""
    monkeypatch.delenv("PYVMM_QEMU", raising=False)
    release = tmp_path / "os-release"
    release.write_text(DEBIAN)
    monkeypatch.setattr(suites, "OS_RELEASE", str(release))
    fake_qemu(apt.bin / emulator.NAME, "7.2.22")
    apt.targets(TARGET.format(uri="http://mirror/debian/"))
    return apt


def give_backports(apt: FakeApt, version: str) -> None:
    """Lets apt have the packages, QEMU of that version in the first."""
    for number, package in enumerate(emulator.PACKAGES):
        tree = apt.state / "tree"
        fake_qemu(tree / "usr" / f"bin-{number}" / "unused", version)
        if number == 0:
            fake_qemu(tree / emulator.KEPT[0], version)
        apt.package(package, tree)


def kept(apt: FakeApt) -> Path:
    """Where a fetched one is."""
    return apt.cache / f"{emulator.PLACE}-1%3a2.0-1" / emulator.KEPT[0]


# -- which one


def test_the_one_that_was_asked_for(debian: FakeApt, monkeypatch: pytest.MonkeyPatch) -> None:
    """However old it is, and without a word."""
    monkeypatch.setenv("PYVMM_QEMU", "true")
    assert emulator.find().path == shutil.which("true")
    monkeypatch.setenv("PYVMM_QEMU", "no-such-program")
    with pytest.raises(LabError, match="PYVMM_QEMU is 'no-such-program'"):
        emulator.find()


def test_none_at_all(apt: FakeApt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYVMM_QEMU", raising=False)
    monkeypatch.setenv("PATH", str(apt.bin))
    with pytest.raises(LabError, match="install the Debian package 'qemu-system-x86'"):
        emulator.find()


@pytest.mark.parametrize("version", ["8.1.0", "9.0", "10.0.2"])
def test_a_new_one_of_the_path(debian: FakeApt, version: str) -> None:
    path = fake_qemu(debian.bin / emulator.NAME, version)
    assert emulator.find().path == str(path)
    assert not debian.updates()


def test_a_thread_for_each_cpu(debian: FakeApt, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fake_qemu(debian.bin / emulator.NAME, "10.0.2")
    monkeypatch.setattr(
        emulator, "corrected", lambda path, shadow: emulator.Emulator("corrected", True)
    )
    assert emulator.find() == emulator.Emulator("corrected", True)
    monkeypatch.setenv("PYVMM_LAB_THREADS", "multi")
    assert emulator.find() == emulator.Emulator(str(path), False)


def test_an_old_one_gives_way_to_that_of_the_backports(
    debian: FakeApt, capsys: pytest.CaptureFixture[str]
) -> None:
    give_backports(debian, "10.0.2")
    assert emulator.find().path == str(kept(debian))
    assert emulator.find().path == str(kept(debian))
    assert len(debian.updates()) == 1
    assert debian.downloads() == len(emulator.PACKAGES)
    assert "older" not in capsys.readouterr().err


def test_what_was_fetched_needs_no_network(debian: FakeApt) -> None:
    fake_qemu(kept(debian), "10.0.2")
    assert emulator.find().path == str(kept(debian))
    assert not debian.updates()


def test_one_that_does_not_run_here(debian: FakeApt, capsys: pytest.CaptureFixture[str]) -> None:
    """A library that is missing, say."""
    broken = fake_qemu(kept(debian), "10.0.2")
    broken.write_text("#!/bin/sh\nexit 127\n")
    assert emulator.find().path == str(debian.bin / emulator.NAME)
    assert "older than 8.1" in capsys.readouterr().err


def test_no_network(debian: FakeApt, capsys: pytest.CaptureFixture[str]) -> None:
    """One line of warning each time, and one look at the network a day."""
    debian.fail_updates()
    for _ in range(2):
        assert emulator.find().path == str(debian.bin / emulator.NAME)
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert "set PYVMM_QEMU" in said
        assert "ended with 100" in said
    assert len(debian.updates()) == 1
    os.utime(debian.cache / f"{emulator.PLACE}.failed", (0, 0))
    emulator.find()
    assert len(debian.updates()) == 2


def test_backports_that_are_old_too(debian: FakeApt, capsys: pytest.CaptureFixture[str]) -> None:
    give_backports(debian, "8.0.4")
    assert emulator.find().path == str(debian.bin / emulator.NAME)
    assert "Debian's backports have QEMU 8.0" in capsys.readouterr().err


def test_a_program_that_is_no_qemu() -> None:
    with pytest.raises(HostError, match="names no version"):
        emulator.version("true")


# -- the corrected copy


def test_a_copy_is_made_once(tmp_path: Path, guest_cache: Path) -> None:
    """It finds its data where the original does; what was replaced is copied anew."""
    original = tmp_path / "usr" / "bin" / emulator.NAME
    original.parent.mkdir(parents=True)
    (tmp_path / "usr" / "share").mkdir()
    program(tmp_path, VMRUN).rename(original)
    made = emulator.corrected(str(original))
    copy = Path(made.path)
    assert made.one_thread
    assert guest_cache in copy.parents
    assert os.access(copy, os.X_OK)
    assert copy.read_bytes() != original.read_bytes()
    assert (copy.parents[1] / "share").samefile(tmp_path / "usr" / "share")
    status = copy.stat()
    assert emulator.corrected(str(original)) == made
    assert copy.stat() == status
    os.utime(original, (0, 0))
    assert emulator.corrected(str(original)).path != made.path


def test_no_copy_of_one_without_such_code(tmp_path: Path, guest_cache: Path) -> None:
    path = fake_qemu(tmp_path / "qemu", "10.0.2")
    for _ in range(2):
        assert emulator.corrected(str(path)) == (str(path), False)


def test_shadow_paging_has_a_copy_of_its_own(tmp_path: Path, guest_cache: Path) -> None:
    original = program(tmp_path, VMRUN + ASKS)
    usual, shadow = (emulator.corrected(str(original), shadow=choice) for choice in (False, True))
    assert usual.one_thread
    assert shadow.one_thread
    assert usual.path != shadow.path
    assert Path(usual.path).read_bytes() != Path(shadow.path).read_bytes()


@pytest.mark.parametrize(
    ("number", "warned"), [("9.0.4", False), ("9.1.0", True), ("10.0.2", True)]
)
def test_no_copy_for_shadow_paging(
    number: str, warned: bool, tmp_path: Path, guest_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What cannot be corrected for it is said of those that need it, and used as it is."""
    path = fake_qemu(tmp_path / "qemu", number)
    assert emulator.corrected(str(path), shadow=True) == (str(path), False)
    assert ("cannot be corrected for shadow paging" in capsys.readouterr().err) == warned


# -- backports


def test_another_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "os-release"
    monkeypatch.setattr(suites, "OS_RELEASE", str(path))
    with pytest.raises(HostError, match="cannot read"):
        suites.running_release()
    for text in ("ID=ubuntu\nVERSION_CODENAME=noble\n", "ID=debian\n", ""):
        path.write_text(text)
        with pytest.raises(HostError, match="names no release of Debian"):
            suites.running_release()


def test_the_mirror_is_that_of_the_release(debian: FakeApt) -> None:
    debian.targets(
        "Sources Debian Debian bookworm http://sources/\n"
        "Packages Debian Debian-Security bookworm-security http://security/\n"
        "Packages Debian Debian bookworm-updates http://updates/\n"
        "Packages Else Else bookworm http://else/\n"
        "Packages Debian Debian bookworm cdrom:[Debian]/\n"
        "Packages Debian Debian bookworm http://mirror/debian/\n"
    )
    assert suites.backports() == ("http://mirror/debian/", "bookworm-backports")
    debian.targets("")
    with pytest.raises(HostError, match="no mirror of Debian bookworm"):
        suites.backports()


def test_apt_keeps_to_its_own_folder(debian: FakeApt) -> None:
    """Neither the system's sources nor its lists are touched, and the keys are Debian's."""
    give_backports(debian, "10.0.2")
    emulator.find()
    folder = debian.cache / "debian" / "suite-bookworm-backports"
    source = (folder / "sources.list").read_text()
    assert source.endswith(" http://mirror/debian/ bookworm-backports main\n")
    (command,) = debian.updates()
    for option in ("Dir::Etc::SourceParts=/dev/null", f"Dir::State::Lists={folder}/lists"):
        assert f"-o {option} " in command
    assert "llow" not in command  # nothing like AllowUnauthenticated or AllowInsecureRepositories
    assert "rusted" not in command + source


def test_a_package_that_the_backports_lack(debian: FakeApt) -> None:
    with pytest.raises(HostError, match="no package 'thing'"):
        packages.find_in(suites.backports(), ["thing"])
