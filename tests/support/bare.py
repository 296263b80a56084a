# SPDX-License-Identifier: Apache-2.0
"""Bare-metal guests for tests: assembly text in, a machine with it out."""

from __future__ import annotations

import functools
import subprocess
import tempfile
from pathlib import Path

from pyvmm.config import CpuState, MachineConfig
from pyvmm.machine.machine import Machine

CODE = 0x1000
STACK = 0x8000
MMIO = 0xD0100000


@functools.cache
def assemble(text: str, bits: int = 32, origin: int = CODE) -> bytes:
    """Machine code of GNU assembler text (AT&T off), placed at `origin`, by the binutils that came with gcc."""
    with tempfile.TemporaryDirectory() as folder:
        source, obj, linked, flat = (Path(folder) / name for name in ("s.s", "o.o", "l", "f"))
        source.write_text(f".intel_syntax noprefix\n.code{bits}\n.globl _start\n_start:\n{text}\n")
        subprocess.run(["as", "--64", "-o", obj, source], check=True)
        subprocess.run(
            ["ld", f"-Ttext={origin:#x}", "-o", linked, obj], check=True, capture_output=True
        )
        subprocess.run(["objcopy", "-O", "binary", "-j", ".text", linked, flat], check=True)
        return flat.read_bytes()


def machine(text: str, *, irqchip: bool = False, memory: int = 1 << 20, cpus: int = 1) -> Machine:
    """A machine whose first vCPU will run the 32-bit protected-mode code, with a stack."""
    built = Machine(MachineConfig(memory, cpus, irqchip=irqchip))
    built.memory.write(CODE, assemble(text))
    built.set_state(CpuState("protected", rip=CODE, rsp=STACK))
    return built


def run(built: Machine, timeout: float = 60) -> object:
    """Starts it and waits for the end, which must come."""
    built.start()
    result = built.wait(timeout)
    assert result is not None, f"the guest did not end in {timeout} s"
    return result
