# SPDX-License-Identifier: Apache-2.0
"""The example in the README prints what the README says."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.support.tree import ROOT

EXAMPLE = re.compile(
    r"^```python\n(.*?)^```\n.*?\n\n((?:^ {4}[^\n]*\n)+)", re.MULTILINE | re.DOTALL
)


def without_count(text: str) -> str:
    """How many exits a boot takes depends on the kernel."""
    return re.sub(r"\d+ port exits", "N port exits", text)


def test_example() -> None:
    found = EXAMPLE.search((ROOT / "README.md").read_text())
    assert found is not None
    code, said = found[1], re.sub(r"^ {4}", "", found[2], flags=re.MULTILINE)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    # Either vCPU may run the command.
    words = [re.sub(r"vCPU \d", "vCPU n", without_count(text)) for text in (done.stdout, said)]
    assert words[0] == words[1]
