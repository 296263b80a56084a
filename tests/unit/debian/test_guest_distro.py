# SPDX-License-Identifier: Apache-2.0
"""A disk with programs of packages: what is taken of which, with made-up packages and no network."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from pyvmm.debian import distro, tools
from pyvmm.errors import HostError
from tests.support.fake_apt import FakeApt

if TYPE_CHECKING:
    from pathlib import Path

LIBRARIES = "usr/lib/x86_64-linux-gnu"


def compiled(target: Path, text: str, *options: str) -> None:
    """Makes a program or a library that needs nothing but what the options say."""
    target.parent.mkdir(parents=True, exist_ok=True)
    command = ["gcc", "-x", "c", "-", "-nostdlib", "-o", str(target), "-x", "none", *options]
    subprocess.run(command, input=text, text=True, check=True)


def library(target: Path, *options: str) -> None:
    compiled(
        target, "int answer(void) { return 42; }", "-shared", f"-Wl,-soname={target.name}", *options
    )


def depends(apt: FakeApt, package: str, *others: str) -> None:
    lines = [f"  {word}\n" for word in others]
    (apt.state / f"{package}.depends").write_text(f"{package}\n{''.join(lines)}")


@pytest.fixture
def packages(apt: FakeApt, tmp_path: Path) -> FakeApt:
    """`tool`, whose program is a link into `tool-bin`, needs libone1, which needs libtwo1; nobody needs libtoo1."""
    trees = {
        name: tmp_path / name for name in ("tool", "tool-bin", "libone1", "libtwo1", "libtoo1")
    }
    library(trees["libtwo1"] / LIBRARIES / "libtwo.so.1")
    (trees["libtwo1"] / LIBRARIES / "libtwo.so.1").rename(
        trees["libtwo1"] / LIBRARIES / "libtwo.so.1.5"
    )
    (trees["libtwo1"] / LIBRARIES / "libtwo.so.1").symlink_to("libtwo.so.1.5")
    two = str(trees["libtwo1"] / LIBRARIES / "libtwo.so.1.5")
    one = trees["libone1"] / "lib/x86_64-linux-gnu/libone.so.1"
    library(one, "-Wl,--no-as-needed", two)
    compiled(
        trees["tool-bin"] / "usr/bin/many", "void _start(void) {}", "-no-pie", "-Wl,--no-as-needed", str(one),
        "-Wl,--allow-shlib-undefined", f"-Wl,-rpath-link={trees['libtwo1'] / LIBRARIES}",
        "-Wl,--dynamic-linker=",
    )  # fmt: skip
    (trees["tool"] / "usr/bin").mkdir(parents=True)
    (trees["tool"] / "usr/bin/tool").symlink_to("/usr/bin/many")
    library(trees["libtoo1"] / LIBRARIES / "libtoo.so.1")
    for name, tree in trees.items():
        apt.package(name, tree)
    depends(apt, "tool", "Depends: tool-bin", "Depends: libtoo1")
    depends(apt, "tool-bin", "PreDepends: libone1", " |Depends: libtoo1", "Depends: perl")
    depends(apt, "libone1", "Depends: libtwo1", "Depends: <libvirtual>")
    return apt


def listed(image: Path, folder: str) -> set[str]:
    command = [tools.tool("debugfs"), "-R", f"ls -p /{folder}", str(image)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {line.split("/")[5] for line in said.splitlines() if line} - {".", ".."}


def test_a_program_comes_with_what_it_loads_and_nothing_else(packages: FakeApt) -> None:
    image = distro.disk({"tool": ["tool"], "tool-bin": []})
    assert listed(image, "usr/bin") == {"tool"}
    assert listed(image, "lib") == {"libone.so.1", "libtwo.so.1"}
    assert set(distro.EMPTY) <= listed(image, "")
    subprocess.run([tools.tool("e2fsck"), "-fn", image], check=True, capture_output=True)


def test_it_is_made_once(packages: FakeApt) -> None:
    wanted = {"tool": ["tool"], "tool-bin": ["many"]}
    image = distro.disk(wanted)
    count = packages.downloads()
    packages.forget()
    assert distro.disk({"tool-bin": ["many"], "tool": ["tool"]}) == image
    assert packages.downloads() == count
    image.unlink()
    with pytest.raises(HostError, match="apt has no package 'tool'"):
        distro.disk(wanted)


def test_a_program_that_is_not_there(packages: FakeApt) -> None:
    with pytest.raises(HostError, match=r"libone1_.*has usr/bin/one"):
        distro.disk({"libone1": ["one"]})


def test_a_library_that_no_dependency_has(packages: FakeApt) -> None:
    depends(packages, "libone1", "Depends: libc-none")
    packages.meta("libc-none", "nothing")
    depends(packages, "tool-bin", "Depends: libtoo1")
    with pytest.raises(HostError, match=r"tool-bin: no package .* has libone\.so\.1"):
        distro.disk({"tool-bin": ["many"]})


def test_links_in_circles_are_no_file(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("/a")
    assert distro.follow([tmp_path], "a") is None
