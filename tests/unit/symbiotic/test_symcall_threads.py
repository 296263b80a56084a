# SPDX-License-Identifier: Apache-2.0
"""Symcalls that pass between threads, under the sanitizers."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pyvmm._core import lib
from tests.support import c_library

HERE = Path(__file__).resolve().parent
SANITIZERS = ("thread", "address,undefined")
ROUNDS = 6000
WITHDRAWN, DISOWNED = lib.SYMCALL_HOST + 1, lib.SYMCALL_HOST + 2

#: Ends that a call may have there; the others would be faults.
SEEN = {
    *(lib.SYMCALL_OK, lib.SYMCALL_ERROR, lib.SYMCALL_ABSENT, lib.SYMCALL_DISABLED),
    *(lib.SYMCALL_FAULT, lib.SYMCALL_STOPPED, WITHDRAWN, DISOWNED),
}


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_calls_pass_between_threads(tmp_path: Path, sanitizer: str) -> None:
    source = HERE / "symcall_threads.c"
    command = c_library.sanitized(
        tmp_path, source, sanitizer, "ioctl=fake_ioctl", extra=(c_library.FAKE_KVM,)
    )
    run = subprocess.run(
        [*command, "1", str(ROUNDS)], capture_output=True, text=True, timeout=600, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    ends = [int(word) for word in run.stdout.split()]
    assert sum(ends) >= ROUNDS
    assert {end for end, count in enumerate(ends) if count} - {lib.SYMCALL_DEADLINE} == SEEN
