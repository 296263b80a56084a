# SPDX-License-Identifier: Apache-2.0
"""Exit statuses."""

from __future__ import annotations

import pytest

from pyvmm.launch import status
from pyvmm.machine import result as results


@pytest.mark.parametrize(
    ("reason", "reported", "code"),
    [
        (results.POWEROFF, None, 0),
        (results.POWEROFF, 0, 0),
        (results.REBOOT, 7, 7),
        (results.HALT, 118, 118),
        (results.PANIC, None, status.GUEST_PANIC),
        (results.PANIC, 3, status.GUEST_PANIC),
        (results.TRIPLE_FAULT, None, status.GUEST_FAULT),
        (results.STOPPED, 0, status.STOPPED),
        (results.TIMEOUT, None, status.TIMEOUT),
        *((reason, 0, status.VMM) for reason in sorted(results.VMM_FAULTS)),
    ],
)
def test_ends_become_statuses(reason: str, reported: int | None, code: int) -> None:
    assert status.of_result(reason, reported) == code


def test_every_reason_has_a_status_and_every_status_a_meaning() -> None:
    reasons = {*results.BY_EVENT.values(), results.STOPPED, results.TIMEOUT}
    for reason in reasons:
        code = status.of_result(reason, None)
        assert code == 0 or code in status.MEANINGS
        assert (code == 0) == (reason in results.CLEAN)


def test_statuses_are_distinct() -> None:
    numbers = [
        value for name, value in vars(status).items() if name.isupper() and name != "MEANINGS"
    ]
    assert len(numbers) == len(set(numbers))
    assert all(0 <= number <= 255 for number in numbers)
