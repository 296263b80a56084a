# SPDX-License-Identifier: Apache-2.0
"""The device knows no transport but the one that it is given, and has as many queues as it says."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support import c_library

SOURCE = Path(__file__).with_name("transport.c")


def test_a_transport_of_its_own_and_many_queues(tmp_path: Path) -> None:
    command = c_library.sanitized(tmp_path, SOURCE, "address,undefined")
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
