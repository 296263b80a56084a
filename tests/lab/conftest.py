# SPDX-License-Identifier: Apache-2.0
"""Labs that a failed test has left running are ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.lab_program import STARTED

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _nothing_is_left_running() -> Iterator[None]:
    """Ends what a test that failed has left, and closes its pipes."""
    yield
    while STARTED:
        with STARTED.pop() as process:
            if process.poll() is None:
                process.kill()
