# SPDX-License-Identifier: Apache-2.0
"""Which files run under the sanitizers."""

from __future__ import annotations

import re
from pathlib import Path

from tests.runner import sanitize
from tests.support.tree import ROOT


def test_files_of_all_folders_but_those_that_say_nothing() -> None:
    names = list(sanitize.files("address", sanitize.FOLDERS))
    folders = {Path(name).parent for name in names}
    assert {Path("tests/bare"), Path("tests/unit/virtio"), Path("tests/unit/machine")} <= folders
    assert "tests/unit/house/test_docs.py" not in names
    assert len(set(names)) == len(names)


def test_what_is_left_out_exists() -> None:
    files = list(ROOT.glob("tests/**/test_*.py"))
    tests = re.findall(r"^def (test_\w+)", "\n".join(map(Path.read_text, files)), re.MULTILINE)
    there = {path.stem for path in files} | set(tests)
    left_out = {
        *sanitize.LEFT_OUT,
        *(name for each in sanitize.KINDS.values() for name in each.left_out),
    }
    assert left_out <= there
