# SPDX-License-Identifier: Apache-2.0
"""One run of a benchmark's suite, for its record."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.report import record


def measured(name: str, folder: Path, *more: str) -> dict[str, Any]:
    """The record of a run of one round."""
    path = folder / f"{name}.json"
    words = [sys.executable, "-m", "bench", name, "--rounds", "1", "--quick", "--json", str(path)]
    done = subprocess.run([*words, *more], capture_output=True, text=True, timeout=360, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return record.load(path)
