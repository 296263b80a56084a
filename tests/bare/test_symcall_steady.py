# SPDX-License-Identifier: Apache-2.0
"""The guest that checks all its state (support/integrity.py), upcalled by a loop in C, at any instruction."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest

from tests.support import guest64
from tests.support.integrity import CHEAP, FAIL, LAB, NMI, OPERATIONS, Integrity, parts
from tests.support.steady_caller import SteadyCaller

pytestmark = pytest.mark.host("linux")

#: Calls of C in each of two tests, 100,000 together. In the lab, where a change of threads takes a millisecond, fewer;
#: PYVMM_STEADY_CALLS says how many.
STEADY = int(os.environ.get("PYVMM_STEADY_CALLS", "3000" if LAB else "50000"))
#: Calls that come while an NMI is served: a KVM without SVM spends little of its time there, and has no such fault.
IN_NMI = 30 if LAB else 10


@pytest.mark.parametrize(("part", "isolate"), parts(True))
def test_state_survives_calls_at_any_instruction(
    part: float, isolate: bool, tmp_path: Path
) -> None:
    """Calls of a thread only, one at a time, a fourth or more at each level of privilege."""
    calls = round(STEADY * part)
    guest = Integrity(promise=isolate, isolate=isolate, echoes=False)
    with (
        guest.machine,
        closing(SteadyCaller(tmp_path, guest.machine, guest.numbers, CHEAP, FAIL)) as caller,
    ):
        guest64.write(guest.machine, guest.image, "loop_windows", 3)
        guest.run_steadily(caller, calls, calls // 4)
        guest.check(calls)
        print(caller.interrupted, caller.moved)
    assert min(caller.interrupted) >= calls // 4
    assert caller.moved > calls // 2


def test_nmis_that_are_served_stay_alone(tmp_path: Path) -> None:
    """Calls that come while an NMI is served, its IRET under way even, and that send the next one.

    KVM's SVM takes an IRET for done where RIP has changed: an NMI during the call would have the stack of the first.
    """
    guest = Integrity(promise=True, echoes=False)
    kinds = 1 << OPERATIONS.index("nothing") | 1 << OPERATIONS.index("nmi")
    guest64.write(guest.machine, guest.image, "kinds", kinds)
    with guest.machine, closing(SteadyCaller(tmp_path, guest.machine, NMI, NMI, FAIL)) as caller:
        guest.take_turns(caller.turn, lambda: caller.in_nmi >= IN_NMI)
        assert caller.in_nmi >= IN_NMI
        assert guest.value("nmi_inside")
