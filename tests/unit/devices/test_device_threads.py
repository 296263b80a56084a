# SPDX-License-Identifier: Apache-2.0
"""Devices between their threads, vCPUs and the program, under the sanitizers."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support import c_library

SOURCE = Path(__file__).resolve().parent / "device_threads.c"
LIVES = 40


@pytest.mark.parametrize("sanitizer", ["thread", "address,undefined"])
def test_devices_pass_between_threads(tmp_path: Path, sanitizer: str) -> None:
    command = c_library.sanitized(tmp_path, SOURCE, sanitizer)
    run = subprocess.run(
        [*command, "1", str(LIVES)], capture_output=True, text=True, timeout=600, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    requests, resets, sent = map(int, run.stdout.split())
    assert requests > LIVES
    assert resets > LIVES
    assert sent > LIVES
