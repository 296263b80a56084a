# SPDX-License-Identifier: Apache-2.0
"""The control socket's answers about a VM's swap disk, and changes of it. docs/control.md has the
operations.
"""

from __future__ import annotations

from pyvmm.config import FUNCTION
from pyvmm.errors import StateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm.machine.question import Question


def swap_of(vm: Any) -> Any:
    """Return the VM's swap disk, a `pyvmm.swap.disk.Swap`. Raise StateError if it has none."""
    if vm.swap is None:
        raise StateError(
            "this VM has no swap disk; pyvmm run --swap SIZE gives one, or VM.add_swap() before the start"
        )
    return vm.swap


def policy_name(swap: Any) -> str:
    """Return its policy as a word."""
    policy = swap.policy
    return policy if isinstance(policy, str) else FUNCTION


def brief(swap: Any) -> dict[str, Any] | None:
    """Return the little that costs nothing: nobody asks the guest, or counts pages.

    None without a swap disk.
    """
    if swap is None:
        return None
    return {
        "size": swap.size,
        "mode": swap.mode,
        "effective": swap.effective,
        "policy": policy_name(swap),
    }


def stats(swap: Any, question: Question | None = None) -> dict[str, Any]:
    """Return all counters, those of the guest too, and what is set; with a question in the time of
    that.
    """
    return {
        "serial": swap.serial,
        "backing": None if swap.backing is None else str(swap.backing),
        "policy": policy_name(swap),
        "quota": swap.quota,
        **(swap.stats if question is None else swap.look(question))._asdict(),
    }


def change(swap: Any, mode: str | None, policy: str | None, quota: int | None) -> None:
    """Set what is given: first the quota, which a policy may need, then the policy, then the mode.

    Raise ConfigError for what cannot be; what comes before it is set then.
    """
    if quota is not None:
        swap.quota = quota
    if policy is not None:
        swap.policy = policy
    if mode is not None:
        swap.mode = mode
