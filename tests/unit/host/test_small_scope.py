# SPDX-License-Identifier: Apache-2.0
"""Every input of a small scope for the functions that addresses and buffers of a guest go through."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support import c_library

SOURCE = Path(__file__).resolve().parent / "small_scope.c"


def test_every_input_of_a_small_scope(tmp_path: Path) -> None:
    command = c_library.sanitized(tmp_path, SOURCE, "address,undefined")
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    lists, lookups, chains = map(int, run.stdout.split())
    assert lists > 1_000_000
    assert lookups > 2_000_000
    assert chains > 500_000
