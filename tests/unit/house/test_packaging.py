# SPDX-License-Identifier: Apache-2.0
"""Looks into an sdist and a package without compiling anything; tests/bare/test_install.py installs both."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from pyvmm.guest import cache, source
from pyvmm.lab import outerkernel
from tests.support.tree import PROJECT, ROOT, clone, tracked


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clone(tmp_path_factory.mktemp("tree"))


def setup(tree: Path, *words: str) -> None:
    command = [sys.executable, "setup.py", "-q", *words]
    subprocess.run(command, cwd=tree, check=True, capture_output=True)


def test_sdist_has_every_file_of_the_project(tree: Path, tmp_path: Path) -> None:
    setup(tree, "sdist", "-d", str(tmp_path))
    (archive,) = tmp_path.iterdir()
    assert archive.name.startswith(PROJECT["name"].replace("-", "_") + "-")
    with tarfile.open(archive) as file:
        packed = {member.name.partition("/")[2] for member in file if member.isfile()}
    assert tracked() - packed == set()
    assert {"csrc/build.py", "csrc/kvm/ORDER"} <= packed
    assert not [name for name in packed if name.endswith((".so", ".o", ".pyc"))]


def test_package_has_what_it_reads_at_run_time(tree: Path, tmp_path: Path) -> None:
    setup(tree, "build_py", "-d", str(tmp_path))
    package = tmp_path / "pyvmm"
    installed = {"pyvmm": "", "guest-linux-patch": "guest_linux_patch", "include": "include"}
    for folder, place in installed.items():
        for name in sorted(name for name in tracked() if name.startswith(f"{folder}/")):
            copy = package / place / Path(name).relative_to(folder)
            assert copy.read_bytes() == (ROOT / name).read_bytes(), name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pyvmm"]


def test_installed_package_uses_its_own_patches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "guest-linux-patch").mkdir()
    (tmp_path / "pyvmm/guest").mkdir(parents=True)
    monkeypatch.delenv("PYVMM_GUEST_PATCH", raising=False)
    monkeypatch.setattr(cache, "__file__", str(tmp_path / "pyvmm/guest/cache.py"))
    assert cache.patch_tree() == str(tmp_path / "guest-linux-patch")
    (tmp_path / "pyvmm/guest_linux_patch").mkdir()
    assert cache.patch_tree() == str(tmp_path / "pyvmm/guest_linux_patch")


def test_outer_kernel_is_the_same_wherever_pyvmm_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "locate", lambda linux: source.Source(tmp_path, "some sources"))
    here = outerkernel.plan().key()
    monkeypatch.setenv("PYVMM_GUEST_PATCH", str(tmp_path))
    assert outerkernel.plan().key() == here


def test_a_patch_that_is_no_file_of_the_tree_applies(tmp_path: Path) -> None:
    tree = tmp_path / "linux"
    tree.mkdir()
    (tree / "Makefile").write_text("VERSION = 6\n")
    text = b"--- a/Makefile\n+++ b/Makefile\n@@ -1 +1 @@\n-VERSION = 6\n+VERSION = 7\n"
    made = source.patched(tree, [source.Patch("../anywhere.patch", text)], tmp_path / "work/tree")
    assert (made / "Makefile").read_text() == "VERSION = 7\n"
    assert (tree / "Makefile").read_text() == "VERSION = 6\n"
    assert [path.name for path in made.parent.iterdir()] == ["tree"]


def test_what_is_said_to_install_is_this_distribution() -> None:
    """The name pyvmm is another project's."""
    files = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("bench/**/*.py")]
    files += ROOT.glob("pyvmm/**/*.py")
    said = [
        pair
        for path in files
        for pair in re.findall(r"\b(pyvmm[\w-]*)\[(\w+)\]['`)]", path.read_text())
    ]
    assert {name for name, _ in said} == {PROJECT["name"]}
    assert {extra for _, extra in said} <= set(PROJECT["optional-dependencies"])
