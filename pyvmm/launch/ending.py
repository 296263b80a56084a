# SPDX-License-Identifier: Apache-2.0
"""How a run ended, for people: why the guest's init gave up, the end of the log, the dump of a
vCPU.
"""

from __future__ import annotations

import sys

from pyvmm.launch.kvmcheck import advice_on, is_linux
from pyvmm.machine import result as results

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.launch.plan import Plan
    from pyvmm.machine.result import Result
    from pyvmm.vm import VM

#: Of the serial log, shown when a run ended badly: a panic with its trace takes about 40.
LOG_LINES = 60
#: Of one line, letters: a guest need not end its lines.
LINE_LETTERS = 1000
#: The status of a guest whose init failed (guest-linux-patch/init/end.h); a command may have it as well.
INIT_FAILED = 125
#: Init begins its reason so, and the kernel, before it, that of an initramfs it could not read.
INIT_SAYS = "pyvmm init: failed: "
UNPACKING = "Initramfs unpacking failed: "
#: Of an initrd that was cut off the kernel itself says nothing.
NOT_WHOLE = "not unpacked whole"
#: Kernel parameters without which its virtio devices would be there.
HINDERS = ("noapic", "nolapic", "acpi=off")
NO_DEVICE = "did not appear"
#: Ends that need no explanation.
PLAIN = {*results.CLEAN, results.STOPPED}


def explain(vm: VM, plan: Plan, result: Result) -> None:
    """Say on stderr why the run ended badly; add to the result what only the log knows."""
    if result.reason in results.CLEAN and result.status == INIT_FAILED and plan.own_guest:
        result.detail = result.detail or init_failure(log_of(vm), plan)
        if result.detail:
            print(f"pyvmm: {result.detail}", file=sys.stderr)
    elif result.reason in results.VMM_FAULTS and is_linux(plan) and (advice := advice_on(plan)):
        # The dump says nothing then; the record has it.
        print(f"pyvmm: the guest ended by {result.reason}. {result.detail}", file=sys.stderr)
        print(f"pyvmm: {advice}", file=sys.stderr)
    elif not result.ok and result.reason not in PLAIN:
        _show(plan, result, log_of(vm))


def log_of(vm: VM) -> str:
    """Return the end of the serial port's output, without what a terminal would obey."""
    from pyvmm.launch.human import printable

    said = vm.console_log().decode("utf-8", "replace")
    return "\n".join(printable(line.expandtabs()) for line in said.splitlines())


def init_failure(log: str, plan: Plan) -> str:
    """Say why the guest's init gave up; return "" if it did not."""
    said = after(INIT_SAYS, log)
    if not said:
        return ""
    parts = [f"the guest's init failed: {said[-1]}"]
    hinders = [word for word in plan.args.params.split() if word in HINDERS]
    if hinders and NO_DEVICE in said[-1]:
        parts.append(
            f"virtio devices need ACPI and the interrupt controllers: leave {' '.join(hinders)} away"
        )
    unpacking = after(UNPACKING, log)
    if unpacking or NOT_WHOLE in said[-1]:
        named = ", ".join(plan.args.initrd or ["the guest's own"])
        parts.append(
            f"the kernel could not unpack the initrd ({named}), or a part of it is cut off"
        )
    return ": ".join(["; ".join(parts), *unpacking[-1:]])


def after(beginning: str, log: str) -> list[str]:
    """Collect the rest of each line that has these words."""
    return [line.partition(beginning)[2].strip() for line in log.splitlines() if beginning in line]


def shortened(line: str) -> str:
    """Return the end of a line, with the number of letters that were left away."""
    more = len(line) - LINE_LETTERS
    return line if more <= 0 else f"[{more} letters] {line[-LINE_LETTERS:]}"


def _show(plan: Plan, result: Result, log: str) -> None:
    out = sys.stderr
    print(f"pyvmm: the guest ended by {result.reason}. {result.detail}".rstrip(), file=out)
    if plan.console != "serial":
        tail = log.splitlines()[-LOG_LINES:]
        if tail:
            print("pyvmm: the end of its serial log:", file=out)
            print("\n".join(f"  {shortened(line)}" for line in tail), file=out)
    if result.dump:
        print(result.dump, file=out)
