# SPDX-License-Identifier: Apache-2.0
"""The part that all devices of a machine have: a record, counters, and an end."""

from __future__ import annotations

import errno
import time

from pyvmm.errors import StateError
from pyvmm.quantity import check_seconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, ClassVar

    from pyvmm.config import DeviceConfig
    from pyvmm.machine.handle import Handle

RUNS = ("running", "paused", "stopping")
#: The longest that one call of C holds a device, seconds: it cannot be closed meanwhile.
TURN = 1.0


class Device:
    """A device of a machine, made before the machine starts.

    A subclass takes its addresses and interrupt lines from `Machine.board`, then hands itself over
    with `Machine.add_device`, which closes it. `kind` is its word in records
    (`pyvmm.config.KINDS`).
    """

    kind: ClassVar[str] = "device"

    def __init__(self, machine: Any) -> None:
        self._machine = machine

    @property
    def config(self) -> DeviceConfig:
        """The record from which a device like this one can be made."""
        raise NotImplementedError

    def stats(self) -> dict[str, int]:
        """Return the counters since the device was made, by name.

        Raise StateError once it is closed.
        """
        return {}

    def report(self) -> dict[str, Any]:
        """Return its kind and what it counted, as the record of a run has them."""
        return {"kind": self.kind, **self.stats()}

    def drain(self, timeout: float = 10.0) -> bool:
        """Wait until the host has everything that the guest sent; False if `timeout` seconds pass
        first.
        """
        return True

    def close(self) -> None:
        """Stop the device's threads and free it. May be called twice.

        Raise StateError while the machine runs. A device whose thread does not stop raises
        HostError (ETIMEDOUT) and frees nothing; it may be called again.
        """
        check_stands(self._machine)


def check_stands(machine: Any) -> None:
    """Raise StateError while a machine runs: its devices can be closed before and afterwards."""
    if getattr(machine, "state", None) in RUNS:
        raise StateError(
            f"the machine is {machine.state}; its devices are closed when it has ended"
        )


def drain(handle: Handle, wait: Callable[[Any, int], int], timeout: float) -> bool:
    """Call `wait(pointer, milliseconds)` in turns, as long as that gives -ETIMEDOUT and there is
    time left.

    True once it gives 0, which is all written; False after `timeout` seconds and for any other
    error. Raise StateError if the device is closed meanwhile, ConfigError for a time that cannot
    be.
    """
    deadline = time.monotonic() + check_seconds(timeout, "a timeout")
    while True:
        left = max(deadline - time.monotonic(), 0.0)
        with handle as device:
            result = wait(device, int(min(left, TURN) * 1000))
        if result != -errno.ETIMEDOUT or left <= TURN:
            return result == 0
