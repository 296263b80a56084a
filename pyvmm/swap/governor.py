# SPDX-License-Identifier: Apache-2.0
"""Which policy decides whether a guest may use swapped pages where they lie, and what it sees of
the host's memory.
"""

from __future__ import annotations

import os

from pyvmm._core import ffi, lib
from pyvmm.errors import ConfigError
from pyvmm.machine.handle import Handle
from pyvmm.machine.part import Part

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple

    from pyvmm.swap.bypass import SwapBypass
    from pyvmm.swap.store import SwapStore
else:
    from pyvmm.record import NamedTuple

#: By enum swap_policy.
POLICIES = ("always", "never", "pressure", "quota")

#: Pressure stall information and memory statistics of the host (Documentation/accounting/psi.rst, proc.rst in Linux).
PRESSURE = "/proc/pressure/memory"
MEMINFO = "/proc/meminfo"
#: The control groups of this process, and where version 2 is mounted (Documentation/admin-guide/cgroup-v2.rst).
OWN_GROUPS = "/proc/self/cgroup"
GROUPS = "/sys/fs/cgroup"
#: How often it looks, milliseconds.
PERIOD = 1000


class HostMemory(NamedTuple):
    """The host's memory, and that of the control group this process is in; None is what the kernel
    does not say.

    `stall` is the share of the last ten seconds, in percent, in which some task waited for memory.
    The others are in bytes: `room` is what the group may still take of its `limit`.
    """

    stall: float | None
    total: int | None
    available: int | None
    limit: int | None
    room: int | None


def own_group() -> str:
    """Return the folder of the control group, of version 2, that this process is in; "" without
    one (kernel: admin-guide/cgroup-v2.rst).
    """
    try:
        with open(OWN_GROUPS, encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().splitlines()
    except OSError:
        return ""
    for line in lines:
        if line.startswith("0::/"):
            folder = GROUPS + line[3:].rstrip("/")
            return folder if os.path.exists(f"{folder}/memory.current") else ""
    return ""


def policy_number(policy: str, quota: int | None) -> int:
    """Return the number of a policy.

    Raise ConfigError for a word that is no policy, for a `quota` (bytes) with another policy than
    "quota", and for none with that.
    """
    if not isinstance(policy, str) or policy not in POLICIES:
        raise ConfigError(
            f"swap policy {policy!r}: choose from {', '.join(POLICIES)}, or give a function"
        )
    if policy == "quota" and quota is None:
        raise ConfigError("the swap policy quota needs one: the bytes that the store may take")
    if quota is not None and not 0 <= quota < 1 << 63:
        raise ConfigError(f"a swap quota of {quota} bytes: it may be from 0 to 2^63 - 1")
    return POLICIES.index(policy)


class SwapGovernor(Part):
    """A thread that looks at the host once a second and lets the guest use the store, or not.

    Closed with the machine.

    "pressure" finds memory short, on the host or in the control group, when more than 10 % of the
    last ten seconds waited for it, or less than 5 % is left. That is over once it is below 5 %,
    with 8 % left. The guest may use pages where they lie all the same, as that costs the host
    nothing; but the store then grows by small pages only. "quota" lets the guest use them while the
    store takes no more than so many bytes.
    """

    def __init__(self, bypass: SwapBypass, store: SwapStore) -> None:
        self.policy = "always"
        names = (PRESSURE, MEMINFO, own_group())
        paths = [os.fsencode(name) for name in names]
        with bypass.handle as of_bypass, store.handle as of_store:
            made = lib.swapgovernor_create(of_bypass, of_store, *paths, PERIOD)
        self._handle = Handle(made, lib.swapgovernor_destroy, "the swap governor")

    def set(self, policy: str, quota: int | None) -> None:
        """Set another policy, judged at once. `quota` is in bytes.

        Raise ConfigError for a policy or quota that cannot be (`policy_number`).
        """
        number = policy_number(policy, quota)
        self.policy = policy
        with self._handle as governor:
            lib.swapgovernor_set(governor, number, quota or 0)

    def look(self) -> tuple[bool, HostMemory]:
        """Return whether the guest may use the store now, and the host's memory as that was judged."""
        host = ffi.new("struct hostmemory *")
        with self._handle as governor:
            verdict = bool(lib.swapgovernor_verdict(governor, host))
        return verdict, HostMemory(
            host.stall / 100 if host.stall >= 0 else None,
            *((int(host.total), int(host.available)) if host.total else (None, None)),
            *((int(host.limit), int(host.room)) if host.limit else (None, None)),
        )

    def wait(self, milliseconds: int) -> int:
        """Wait until the guest should take less, at most `milliseconds`.

        Return 1 then, 0 after that time, -1 once the thread ends.
        """
        with self._handle as governor:
            return int(lib.swapgovernor_wait(governor, milliseconds))

    def end(self) -> None:
        """End the waiting; nobody waits any more once it is closed."""
        if self._handle.released:
            return
        with self._handle as governor:
            lib.swapgovernor_end(governor)

    def close(self) -> None:
        """End the thread, and the waiting. May be called twice. StateError while a machine has it."""
        super().close()
        if not self._handle.released:
            self.end()
            self._handle.release()
