# SPDX-License-Identifier: Apache-2.0
"""Debian packages and the load order of modules, with made-up packages and no network."""

from __future__ import annotations

import gzip
import lzma
import subprocess
from pathlib import Path

import pytest

from pyvmm.debian import kernelmodules, kernels, packages, suites
from pyvmm.errors import ConfigError, HostError, ImageError
from tests.support.fake_apt import FakeApt

DEP = """\
kernel/a.ko.xz: kernel/b.ko.xz kernel/c-d.ko.xz
kernel/b.ko.xz: kernel/c-d.ko.xz
kernel/c-d.ko.xz:
kernel/ext.ko.xz:
kernel/crc_generic.ko.xz:
kernel/crc_intel.ko.xz:
kernel/x.ko.xz:
kernel/y.ko.xz:
"""
SOFT = """\
# Soft dependencies extracted from modules themselves.
softdep ext pre: crc32c
softdep x pre: y post: a
softdep y pre: x
softdep a post: ext
"""


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    (tmp_path / "modules.dep").write_text(DEP)
    (tmp_path / "modules.softdep").write_text(SOFT)
    (tmp_path / "modules.alias").write_text("alias crc32c crc_intel\nalias crc32c crc_generic\n")
    (tmp_path / "modules.builtin").write_text("kernel/drivers/built-in_one.ko\n")
    return tmp_path


def release(apt: FakeApt, name: str) -> None:
    """A release of Debian that runs here."""
    Path(suites.OS_RELEASE).write_text(f"ID=debian\nVERSION_CODENAME={name}\n")
    apt.targets(f"Packages Debian Debian {name} http://mirror/debian/\n")


def newer_release(apt: FakeApt) -> None:
    """Debian 13 runs here, and has none of the packages so far."""
    release(apt, "trixie")
    apt.older_release()


def names(paths: list[str]) -> list[str]:
    return [Path(path).name.split(".")[0] for path in paths]


def test_dependencies_come_first_and_once(modules: Path) -> None:
    assert names(kernelmodules.module_closure(str(modules), ["a", "b"])) == ["c-d", "b", "a"]


def test_dash_and_underscore_are_one(modules: Path) -> None:
    order = kernelmodules.module_closure(str(modules), ["c_d", "c-d"])
    assert order == [str(modules / "kernel/c-d.ko.xz")]


def test_soft_dependency_by_alias_takes_the_generic_one(modules: Path) -> None:
    assert names(kernelmodules.module_closure(str(modules), ["ext"])) == ["crc_generic", "ext"]


def test_a_cycle_of_soft_dependencies_ends(modules: Path) -> None:
    assert names(kernelmodules.module_closure(str(modules), ["x"])) == ["y", "x"]


def test_built_in_needs_no_file(modules: Path) -> None:
    assert kernelmodules.module_closure(str(modules), ["built_in-one"]) == []


def test_unknown_module(modules: Path) -> None:
    with pytest.raises(HostError, match="no module 'nope'"):
        kernelmodules.module_closure(str(modules), ["nope"])
    missing: list[str] = []
    assert kernelmodules.module_closure(str(modules), ["nope"], missing=missing.append) == []
    assert missing == ["nope"]


def test_no_list_of_modules(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="run depmod"):
        kernelmodules.module_closure(str(tmp_path), ["a"])


def test_a_list_that_lacks_what_it_names(modules: Path) -> None:
    (modules / "modules.dep").write_text("kernel/a.ko: kernel/gone.ko\n")
    with pytest.raises(HostError, match="does not list gone: run depmod"):
        kernelmodules.module_closure(str(modules), ["a"])


@pytest.mark.parametrize("suffix", ["xz", "gz", "zst"])
def test_damaged_modules(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"m.ko.{suffix}"
    with pytest.raises(HostError if suffix != "zst" else ImageError, match=str(path)):
        kernelmodules.module_bytes(str(path))
    for data in (b"noise", lzma.compress(b"x" * 100)[:-9], gzip.compress(b"x" * 100)[:-9]):
        path.write_bytes(data)
        with pytest.raises((HostError, ImageError), match=str(path)):
            kernelmodules.module_bytes(str(path))


def test_compressed_modules(tmp_path: Path) -> None:
    data = b"\x7fELF module"
    (tmp_path / "a.ko").write_bytes(data)
    (tmp_path / "a.ko.xz").write_bytes(lzma.compress(data))
    (tmp_path / "a.ko.gz").write_bytes(gzip.compress(data))
    for path in tmp_path.iterdir():
        assert kernelmodules.module_bytes(str(path)) == data


def test_module_compressed_by_zstd(tmp_path: Path) -> None:
    (tmp_path / "a.ko").write_bytes(b"module")
    subprocess.run(["zstd", "-q", tmp_path / "a.ko"], check=True)
    assert kernelmodules.module_bytes(str(tmp_path / "a.ko.zst")) == b"module"


def test_kernel_is_fetched_once(apt: FakeApt) -> None:
    apt.kernel("linux-image-6.12.5-amd64", "6.12.5-amd64")
    apt.meta("linux-image-amd64", "linux-image-6.12.5-amd64")
    files = kernels.kernel_package("6.12")
    assert files.release == "6.12.5-amd64"
    assert Path(files.vmlinuz).read_text() == "kernel"
    assert Path(files.modules_dir, "modules.dep").exists()
    assert apt.downloads() == 1
    apt.forget()
    assert kernels.kernel_package("6.12") == files
    assert apt.downloads() == 1


def test_the_metapackage_of_the_version_wins(apt: FakeApt) -> None:
    apt.kernel("linux-image-6.12.5+deb12-amd64", "6.12.5+deb12-amd64")
    apt.meta("linux-image-6.12-amd64", "linux-image-6.12.5+deb12-amd64")
    apt.meta("linux-image-amd64", "linux-image-6.1.0-5-amd64")
    apt.meta("linux-image-6.12.5+deb12-amd64", "nothing")
    apt.meta("linux-image-6.1.0-5-amd64", "nothing")
    assert kernels.kernel_image("6.12").name == "linux-image-6.12.5+deb12-amd64"
    assert kernels.kernel_image("6.1").name == "linux-image-6.1.0-5-amd64"


def test_the_flavour_of_clouds_is_a_kernel_of_its_own(apt: FakeApt) -> None:
    for package in ("linux-image-6.12.5-amd64", "linux-image-6.12.5-cloud-amd64"):
        apt.meta(package, "nothing")
    apt.meta("linux-image-amd64", "linux-image-6.12.5-amd64")
    apt.meta("linux-image-cloud-amd64", "linux-image-6.12.5-cloud-amd64")
    assert kernels.kernel_image("6.12").name == "linux-image-6.12.5-amd64"
    assert kernels.kernel_image("6.12-cloud").name == "linux-image-6.12.5-cloud-amd64"


def test_the_newest_kernel_of_a_version_that_the_metapackage_left(apt: FakeApt) -> None:
    for middle in (
        "7.3.4+deb13",
        "7.3.10+deb13",
        "7.3.9+deb13-cloud",
        "7.30.1+deb13",
        "7.4.1+deb13",
    ):
        apt.meta(f"linux-image-{middle}-amd64", "nothing")
    apt.meta("linux-image-7.3.11+deb13-amd64-dbg", "nothing")
    apt.meta("linux-image-amd64", "linux-image-7.4.1+deb13-amd64")
    assert kernels.kernel_image("7.3").name == "linux-image-7.3.10+deb13-amd64"
    assert kernels.kernel_image("7.3-cloud").name == "linux-image-7.3.9+deb13-cloud-amd64"


def test_a_kernel_of_a_newer_releases_backports(apt: FakeApt) -> None:
    """Its files are in several packages, and all are fetched from there."""
    apt.split_kernel("7.3.4+deb13-amd64")
    apt.meta("linux-image-amd64", "linux-image-7.3.4+deb13-amd64")
    apt.move_to("trixie-backports")
    release(apt, "bookworm")
    files = kernels.kernel_package("7.3")
    assert files.release == "7.3.4+deb13-amd64"
    folder = apt.cache / "debian" / "linux-image-7.3.4+deb13-amd64_1%3a2.0-1"
    assert files.vmlinuz == f"{folder}/usr/lib/modules/{files.release}/vmlinuz"
    assert Path(files.modules_dir, "kernel", "some.ko").exists()
    assert "kernel/some.ko" in Path(files.modules_dir, "modules.dep").read_text()
    assert Path(files.vmlinuz).with_name("config").exists()
    source = apt.cache / "debian" / "suite-trixie-backports" / "sources.list"
    assert source.read_text().endswith(" http://mirror/debian/ trixie-backports main\n")
    before = apt.downloads()
    assert kernels.kernel_package("7.3") == files
    assert apt.downloads() == before


def test_a_version_that_debian_has_not(apt: FakeApt) -> None:
    apt.meta("linux-image-amd64", "linux-image-6.12.5-amd64")
    with pytest.raises(HostError, match=r"no Debian kernel of version 6\.1 .*apt-get update"):
        kernels.kernel_package("6.1")


def test_a_kernel_of_the_release_before(apt: FakeApt) -> None:
    apt.kernel("linux-image-6.1.0-5-amd64", "6.1.0-5-amd64")
    apt.meta("linux-image-amd64", "linux-image-6.1.0-5-amd64")
    newer_release(apt)
    apt.meta("linux-image-amd64", "linux-image-6.12.5-amd64")
    apt.meta("linux-image-6.12.5-amd64", "nothing")
    assert kernels.kernel_image("6.12").name == "linux-image-6.12.5-amd64"
    assert not apt.updates()
    assert kernels.kernel_package("6.1").release == "6.1.0-5-amd64"
    assert len(apt.updates()) == 1
    source = apt.cache / "debian" / "suite-bookworm" / "sources.list"
    assert source.read_text().endswith(" http://mirror/debian/ bookworm main\n")


def test_a_name_is_no_expression(apt: FakeApt) -> None:
    """apt answers for linux-source-6.12 where it is asked for linux-source-6.1, and does not know that."""
    apt.meta("linux-source-6.12", "nothing")
    (apt.state / "linux-source-6.12.policy").rename(apt.state / "linux-source-6.1.policy")
    assert packages.candidate_version("linux-source-6.1") is None
    apt.meta("linux-source-6.1", "nothing")
    assert packages.candidate_version("linux-source-6.1") == "1:2.0-1"


def test_neither_release_has_it(apt: FakeApt) -> None:
    newer_release(apt)
    with pytest.raises(HostError, match="neither apt nor Debian bookworm has a package 'thing'"):
        packages.unpacked("thing")
    with pytest.raises(HostError, match=r"no Debian kernel of version 6\.1 .*apt-get update"):
        kernels.kernel_package("6.1")


def test_the_release_before_cannot_be_reached(apt: FakeApt) -> None:
    newer_release(apt)
    apt.fail_updates()
    with pytest.raises(HostError, match=r"apt has no package 'thing': (?s:.)*bookworm"):
        packages.unpacked("thing")


@pytest.mark.parametrize("linux", ["", "6", "../x", "6.12.1", "6.12-", "6.12-rt"])
def test_a_version_that_is_none(linux: str) -> None:
    with pytest.raises(ConfigError, match="not a kernel version"):
        kernels.kernel_package(linux)


def test_failed_download_leaves_nothing(apt: FakeApt) -> None:
    apt.meta("thing", "other")
    with pytest.raises(HostError, match="downloading Debian package thing"):
        packages.unpacked("thing")
    assert [path.name for path in (apt.cache / "debian").iterdir()] == ["thing.lock"]


def test_package_unknown_to_apt(apt: FakeApt) -> None:
    with pytest.raises(HostError, match="apt has no package 'thing'"):
        packages.unpacked("thing")
