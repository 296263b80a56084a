# SPDX-License-Identifier: Apache-2.0
"""What the documents show, as far as any KVM can run it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from tests.support import bare
from tests.support.tree import ROOT


def test_bindings() -> None:
    text = (ROOT / "docs/kvm.md").read_text()
    code = re.search(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert code is not None
    done = subprocess.run(
        [sys.executable, "-c", code[1]], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.stdout, done.returncode) == ("0x10 b'A'\n", 0), done.stderr


def test_flat_binary_by_the_command_line(tmp_path: Path) -> None:
    """It reports 7 as its status, powers off by ACPI, and the record has the keys that the reference names."""
    code = "mov al, 7; out 0xf4, al; mov dx, 0x604; mov ax, 0x3400; out dx, ax; hlt"
    (tmp_path / "flat").write_bytes(bare.assemble(code))
    record = tmp_path / "record"
    command = [
        sys.executable,
        "-m",
        "pyvmm",
        "run",
        "-k",
        str(tmp_path / "flat"),
        "--flat",
        "protected",
    ]
    done = subprocess.run(
        [*command, "-m", "2M", "--json", str(record)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 7, done.stderr
    keys = set(json.loads(record.read_text()))
    text = (ROOT / "docs/command-line.md").read_text().partition("### The record")[2]
    named = set(re.findall(r"`(\w+)`", text.partition("\n\n`config` has")[0]))
    assert keys <= named
