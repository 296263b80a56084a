# SPDX-License-Identifier: Apache-2.0
"""What an exit to user space costs: a bare C loop (the limit), our C loop, a Python hook."""

from __future__ import annotations

import argparse
import subprocess
import tempfile

from bench import options, peers
from bench.report import page, stats
from bench.report.aims import Aim
from bench.report.stats import Samples
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
    """Seconds of `exits` exits in the bare C loop."""
    return int(subprocess.check_output([program, str(exits)])) / 1e9


def ours(port: int, hooked: bool, exits: int) -> float:
    """Seconds of `exits` exits in pyvmm, from the start of the vCPU's thread to its halt."""
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


def per_exit(measure: object, exits: int) -> dict[str, float]:
    """Seconds of one exit: a long run less a run with one exit, so that start and end do not count."""
    assert callable(measure)
    return {"exit": (measure(exits) - measure(1)) / (exits - 1)}


def measure(plan: stats.Plan, exits: int) -> Samples:
    with tempfile.TemporaryDirectory() as folder:
        program = peers.compiled(folder, "bare_loop")
        return stats.interleave(
            {
                BARE: lambda: per_exit(lambda n: bare(program, n), exits),
                IN_C: lambda: per_exit(lambda n: ours(PORT_IN_C, False, n), exits),
                IN_PYTHON: lambda: per_exit(lambda n: ours(PORT_IN_PYTHON, True, n), exits),
            },
            plan,
        )


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--exits", type=int, default=EXITS)


def main(args: argparse.Namespace) -> None:
    samples = measure(options.plan(args, BARE, rounds=21, quick=7), args.exits)
    page.conclude(args, "exits", samples, AIMS, base=BARE, scale=1e6, unit="us", exits=args.exits)
