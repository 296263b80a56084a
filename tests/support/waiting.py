# SPDX-License-Identifier: Apache-2.0
"""Waiting for what another process or thread does: for the thing itself, with a limit against hanging."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
SECONDS = 60.0
POLL = 0.02


def until(question: Callable[[], T], seconds: float = SECONDS) -> T:
    """What a question answers once it answers something true."""
    deadline = time.monotonic() + seconds
    while not (answer := question()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(POLL)
    return answer
