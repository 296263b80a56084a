# SPDX-License-Identifier: Apache-2.0
"""Advice for machines whose KVM cannot boot Linux, before a run and after one that failed."""

from __future__ import annotations

import os

from pyvmm.errors import HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.launch.plan import Plan

#: With one of these modules the KVM runs Linux. Of any other the probe is asked, which takes up to a second.
FAST = ("/sys/module/kvm_amd", "/sys/module/kvm_intel")


def refuse_slow(plan: Plan) -> None:
    """Raise HostError for a KVM that would not come to the end of the project's guest: that is
    Linux.
    """
    if any(map(os.path.isdir, FAST)):
        return
    if advice := advice_on(plan):
        raise HostError(advice)


def advice_on(plan: Plan) -> str:
    """Return the verdict of `pyvmm doctor` where Linux does not boot, with the command to type; ""
    where it does.

    Also where the KVM cannot be opened: that has its own error.
    """
    from pyvmm.probe import probe

    found = probe(plan.config.machine.kvm_path)
    if not found.usable or found.boots_linux:
        return ""
    return f"{found.verdict} (here: pyvmm lab -- pyvmm run ...); pyvmm doctor says more"


def is_linux(plan: Plan) -> bool:
    """Say whether the kernel surely is one: the project's, or a file with Linux's setup header
    (boot.rst).
    """
    if plan.own_guest:
        return True
    try:
        with open(plan.kernel, "rb") as file:
            return file.read(0x206)[0x202:] == b"HdrS"
    except OSError:
        return False
