# SPDX-License-Identifier: Apache-2.0
"""How the run of a machine ended."""

from __future__ import annotations

from pyvmm import kvm
from pyvmm._core import lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Reasons, in the words that `Result.reason` uses.
POWEROFF = "poweroff"
REBOOT = "reboot"
HALT = "halt"
TRIPLE_FAULT = "triple-fault"
HANG = "hang"
PANIC = "panic"
INTERNAL_ERROR = "internal-error"
ENTRY_FAILURE = "entry-failure"
UNKNOWN_EXIT = "unknown-exit"
RUN_FAILED = "run-failed"
STOPPED = "stopped"
TIMEOUT = "timeout"

#: Reasons for the end of a run, by the event of csrc/machine/vcpu.h.
BY_EVENT = {
    lib.VCPU_POWEROFF: POWEROFF,
    lib.VCPU_REBOOT: REBOOT,
    lib.VCPU_HALTED: HALT,
    lib.VCPU_TRIPLE_FAULT: TRIPLE_FAULT,
    lib.VCPU_PANIC: PANIC,
    lib.VCPU_INTERNAL_ERROR: INTERNAL_ERROR,
    lib.VCPU_ENTRY_FAILURE: ENTRY_FAILURE,
    lib.VCPU_UNKNOWN_EXIT: UNKNOWN_EXIT,
    lib.VCPU_IOCTL_FAILED: RUN_FAILED,
    lib.VCPU_UNFINISHED: RUN_FAILED,
}

#: The guest ended on its own terms.
CLEAN = frozenset({POWEROFF, REBOOT, HALT})
#: Ends that a panicked kernel may come to: its log says whether it did (`pyvmm.machine.kernellog`).
AFTER_PANIC = frozenset({PANIC, REBOOT, TRIPLE_FAULT, HANG})
#: The VMM or the host is at fault, or the guest did what KVM cannot run.
VMM_FAULTS = frozenset({INTERNAL_ERROR, ENTRY_FAILURE, UNKNOWN_EXIT, RUN_FAILED})


class Result:
    """How a run ended.

    `reason` is one of this module's constants; `status` what the guest reported through its status
    port (0 to 255) or None; `vcpu` the vCPU that ended the run or None; `detail` a sentence about
    it; `dump` registers, code and page walk for a bad end; `seconds` from the first start to the
    end; `boot_seconds` from the start to the guest's own mark, or None; `exits` counts exits by
    kind; `unclaimed` accesses that no device answered.
    """

    __slots__ = (
        "boot_seconds",
        "detail",
        "dump",
        "exits",
        "reason",
        "seconds",
        "status",
        "unclaimed",
        "vcpu",
    )

    def __init__(self, reason: str, *, vcpu: int | None = None, detail: str = "") -> None:
        self.reason = reason
        self.vcpu = vcpu
        self.detail = detail
        self.status: int | None = None
        self.dump: str | None = None
        self.seconds = 0.0
        self.boot_seconds: float | None = None
        self.exits: dict[str, int] = {}
        self.unclaimed = 0

    @property
    def ok(self) -> bool:
        """The guest ended on its own terms and reported no failure."""
        return self.reason in CLEAN and not self.status

    def as_dict(self) -> dict[str, Any]:
        """Turn the result into what JSON can say."""
        return {name: getattr(self, name) for name in sorted(self.__slots__)} | {"ok": self.ok}

    def __repr__(self) -> str:
        parts = [self.reason]
        if self.status is not None:
            parts.append(f"status {self.status}")
        if self.detail:
            parts.append(self.detail)
        return f"<Result {', '.join(parts)}>"


_EXIT_NAMES: dict[int, str] = {}


def exit_name(reason: int) -> str:
    """Return the name of a KVM exit reason without its prefix, in lower case: "io", "mmio", "hlt"."""
    if not _EXIT_NAMES:
        for name in dir(kvm.lib):
            if name.startswith("KVM_EXIT_") and not name.startswith(
                ("KVM_EXIT_IO_", "KVM_EXIT_HYPERV_", "KVM_EXIT_XEN_")
            ):
                _EXIT_NAMES.setdefault(getattr(kvm.lib, name), name[9:].lower())
    return _EXIT_NAMES.get(reason, f"exit-{reason}")
