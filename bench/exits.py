# SPDX-License-Identifier: Apache-2.0
"""What an exit to user space costs: a bare C loop (the limit), our C loop, a Python hook."""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

from bench import stats
from pyvmm.machine.cpustate import CpuState
from pyvmm.machine.machine import Machine

HERE = Path(__file__).resolve().parent
PORT_IN_C = 0xF4
PORT_IN_PYTHON = 0xE0
CODE_AT = 0x1000
EXITS = 5000


def build_bare_loop(folder: str) -> str:
    program = str(Path(folder) / "bare_loop")
    subprocess.run(["gcc", "-O2", "-o", program, str(HERE / "bare_loop.c")], check=True)
    return program


def bare(program: str, exits: int) -> float:
    """Seconds of `exits` exits in the bare C loop."""
    return int(subprocess.check_output([program, str(exits)])) / 1e9


def ours(port: int, hooked: bool, exits: int) -> float:
    """Seconds of `exits` exits in pyvmm, from the start of the vCPU's thread to its halt."""
    code = b"\xb9" + exits.to_bytes(4, "little") + b"\xe6" + bytes([port]) + b"\x49\x75\xfb\xf4"
    with Machine(1 << 20, irqchip=False) as machine:
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


def measure(rounds: int, exits: int) -> dict[str, dict[str, list[float]]]:
    with tempfile.TemporaryDirectory() as folder:
        program = build_bare_loop(folder)
        return stats.interleave(
            {
                "bare C loop": lambda: per_exit(lambda n: bare(program, n), exits),
                "pyvmm, handled in C": lambda: per_exit(lambda n: ours(PORT_IN_C, False, n), exits),
                "pyvmm, Python hook": lambda: per_exit(
                    lambda n: ours(PORT_IN_PYTHON, True, n), exits
                ),
            },
            rounds,
        )


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--exits", type=int, default=EXITS)


def main(args: argparse.Namespace) -> None:
    samples = measure(args.rounds, args.exits)
    print(stats.table(samples, "bare C loop", "us", 1e6))
    stats.write(args.json or "bench/out/exits.json", "exits", samples, exits=args.exits)
