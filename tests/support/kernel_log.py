# SPDX-License-Identifier: Apache-2.0
"""What a kernel's log tells of faults."""

from __future__ import annotations

import re

#: What Linux says when it, its memory or its machine is not well.
FAULT = re.compile(
    r"WARNING|BUG|Oops|general protection|unable to handle|traps:|segfault|hung task|lockup|nobody cared"
    r"|[Bb]ad page|page dumped|Bad swap|Bad rss|swap_info_get"
    r"|RCU|rcu:|lockdep|deadlock|inconsistent lock|consistency|Firmware Bug|ACPI (BIOS )?Error"
)
TRACE = "Call Trace"
#: What a line may say all the same: names of options at the boot, the emulator's clocks, and what Linux thinks of
#: processors that are emulated.
HARMLESS = re.compile(
    r"RCU (implementation|calculated|restricting|lockdep checking)|rcu: .*(Hierarchical|Adjusting|srcu|Max phase)"
    r"|Tasks? (RCU|Trace|Rude)|RCU Tasks|Lock dependency validator|clocksource|sched_clock|tsc:"
    r"|rcu_tasks|Running RCU (synchronous )?self tests|RCU CPU stall warnings timeout set"
    r"|Command line|Kernel command line|nr_irqs|lockdep is turned off|RCU event tracing"
    r"|Spectre|SRSO|unprivileged eBPF|RETBleed|TSA:|MDS:",
    re.IGNORECASE,
)


def faults(log: bytes | str, *, killed: bool = False) -> list[str]:
    """The lines that tell of one. With `killed` processes may run out of memory, and each has its call trace then."""
    text = log if isinstance(log, str) else log.decode("utf-8", "replace")
    lines = text.splitlines()
    return [
        line
        for line in lines
        if (FAULT.search(line) or (TRACE in line and not killed)) and not HARMLESS.search(line)
    ]
