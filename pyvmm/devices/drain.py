# SPDX-License-Identifier: Apache-2.0
"""Waits until a device has written what its guest sent."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable

from pyvmm.quantity import check_seconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm.machine.handle import Handle

#: The longest that one call of C holds the device, seconds: it cannot be closed meanwhile.
TURN = 1.0


def drain(handle: Handle, wait: Callable[[Any, int], int], timeout: float) -> bool:
    """`wait(pointer, milliseconds)` in turns, as long as that gives -ETIMEDOUT and `timeout` seconds are not over.

    True once it gives 0, which is all written; False for the end of the time and for any other error.

    Raises StateError if the device is closed meanwhile, ConfigError for a time that cannot be.
    """
    deadline = time.monotonic() + check_seconds(timeout, "a timeout")
    while True:
        left = max(deadline - time.monotonic(), 0.0)
        with handle as device:
            result = wait(device, int(min(left, TURN) * 1000))
        if result != -errno.ETIMEDOUT or left <= TURN:
            return result == 0
