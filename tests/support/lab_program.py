# SPDX-License-Identifier: Apache-2.0
"""`pyvmm lab` as a process of its own, and what a command in a lab printed."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest

from pyvmm.lab import Lab
from pyvmm.lab.session import BOOT_TIMEOUT
from tests.support.tree import ROOT

LIMIT = 2 * BOOT_TIMEOUT


class Output:
    """What a command printed and how it ended."""

    def __init__(self, lab: Lab, command: list[str], **more: object) -> None:
        out, err = io.BytesIO(), io.BytesIO()
        more.setdefault("stdin", subprocess.DEVNULL)
        more.setdefault("timeout", LIMIT)
        self.status = lab.run(command, stdout=out, stderr=err, **more)  # type: ignore[arg-type]
        self.out, self.err = out.getvalue(), err.getvalue()


STARTED: list[subprocess.Popen[bytes]] = []


def program(*words: str, **more: object) -> subprocess.Popen[bytes]:
    """`pyvmm lab` as a process of its own, which does not outlive the test."""
    command = [sys.executable, "-m", "pyvmm.lab", *words]
    more.setdefault("stdin", subprocess.DEVNULL)
    more.setdefault("stdout", subprocess.PIPE)
    more.setdefault("stderr", subprocess.PIPE)
    STARTED.append(subprocess.Popen(command, cwd=ROOT, **more))  # type: ignore[call-overload]
    return STARTED[-1]


def finished(process: subprocess.Popen[bytes]) -> tuple[int, bytes, bytes]:
    out, err = process.communicate(timeout=LIMIT)
    return process.returncode, out, err


def expect(process: subprocess.Popen[bytes], said: bytes) -> None:
    """Waits for that on its standard output; where something else comes, or its end, says how it ended and why."""
    assert process.stdout is not None
    got = process.stdout.read(len(said))
    if got != said:
        process.terminate()
        status, rest, err = finished(process)
        text = err.decode(errors="replace")
        pytest.fail(f"{got + rest!r} in place of {said!r}; status {status}, on stderr:\n{text}")
