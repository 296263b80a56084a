# SPDX-License-Identifier: Apache-2.0
"""A symcall's round trip against a plain exit: from C and Python, from CPL 0 and 3, against calls
without care.

Every subject runs the same guest. A round is an exit of it, with a call into it or without. All KVM
ioctls are timed by a library preloaded into this program (bench/loads/clock.py); a sample is the
median round of a run.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from bench import rounds
from bench.loads import build, clock, naive, ours, symguest
from bench.loads.clock import Clock, Record
from bench.report import picture, steps
from bench.report.aims import Aim
from bench.report.stats import Samples
from bench.rounds import Measure, Plan
from bench.suite import Subjects, Suite

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

#: The subjects whose steps are shown.
STEPPED = (CALL, PYTHON_CALL, BARE_SYNC, BARE_IOCTLS)

Subject = Callable[[int, int], list[Record]]


class Bare:
    """The program bare_symcall, built in a folder with the guest's image beside it."""

    def __init__(self, folder: str, library: str) -> None:
        self.program = build.compiled(folder, "bare_symcall")
        self.image = str(Path(folder) / "image")
        self.library = library
        Path(self.image).write_bytes(symguest.image())
        self.lost = 0

    def command(self, method: str, flags: int, rounds: int) -> list[str]:
        port = ours.PORT_IN_C if flags & symguest.FLAG_USER or method == "plain" else ours.DOORBELL
        return [self.program, self.image, method, str(port), str(flags), str(rounds)]

    def run(self, method: str, flags: int, rounds: int) -> list[Record]:
        """Run it, and return its ioctls.

        A program that hangs, as the lab's emulator now and then makes it, is run again and counted.
        """
        for _ in range(TRIES):
            try:
                return clock.trace(self.library, self.command(method, flags, rounds), PATIENCE)
            except subprocess.TimeoutExpired:
                self.lost += 1
        raise RuntimeError(f"{self.program} hung {TRIES} times")


def runs(bare: Bare, within_us: Clock) -> dict[str, Subject]:
    """Return what is measured: functions of the guest's flags and of rounds, to the ioctls that
    were made.
    """

    def within(run: Callable[..., float], extra: int = 0, **options: Any) -> Subject:
        return lambda flags, rounds: within_us.record(lambda: run(flags | extra, rounds, **options))

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


class Steps:
    """The steps of the calls' rounds, as they were in each run."""

    def __init__(self) -> None:
        self._shares: dict[str, list[list[steps.Share]]] = {}

    def measure(self, name: str, run: Subject, exits: int) -> dict[str, float]:
        """Run a subject at each CPL: the seconds of its usual round."""
        figures = {}
        for cpl, flags in ours.CPLS.items():
            cut = steps.rounds_of(run(flags, exits), exits, symguest.WARM_UP)
            figures[cpl] = steps.seconds(cut)
            if name in STEPPED:
                self._shares.setdefault(f"{name}, {cpl}", []).append(steps.shares(cut))
        return figures

    def merged(self) -> dict[str, list[dict[str, Any]]]:
        """Merge the steps for the record: those of the usual run, CPL 0 first."""
        made = {name: steps.merged(self._shares[name]) for name in sorted(self._shares, key=order)}
        return {name: [share._asdict() for share in shares] for name, shares in made.items()}


def order(name: str) -> tuple[str, int]:
    subject, _, cpl = name.rpartition(", ")
    return cpl, STEPPED.index(subject)


def measure_remote(plan: Plan, calls: int) -> Samples:
    return rounds.interleave(
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


@contextmanager
def subjects(args: argparse.Namespace) -> Iterator[Subjects]:
    library = clock.preloaded()
    exits = args.exits or (300 if args.quick else 2000)
    with tempfile.TemporaryDirectory() as folder:
        bare, found = Bare(folder, library), Steps()

        def afterwards(plan: Plan) -> dict[str, Any]:
            remote = measure_remote(plan, max(exits // 20, 10))
            return {"remote": remote, "lost": bare.lost, "steps": found.merged()}

        made: dict[str, Measure] = {
            name: partial(found.measure, name, run, exits)
            for name, run in runs(bare, Clock()).items()
        }
        yield Subjects(made, EXIT, AIMS, LEGEND, {"exits": exits}, afterwards)


def tell(record: Mapping[str, Any]) -> str:
    """Return text about calls from other threads, and the steps of a round."""
    table = steps.table(picture.shares(record))
    return f"""\
{remote_table(record["remote"])}

steps of a round: the median of each, timed around its ioctl
{table}"""


SUITE = Suite(
    "a call into the guest: C and Python, from CPL 0 and 3, its steps",
    subjects,
    unit="us",
    scale=1e6,
    rounds=15,
    quick=5,
    options=add_options,
    tell=tell,
)
