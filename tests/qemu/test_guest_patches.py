# SPDX-License-Identifier: Apache-2.0
"""The patch series against the kernel sources that guests are built from."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pyvmm.guest import series, source
from tests.support import kernels

#: checkpatch asks whether MAINTAINERS needs an update for each new file, in folders too that have their entry.
#: It wants parentheses around the argument of a macro that is the name of a member, where they cannot be. And the one
#: header that tells versions of Linux apart asks for the version, which checkpatch takes for a constant.
ASKED = "FILE_PATH_CHANGES,MACRO_ARG_PRECEDENCE,LINUX_VERSION_CODE,CONSTANT_COMPARISON"


@pytest.fixture(scope="module", params=kernels.BOTH)
def linux(request: pytest.FixtureRequest) -> str:
    version: str = request.param
    return version


@pytest.fixture(scope="module")
def tree(linux: str) -> Path:
    """The unpacked sources, in the cache."""
    return source.pristine(source.locate(linux))


def touched(patch: str) -> list[str]:
    """The files that a patch changes or adds."""
    return re.findall(r"^\+\+\+ b/(\S+)$", patch, re.M)


@pytest.fixture
def copy(linux: str, tree: Path, tmp_path: Path) -> Path:
    """A copy of the files that the patches touch."""
    folder = tmp_path / "linux"
    for name in {name for patch in series.read(linux) for name in touched(patch.text.decode())}:
        if (tree / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(tree / name, folder / name)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder but git's own."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    names = [(str(path.relative_to(folder)), path) for path in files]
    return {name: path.read_bytes() for name, path in names if not name.startswith(".git/")}


def test_every_patch_applies(linux: str, copy: Path) -> None:
    """One after the other, without fuzz or offset."""
    for patch in series.read(linux):
        done = subprocess.run(
            ["patch", "-p1", "--forward", "--batch", "--fuzz=0"],
            input=patch.text.decode(),
            cwd=copy,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "offset" not in done.stdout
    assert (copy / "drivers/virt/symbiotic/core.c").is_file()


def test_git_takes_the_series(linux: str, copy: Path, tmp_path: Path) -> None:
    """As somebody does who has a kernel of his own: the tree is that of the kernel's build, with a commit a patch."""

    def git(*words: str) -> str:
        who = ("-c", "user.name=Some One", "-c", "user.email=some.one@localhost")
        return subprocess.check_output(["git", *who, *words], cwd=copy, text=True)

    built = source.patched(copy, series.read(linux), tmp_path / "built")
    git("init", "-q")
    git("add", "-A")
    git("commit", "-q", "-m", "Linux")
    written = series.write(linux, tmp_path / "series")
    git("am", "-q", *written)
    assert contents(copy) == contents(built)
    assert git("status", "--porcelain", "--ignored") == ""
    commits = git("log", "--reverse", "--format=%s").splitlines()[1:]
    assert len(commits) == len(written)
    # What git makes of a commit has the same name.
    again = git("format-patch", "-o", str(tmp_path / "again"), f"HEAD~{len(written)}").split()
    assert [Path(name).name for name in again] == [Path(name).name for name in written]


@pytest.mark.rest
def test_checkpatch_has_no_remark(linux: str, tree: Path, tmp_path: Path) -> None:
    for path in series.write(linux, tmp_path):
        done = subprocess.run(
            [
                *("perl", "scripts/checkpatch.pl", "--strict", "--ignore", ASKED),
                *("--no-summary", "--terse", path),
            ],
            cwd=tree,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), path
