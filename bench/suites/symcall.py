# SPDX-License-Identifier: Apache-2.0
"""A symcall's round trip against a plain exit: from C and Python, from CPL 0 and 3, against calls without care.

Every subject runs the same guest. A round is an exit of it, with a call into it or without. All KVM ioctls are timed by
a library preloaded into this program (ioctl_clock.c); a sample is the median round of a run.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from bench import options, peers
from bench.loads import naive, ours, steps, symguest
from bench.report import chart, record, stats
from bench.report.aims import Aim, Verdict, text, verdicts
from bench.report.stats import Plan, Samples

PATIENCE = 60.0
TRIES = 3

BARE_EXIT = "exit, bare C"
EXIT = "exit, C"
CALL = "exit + symcall, C"
CALL_KEEPING = "exit + symcall, C, no promise"
PYTHON = "exit, Python"
PYTHON_CALL = "exit + symcall, Python"
OFF = "exit, C, symbiotic off"
READY = "exit, C, registered"
BARE_SYNC = "exit + call, bare C, shared"
BARE_IOCTLS = "exit + call, bare C, ioctls"
KVM_EXIT = "exit, pyvmm.kvm"
KVM_IOCTLS = "exit + call, pyvmm.kvm, ioctls"
LEGEND = """\
bare C: a loop of KVM_RUN and no more. shared: registers through the run structure (KVM_CAP_SYNC_REGS);
ioctls: GET and SET of REGS and SREGS. pyvmm.kvm: a loop in Python over the bindings alone.
no promise: the VMM keeps the guest's extended state as well.
registered: the guest takes symcalls and gets none. From CPL 3 a port stands for the doorbell, which is for CPL 0."""


AIMS = (
    Aim(CALL, "CPL 0", EXIT, 2.1),
    Aim(CALL, "CPL 3", EXIT, 2.6),
    Aim(PYTHON_CALL, "CPL 0", CALL, 1.3),
    Aim(PYTHON_CALL, "CPL 3", CALL, 1.3),
    Aim(EXIT, "CPL 0", OFF, 1.0),
    Aim(READY, "CPL 0", OFF, 1.0),
    Aim(READY, "CPL 3", OFF, 1.0),
)

#: Whose steps are shown.
STEPPED = (CALL, PYTHON_CALL, BARE_SYNC, BARE_IOCTLS)

Subject = Callable[[int, int], list[steps.Record]]


class Bare:
    """The program bare_symcall, built in a folder with the guest's image beside it."""

    def __init__(self, folder: str, library: str) -> None:
        self.program = peers.compiled(folder, "bare_symcall")
        self.image = str(Path(folder) / "image")
        self.library = library
        Path(self.image).write_bytes(symguest.image())
        self.lost = 0

    def command(self, method: str, flags: int, rounds: int) -> list[str]:
        port = ours.PORT_IN_C if flags & symguest.FLAG_USER or method == "plain" else ours.DOORBELL
        return [self.program, self.image, method, str(port), str(flags), str(rounds)]

    def run(self, method: str, flags: int, rounds: int) -> list[steps.Record]:
        """Its ioctls. A program that hangs, as the lab's emulator now and then makes it, is run again and counted."""
        for _ in range(TRIES):
            try:
                return steps.trace(self.library, self.command(method, flags, rounds), PATIENCE)
            except subprocess.TimeoutExpired:
                self.lost += 1
        raise RuntimeError(f"{self.program} hung {TRIES} times")


def subjects(bare: Bare, clock: steps.Clock) -> dict[str, Subject]:
    """What is measured: functions of the guest's flags and of rounds, to the ioctls that were made."""

    def within(run: Callable[..., float], extra: int = 0, **options: Any) -> Subject:
        return lambda flags, rounds: clock.record(lambda: run(flags | extra, rounds, **options))

    def alone(method: str) -> Subject:
        return lambda flags, rounds: bare.run(method, flags, rounds)

    def by_ioctls(flags: int, rounds: int, *, calling: bool) -> float:
        from_kernel = calling and not flags & symguest.FLAG_USER
        port = ours.DOORBELL if from_kernel else ours.PORT_IN_C
        return naive.run(port, flags, rounds, calling=calling)

    return {
        BARE_EXIT: alone("plain"),
        EXIT: within(ours.exit_in_c),
        CALL: within(ours.call_in_c),
        CALL_KEEPING: within(ours.call_in_c, symguest.FLAG_NO_PROMISE),
        PYTHON: within(ours.exit_in_python),
        PYTHON_CALL: within(ours.call_in_python),
        OFF: within(ours.exit_in_c, symbiotic=False),
        READY: within(ours.exit_in_c, symguest.FLAG_REGISTER),
        BARE_SYNC: alone("sync"),
        BARE_IOCTLS: alone("regs"),
        KVM_EXIT: within(by_ioctls, calling=False),
        KVM_IOCTLS: within(by_ioctls, calling=True),
    }


class Measured:
    """Each subject's rounds: seconds of the usual round of each run, and the steps of that round."""

    def __init__(self, runs: dict[str, Subject], plan: Plan, exits: int) -> None:
        self._shares: dict[str, list[list[steps.Share]]] = {}
        self.samples: Samples = stats.interleave(
            {name: partial(self._once, name, run, exits) for name, run in runs.items()}, plan
        )

    def _once(self, name: str, run: Subject, exits: int) -> dict[str, float]:
        figures = {}
        for cpl, flags in ours.CPLS.items():
            cut = steps.rounds_of(run(flags, exits), exits)
            figures[cpl] = steps.seconds(cut)
            if name in STEPPED:
                self._shares.setdefault(f"{name}, {cpl}", []).append(steps.shares(cut))
        return figures

    def steps(self) -> dict[str, list[steps.Share]]:
        """The steps of the calls, CPL 0 first."""
        return {name: steps.merged(self._shares[name]) for name in sorted(self._shares, key=order)}


def order(name: str) -> tuple[str, int]:
    subject, _, cpl = name.rpartition(", ")
    return cpl, STEPPED.index(subject)


def measure_remote(plan: Plan, calls: int) -> Samples:
    return stats.interleave(
        {name: partial(ours.remote, flags, calls) for name, flags in ours.WHILE.items()},
        plan._replace(base=""),
    )


def remote_table(samples: Samples) -> str:
    lines = ["called from another thread (the median, and the slowest, of each run; their medians)"]
    for name, figures in samples.items():
        middle, slowest = (statistics.median(figures[key]) * 1e6 for key in ("median", "slowest"))
        lines.append(f"  {name:24} {middle:10.2f} us  slowest {slowest:10.2f} us")
    return "\n".join(lines)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--exits", type=int, help="exits a sample: 2000, with --quick 300")


def main(args: argparse.Namespace) -> None:
    args.exits = args.exits or (300 if args.quick else 2000)
    library = os.environ.get("LD_PRELOAD", "")
    if Path(library).name == steps.LIBRARY:
        return run(args, library)
    with tempfile.TemporaryDirectory() as folder:
        environment = steps.clocked(steps.build_clock(folder))
        command = [sys.executable, "-m", "bench", *sys.argv[1:]]
        raise SystemExit(subprocess.run(command, env=environment, check=False).returncode)


def run(args: argparse.Namespace, library: str) -> None:
    """In a process that has the clock."""
    with tempfile.TemporaryDirectory() as folder:
        bare = Bare(folder, library)
        plan = options.plan(args, EXIT, rounds=15, quick=5)
        measured = Measured(subjects(bare, steps.Clock()), plan, args.exits)
        remote = measure_remote(plan, max(args.exits // 20, 10))
    samples, found = measured.samples, measured.steps()
    judged = verdicts(AIMS, samples)
    made = record.write(
        args.json, "symcall", samples, base=EXIT, scale=1e6, unit="us", judged=judged, notes=LEGEND,
        exits=args.exits, remote=remote, lost=bare.lost,
        steps={name: [share._asdict() for share in shares] for name, shares in found.items()},
    )  # fmt: skip
    report(args, made, remote, found, judged)


def report(
    args: argparse.Namespace,
    made: dict[str, Any],
    remote: Samples,
    found: dict[str, list[steps.Share]],
    judged: list[Verdict],
) -> None:
    samples = made["samples"]
    print(stats.table(samples, EXIT, "us", 1e6))
    print(LEGEND)
    print(f"\n{remote_table(remote)}")
    print(f"\nsteps of a round: the median of each, timed around its ioctl\n{steps.table(found)}")
    print(f"\n{text(judged)}")
    bars = chart.bars(samples, EXIT)
    if not args.plot:
        print(f"\n{chart.text(bars, 'us', 1e6)}")
        return
    chart.picture(args.plot, record.title(made), bars, found, "us", 1e6)
    print(f"\n{args.plot}")
