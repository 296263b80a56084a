# SPDX-License-Identifier: Apache-2.0
"""Where the time of a symcall goes: a program's KVM ioctls, timed (ioctl_clock.c), cut into rounds and named.

A step is one ioctl; what lies between two of them is the VMM's own work.
"""

from __future__ import annotations

import itertools
import os
import statistics
import struct
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from bench import symguest

HERE = Path(__file__).resolve().parent
RECORD = struct.Struct("=QQIiii")

KVM_RUN = 0xAE80
GET_REGS, SET_REGS = 0x8090AE81, 0x4090AE82
GET_SREGS, SET_SREGS = 0x8138AE83, 0x4138AE84
NAMES = {
    GET_REGS: "get registers",
    SET_REGS: "set registers",
    GET_SREGS: "get segments",
    SET_SREGS: "set segments",
}
EXIT = "exit"
HANDLER = "entry, handler, its exit"
SETTLE = "settle"
VMM = "between ioctls"


class Record(NamedTuple):
    """One ioctl; times in nanoseconds."""

    begin: int
    end: int
    request: int
    result: int
    thread: int
    fd: int


class Share(NamedTuple):
    """A step of a round: how often it comes, the median of its seconds in all, and its part of the round."""

    step: str
    times: int
    seconds: float
    part: float


def parse(data: bytes) -> list[Record]:
    """The records of a file that ioctl_clock.c wrote."""
    return [Record(*fields) for fields in RECORD.iter_unpack(data)]


def rounds_of(records: list[Record], rounds: int) -> list[list[Record]]:
    """The records of the vCPU that ran most, a list a round; rounds that something disturbed are left out.

    A round begins with the guest's exit. The last KVM_RUN that came back for an exit is the guest's end, so the rounds
    are counted from there backwards. To the records of a round the first one of the next is added, which tells when the
    round is over.
    """
    vcpu = Counter(r.fd for r in records if r.request == KVM_RUN).most_common(1)[0][0]
    of_vcpu = [r for r in records if r.fd == vcpu]
    last = max(i for i, r in enumerate(of_vcpu) if r.request == KVM_RUN and r.result == 0)
    period = last // (rounds + symguest.WARM_UP)
    starts = range(last - period * rounds, last, period)
    cut = [of_vcpu[start : start + period + 1] for start in starts]
    kinds = [tuple((r.request, r.result < 0) for r in one) for one in cut]
    usual = Counter(kinds).most_common(1)[0][0]
    return [one for one, kind in zip(cut, kinds, strict=True) if kind == usual]


def name_of(record: Record, runs_before: int) -> str:
    if record.request != KVM_RUN:
        return NAMES.get(record.request, f"ioctl {record.request:#x}")
    if record.result < 0:
        return SETTLE
    return HANDLER if runs_before else EXIT


def steps_of(one: list[Record]) -> dict[str, tuple[int, float]]:
    """The steps of one round: how often, and seconds in all."""
    found: dict[str, tuple[int, float]] = {}
    runs = 0
    for record, following in itertools.pairwise(one):
        name = name_of(record, runs)
        runs += record.request == KVM_RUN and record.result == 0
        for step, spent in ((name, record.end - record.begin), (VMM, following.begin - record.end)):
            times, seconds = found.get(step, (0, 0.0))
            found[step] = times + 1, seconds + spent / 1e9
    return found


def shares(records: list[Record], rounds: int) -> list[Share]:
    """The steps of the usual round, in their order, the VMM's own work last."""
    each = [steps_of(one) for one in rounds_of(records, rounds)]
    order = [step for step in each[0] if step != VMM] + [VMM]
    middle = {step: statistics.median(one[step][1] for one in each) for step in order}
    total = sum(middle.values())
    return [Share(step, each[0][step][0], middle[step], middle[step] / total) for step in order]


def build_clock(folder: str) -> str:
    """The library to preload."""
    library = str(Path(folder) / "ioctl_clock.so")
    source = str(HERE / "ioctl_clock.c")
    subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-o", library, source], check=True)
    return library


def trace(library: str, command: list[str], rounds: int, timeout: float) -> list[Share]:
    """Runs the command with the clock preloaded and says where its rounds spent their time."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "records"
        env = {
            "LD_PRELOAD": library,
            "IOCTL_CLOCK": str(target),
            "IOCTL_CLOCK_RECORDS": str((rounds + symguest.WARM_UP) * 16 + 10000),
        }
        subprocess.run(
            command, env=os.environ | env, check=True, timeout=timeout, stdout=subprocess.DEVNULL
        )
        return shares(parse(target.read_bytes()), rounds)


def table(shares_of: dict[str, list[Share]]) -> str:
    """For people: a block of lines for each subject."""
    lines = []
    for subject, found in shares_of.items():
        total = sum(share.seconds for share in found)
        lines.append(f"{subject}: {total * 1e6:.2f} us a round")
        for share in found:
            times = f"{share.times} x" if share.step != VMM else ""
            lines.append(
                f"  {share.step:26} {times:>4} {share.seconds * 1e6:9.2f} us {share.part * 100:5.1f} %"
            )
    return "\n".join(lines)
