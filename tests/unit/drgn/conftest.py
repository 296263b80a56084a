# SPDX-License-Identifier: Apache-2.0
"""A made-up kernel's note, a process with its memory, and drgn over it."""

from __future__ import annotations

import os
import subprocess
import sys

import drgn
import pytest

from pyvmm.drgn import vmcoreinfo
from pyvmm.drgn.program import reader
from tests.support.madeup_kernel import MIB, guest, text

#: Prints where its two mebibytes lie, and keeps them until it is told to end.
HOLD = """
import mmap, sys
import ctypes
m = mmap.mmap(-1, 1 << 21)
m[:4] = b"head"
m[(1 << 21) - 4:] = b"tail"
print(ctypes.addressof(ctypes.c_char.from_buffer(m)), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def other():
    """A process with two mebibytes; yields it, the address and a descriptor of its memory."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    address = int(process.stdout.readline())
    fd = os.open(f"/proc/{process.pid}/mem", os.O_RDONLY)
    yield process, address, fd
    os.close(fd)
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        pipe.close()


@pytest.fixture
def info(monkeypatch, tmp_path):
    monkeypatch.setenv("PYVMM_CACHE", str(tmp_path / "cache"))
    return vmcoreinfo.parse(text())


@pytest.fixture
def prog():
    prog = drgn.Program(drgn.Platform(drgn.Architecture.X86_64), vmcoreinfo=text())
    memory = guest()
    prog.add_memory_segment(0, 2 * MIB, reader(memory), True)
    prog.set_linux_kernel_custom(text(), True)
    yield prog
    drgn.set_default_prog(None)


@pytest.fixture(autouse=True)
def _process_as_before(monkeypatch):
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(sys, "path", list(sys.path))
