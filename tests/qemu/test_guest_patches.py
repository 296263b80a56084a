# SPDX-License-Identifier: Apache-2.0
"""The patch series against the kernel sources that guests are built from."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pyvmm.guest import cache, source
from tests.support import kernels

#: checkpatch asks whether MAINTAINERS needs an update for each new file, in folders too that have their entry.
#: And it wants parentheses around the argument of a macro that is the name of a member, where they cannot be.
ASKED = "FILE_PATH_CHANGES,MACRO_ARG_PRECEDENCE"


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


def test_every_patch_applies(linux: str, tree: Path, tmp_path: Path) -> None:
    """One after the other, without fuzz or offset, in a copy of the files that they touch."""
    series = source.read_series(linux)
    for name in {name for patch in series for name in touched(patch.text.decode())}:
        if (tree / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(tree / name, tmp_path / name)
    for patch in series:
        path = str(Path(cache.patch_tree(), patch.name))
        command = ["patch", "-p1", "--forward", "--batch", "--fuzz=0", "-i", path]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "offset" not in done.stdout
    assert (tmp_path / "drivers/virt/symbiotic/core.c").is_file()


@pytest.mark.rest
def test_checkpatch_has_no_remark(linux: str, tree: Path) -> None:
    for patch in source.read_series(linux):
        done = subprocess.run(
            [
                *("perl", "scripts/checkpatch.pl", "--strict", "--ignore", ASKED),
                *("--no-summary", "--terse", str(Path(cache.patch_tree(), patch.name))),
            ],
            cwd=tree,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), patch.name
