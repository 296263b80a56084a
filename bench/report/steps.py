# SPDX-License-Identifier: Apache-2.0
"""Where the time of a symcall goes: a program's KVM ioctls, timed, cut into rounds and named.

A step is one ioctl; what lies between two of them is the VMM's own work.
"""

from __future__ import annotations

import itertools
import statistics
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from bench.loads.clock import Record

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


class Share(NamedTuple):
    """A step of a round: how often it comes, the median of its seconds in all, and its part of the
    round.
    """

    step: str
    times: int
    seconds: float
    part: float


def rounds_of(records: list[Record], rounds: int, warm_up: int) -> list[list[Record]]:
    """Cut the records of the vCPU that ran most into rounds; those that something disturbed are
    left out.

    A round begins with the guest's exit; the guest did `warm_up` rounds before those that count.
    The last KVM_RUN that came back for an exit is the guest's end, so the rounds are counted from
    there backwards. To the records of a round the first one of the next is added, which tells when
    the round is over.
    """
    vcpu = Counter(r.fd for r in records if r.request == KVM_RUN).most_common(1)[0][0]
    of_vcpu = [r for r in records if r.fd == vcpu]
    last = max(i for i, r in enumerate(of_vcpu) if r.request == KVM_RUN and r.result == 0)
    period = last // (rounds + warm_up)
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


def seconds(cut: list[list[Record]]) -> float:
    """Return the usual round, from the entry that its exit ends to the next one: the median, which
    a few that were held up by other work do not move.
    """
    return statistics.median(one[-1].begin - one[0].begin for one in cut) / 1e9


def steps_of(one: list[Record]) -> dict[str, tuple[int, float]]:
    """Return the steps of one round: how often, and seconds in all."""
    found: dict[str, tuple[int, float]] = {}
    runs = 0
    for record, following in itertools.pairwise(one):
        name = name_of(record, runs)
        runs += record.request == KVM_RUN and record.result == 0
        for step, spent in ((name, record.end - record.begin), (VMM, following.begin - record.end)):
            times, seconds = found.get(step, (0, 0.0))
            found[step] = times + 1, seconds + spent / 1e9
    return found


def shares(cut: list[list[Record]]) -> list[Share]:
    """Return the steps of the usual round, in their order, the VMM's own work last."""
    each = [steps_of(one) for one in cut]
    order = [step for step in each[0] if step != VMM] + [VMM]
    return with_parts(
        Share(step, each[0][step][0], statistics.median(one[step][1] for one in each), 0)
        for step in order
    )


def with_parts(found: Iterable[Share]) -> list[Share]:
    listed = list(found)
    total = sum(share.seconds for share in listed)
    return [share._replace(part=share.seconds / total) for share in listed]


def merged(runs: list[list[Share]]) -> list[Share]:
    """Return the medians over several runs; a run whose rounds had other steps than usual is left
    out.
    """
    kinds = [tuple((share.step, share.times) for share in run) for run in runs]
    usual = Counter(kinds).most_common(1)[0][0]
    alike = [run for run, kind in zip(runs, kinds, strict=True) if kind == usual]
    return with_parts(
        same[0]._replace(seconds=statistics.median(share.seconds for share in same))
        for same in zip(*alike, strict=True)
    )


def table(shares_of: dict[str, list[Share]]) -> str:
    """Return a table for people: a block of lines for each subject."""
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
