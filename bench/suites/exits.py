# SPDX-License-Identifier: Apache-2.0
"""The cost of an exit to user space: a bare C loop (the limit), our C loop, a Python hook."""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bench.loads import build
from bench.report.aims import Aim
from bench.rounds import Measure
from bench.suite import Subjects, Suite
from pyvmm.config import CpuState, MachineConfig
from pyvmm.machine.machine import Machine

PORT_IN_C = 0xF4
PORT_IN_PYTHON = 0xE0
CODE_AT = 0x1000
EXITS = 5000

BARE = "bare C loop"
IN_C = "pyvmm, handled in C"
IN_PYTHON = "pyvmm, Python hook"
AIMS = (Aim(IN_C, "exit", BARE, 1.05), Aim(IN_PYTHON, "exit", BARE, 1.5))


def bare(program: str, exits: int) -> float:
    """Return seconds of `exits` exits in the bare C loop."""
    return int(subprocess.check_output([program, str(exits)])) / 1e9


def ours(port: int, hooked: bool, exits: int) -> float:
    """Return seconds of `exits` exits in pyvmm, from the start of the vCPU's thread to its halt."""
    code = b"\xb9" + exits.to_bytes(4, "little") + b"\xe6" + bytes([port]) + b"\x49\x75\xfb\xf4"
    with Machine(MachineConfig(1 << 20, irqchip=False)) as machine:
        machine.memory.write(CODE_AT, code)
        machine.set_state(CpuState("protected", rip=CODE_AT))
        if hooked:
            machine.on_port(port, lambda exit: None)
        machine.start()
        result = machine.wait(120)
        assert result is not None
        assert result.reason == "halt"
        assert result.exits["io"] == exits
        return result.seconds


def per_exit(measure: Callable[[int], float], exits: int) -> Measure:
    """Return seconds of one exit: a long run less a run with one exit, so that start and end do not
    count.
    """
    return lambda: {"exit": (measure(exits) - measure(1)) / (exits - 1)}


@contextmanager
def subjects(args: argparse.Namespace) -> Iterator[Subjects]:
    with tempfile.TemporaryDirectory() as folder:
        program = build.compiled(folder, "bare_loop")
        made = {
            BARE: per_exit(lambda exits: bare(program, exits), args.exits),
            IN_C: per_exit(lambda exits: ours(PORT_IN_C, False, exits), args.exits),
            IN_PYTHON: per_exit(lambda exits: ours(PORT_IN_PYTHON, True, exits), args.exits),
        }
        yield Subjects(made, BARE, AIMS, about={"exits": args.exits})


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--exits", type=int, default=EXITS)


SUITE = Suite(
    "an exit to user space: bare C loop, C, Python hook",
    subjects,
    unit="us",
    scale=1e6,
    rounds=21,
    quick=7,
    options=add_options,
)
