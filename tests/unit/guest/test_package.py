# SPDX-License-Identifier: Apache-2.0
"""The guest driver as a Debian package: what is in it, that it builds there, and that it is always the same."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path

import pytest

from pyvmm import __version__
from pyvmm.cli.main import main
from pyvmm.errors import HostError
from pyvmm.guest import cache
from pyvmm.guest.package import package
from tests.support.tree import ROOT

SOURCE = f"usr/src/symbiotic-{__version__}"
LINE = re.compile(r"^(\S+) root/root +\d+ 2000-01-01 00:00 \./(\S*[^/\s])$", re.MULTILINE)
#: Enough of a kernel's headers for the module's makefile to come to its end.
KBUILD = "modules:\n\tgcc -c -x c /dev/null -o $(M)/symbiotic.ko\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return Path(package(tmp_path / "made" / "for it"))


@pytest.fixture
def root(path: Path, tmp_path: Path) -> Path:
    """Where it is unpacked."""
    subprocess.run(["dpkg-deb", "-R", path, tmp_path / "root"], check=True)
    return tmp_path / "root"


def said(*words: str | Path) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def test_contents(path: Path) -> None:
    assert path.name == f"symbiotic-dkms_{__version__}_all.deb"
    assert said("dpkg-deb", "-f", path, "Package", "Version", "Architecture") == (
        f"Package: symbiotic-dkms\nVersion: {__version__}\nArchitecture: all\n"
    )
    assert "dkms" in said("dpkg-deb", "-f", path, "Depends")
    listed = said("dpkg-deb", "-c", path)
    files = {name: mode for mode, name in LINE.findall(listed)}
    assert len(files) == len([line for line in listed.splitlines() if line.startswith("-")])
    assert set(files.values()) == {"-rw-r--r--"}
    module = cache.module_files(cache.patch_tree())
    assert set(files) == {
        *(f"{SOURCE}/{name}" for name in module if name != cache.HEADER_HERE),
        *(f"{SOURCE}/{name}" for name in ("include/symbiotic.h", "dkms.conf", "COPYING")),
        "usr/lib/modules-load.d/symbiotic.conf",
        "usr/share/doc/symbiotic-dkms/copyright",
    }


def test_notes_are_about_this_version(root: Path) -> None:
    texts = {
        name: (root / name).read_text()
        for name in (f"{SOURCE}/dkms.conf", "DEBIAN/postinst", "DEBIAN/prerm")
    }
    assert f'PACKAGE_VERSION="{__version__}"\n' in texts[f"{SOURCE}/dkms.conf"]
    for name, text in texts.items():
        assert __version__ in text
        assert "@" not in re.sub(r'"\$@"', "", text), name
        subprocess.run(["sh", "-n", root / name], check=True)


def test_kernels_that_dkms_builds_for(root: Path) -> None:
    """Each version that the tests have, and nothing that they have not."""
    text = (root / SOURCE / "dkms.conf").read_text()
    found = re.search(r'^BUILD_EXCLUSIVE_KERNEL="(.*)"$', text, re.MULTILINE)
    assert found is not None
    for release in ("6.1.0-57-amd64", "6.12.117+deb13-cloud-amd64", "7.3.4+deb13-amd64"):
        assert re.match(found[1], release)
    for release in ("5.10.0-30-amd64", "6.11.2-amd64", "6.120.1", "7.30.1", "8.0.1"):
        assert not re.match(found[1], release)


def test_makefile_finds_everything_there(root: Path, tmp_path: Path) -> None:
    """As dkms calls it."""
    kernel = tmp_path / "kernel"
    (kernel / "include" / "generated").mkdir(parents=True)
    (kernel / "include" / "generated" / "utsrelease.h").write_text('#define UTS_RELEASE "7.3.4"\n')
    (kernel / "Makefile").write_text(KBUILD)
    command = ["make", "-C", "module", f"KDIR={kernel}"]
    subprocess.run(command, cwd=root / SOURCE, check=True, capture_output=True)
    assert (root / SOURCE / "module" / "build" / "7.3.4" / "symbiotic.ko").exists()
    header = root / SOURCE / "module/build/7.3.4/tree/include/uapi/linux/symbiotic.h"
    assert header.read_bytes() == (ROOT / "include" / "symbiotic.h").read_bytes()
    subprocess.run(["make", "-C", "module", "clean"], cwd=root / SOURCE, check=True)
    assert not (root / SOURCE / "module" / "build").exists()


def test_makefile_says_what_it_misses(root: Path) -> None:
    (root / SOURCE / "include" / "symbiotic.h").unlink()
    command = ["make", "-C", "module", "KDIR=/nothing"]
    for wanted in ("no kernel headers in /nothing", "no include/symbiotic.h"):
        done = subprocess.run(
            command, cwd=root / SOURCE, check=False, capture_output=True, text=True
        )
        assert done.returncode == 2
        assert wanted in done.stderr
        command.append("RELEASE=7.3.4")


def test_always_the_same(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever makes it, whenever, with whatever rights for new files."""
    old = os.umask(0o077)
    try:
        monkeypatch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        again = Path(package(tmp_path / "again"))
    finally:
        os.umask(old)
        monkeypatch.undo()
        time.tzset()
    assert again.read_bytes() == path.read_bytes()


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["guest", "package", "--output", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/symbiotic-dkms_{__version__}_all.deb\n"


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError, match="file"):
        package(tmp_path / "file" / "folder")


def test_file_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYVMM_GUEST_PATCH", str(tmp_path))
    with pytest.raises(HostError, match="part of the driver's package"):
        package(tmp_path)
