# SPDX-License-Identifier: Apache-2.0
"""Programs that are made for a newer C library: found, and started by the loader in their own tree."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from pyvmm.debian import foreign
from pyvmm.errors import HostError

LIBRARY = "int thing(void) { return 42; }\n"
PROGRAM = """\
#include <stdio.h>
int thing(void);
int main(int count, char **words)
{
\tprintf("%s %d %s\\n", words[0], thing(), words[count - 1]);
\treturn 7;
}
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with two programs, of which one needs a library that this machine does not have."""
    root = tmp_path / "the tree"
    libraries, programs = root / foreign.LIBRARIES, root / "usr" / "lib" / "deep" / "bin"
    libraries.mkdir(parents=True)
    programs.mkdir(parents=True)
    (tmp_path / "library.c").write_text(LIBRARY)
    (tmp_path / "program.c").write_text(PROGRAM)
    compile_c("-shared", "-fPIC", tmp_path / "library.c", "-o", libraries / "libthing.so")
    compile_c(tmp_path / "program.c", "-o", programs / "stranger", f"-L{libraries}", "-lthing")
    shutil.copy(shutil.which("true") or "", programs / "native")
    (programs / "script").write_text("#!/bin/sh\n")
    (programs / "script").chmod(0o755)
    return root


def compile_c(*words: str | Path) -> None:
    subprocess.run(["gcc", *words], check=True)


def with_c_library(tree: Path) -> None:
    """As the package has it."""
    loader = Path(foreign.LOADER).resolve()
    for name in (loader.name, "libc.so.6"):
        shutil.copy(loader.with_name(name), tree / foreign.LIBRARIES / name)


def test_program_of_a_newer_release_runs(tree: Path, tmp_path: Path) -> None:
    with_c_library(tree)
    (stranger,) = foreign.strangers(tree)
    assert stranger.name == "stranger"
    link = tmp_path / "link"
    link.symlink_to(stranger)
    foreign.adopt(tree, [stranger])
    for name in (stranger, link):
        done = subprocess.run([name, "a b", "c  d"], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (7, f"{name} 42 c  d\n")
    assert foreign.strangers(stranger.parent) == [stranger.with_name("stranger.elf")]


def test_library_that_is_there_in_an_older_version(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the C library is."""
    with_c_library(tree)
    newer, older = tree / foreign.LIBRARIES / "libthing.so", tmp_path / "older" / "libthing.so"
    older.parent.mkdir()
    for number, library in enumerate((older, newer)):
        script = tmp_path / f"versions{number}"
        script.write_text(f"THING_{number} {{ global: thing; local: *; }};\n")
        words = ("-shared", "-fPIC", f"-Wl,--version-script={script}")
        compile_c(*words, tmp_path / "library.c", "-o", library)
    stranger = tree / "usr" / "lib" / "deep" / "bin" / "stranger"
    compile_c(tmp_path / "program.c", "-o", stranger, f"-L{newer.parent}", "-lthing")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(older.parent))
    assert foreign.strangers(tree) == [stranger]
    foreign.adopt(tree, [stranger])
    assert subprocess.run([stranger], check=False).returncode == 7


def test_tree_may_move(tree: Path) -> None:
    """It is made under another name than it is used by."""
    with_c_library(tree)
    foreign.adopt(tree, foreign.strangers(tree))
    moved = tree.rename(tree.with_name("moved"))
    done = subprocess.run([moved / "usr/lib/deep/bin/stranger"], check=False)
    assert done.returncode == 7


def test_library_that_is_missing_still(tree: Path) -> None:
    with_c_library(tree)
    (tree / foreign.LIBRARIES / "libthing.so").unlink()
    with pytest.raises(HostError, match=r"stranger .*'gcc'(?s:.)*libthing\.so"):
        foreign.adopt(tree, foreign.strangers(tree))
