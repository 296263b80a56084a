# SPDX-License-Identifier: Apache-2.0
"""The guest that checks all its state (support/integrity.py), upcalled by Python, from hooks and another thread."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support import guest64
from tests.support.integrity import EXCURSION, KINDS, LAB, Integrity, parts

ALL_EXITS = {f"{kind} {way}" for kind in KINDS for way in ("read", "write")}
#: Calls of Python in each test, from its thread and in hooks; then all, with those that the guest asks for.
MADE = 1_500 if LAB else 8_000
ALL = 10_000 if LAB else 25_000


def all_over(part: float, share: float, pause: float, **options: Any) -> None:
    """Part of these calls."""
    integrity(round(ALL * part), round(MADE * part), share, pause, **options)


def integrity(upcalls: int, made: int, share: float, pause: float, **options: Any) -> None:
    guest = Integrity(**options)
    with guest.machine:
        guest.share = share
        # The one we know has gone back to code of the handler's CPL 3 after a read of MMIO that was executed again
        # (docs/symbiotic.md): there such handlers are called by a thread only.
        if share and guest64.is_software():
            guest.numbers &= ~EXCURSION
        guest64.write(guest.machine, guest.image, "echo_windows", 2 if guest.echoes else 0)
        guest.run(upcalls, made, pause)
        guest.check(upcalls)
    assert set(guest.from_exits) == (ALL_EXITS if share else set())
    print(dict(guest.made), dict(guest.from_exits))


@pytest.mark.host("linux")
@pytest.mark.parametrize(("part", "isolate"), parts(True))
def test_state_survives_handlers_that_lose_it(part: float, isolate: bool) -> None:
    """Without a promise: the handlers also lose vector registers and KERNEL_GS_BASE."""
    all_over(part, 6.0, 0.004, isolate=isolate)


@pytest.mark.host("linux")
@pytest.mark.parametrize(("part", "isolate"), parts(False))
def test_state_survives_handlers_that_promise_to_keep_it(part: float, isolate: bool) -> None:
    all_over(part, 6.0, 0.004, promise=True, isolate=isolate)


@pytest.mark.host("linux")
@pytest.mark.parametrize(("part", "isolate"), parts(False))
def test_state_survives_calls_of_a_thread(part: float, isolate: bool) -> None:
    """With nothing else than what the guest asks for, back to back."""
    all_over(part, 0.0, 0.002, isolate=isolate)


@pytest.mark.host("linux")
@pytest.mark.parametrize("late", ["thread", "exit"])
def test_state_survives_a_handler_that_is_cut_short(late: str) -> None:
    """One that lost all it could, during calls of a thread and of hooks; it is cut short."""
    promise = late == "exit"
    integrity(MADE // 8, MADE // 8, 4.0, 0.004, promise=promise, isolate=promise, late=late)


@pytest.mark.host("vmx", "shadow")
@pytest.mark.parametrize("promise", [False, True], ids=["no-promise", "promise"])
def test_state_survives_in_short(promise: bool) -> None:
    """Enough to see that it works at all on a KVM of another kind."""
    integrity(2_000, 500, 4.0, 0.01, promise=promise, isolate=promise)
