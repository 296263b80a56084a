# SPDX-License-Identifier: Apache-2.0
"""Linux on VT-x: it boots, is called into with isolated page tables, and swaps with the bypass, each in short."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from tests.linux import test_boot, test_swapbypass
from tests.linux.test_symcall_linux import Caller
from tests.support import linux
from tests.support.kernel_log import faults

if TYPE_CHECKING:
    from pathlib import Path

#: Of symcalls while the guest works.
CALLS = 1000
PTI = "/sys/devices/system/cpu/vulnerabilities/meltdown"


@pytest.mark.parametrize("cpus", [1, 2])
def test_it_boots(cpus: int, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(b"the first sector".ljust(1 << 20, b"\0"))
    done = linux.run(tmp_path, test_boot.INSPECT, "-c", str(cpus), "-d", str(disk))
    test_boot.check(done, "6.12.", cpus)


@pytest.mark.shadow
def test_symcalls_while_its_page_tables_are_isolated() -> None:
    """Calls come in user mode too, where the kernel's page tables are not those in CR3."""
    script = f"cat {PTI}; echo READY; read go; while ! test -e /tmp/over; do md5sum /bin/busybox; done > /tmp/sums & "
    script += "read over; touch /tmp/over; wait; sort -u /tmp/sums | wc -l; echo DONE"
    with linux.Guest(script, params=f"{linux.PATIENT} pti=on") as guest:
        guest.start()
        assert "Mitigation: PTI" in guest.expect("READY")
        caller = Caller(guest.vm, 0)
        caller.start()
        guest.say("go")
        while caller.calls < CALLS and caller.is_alive():
            threading.Event().wait(0.1)
        caller.ending.set()
        caller.join()
        guest.say("over")
        text = guest.expect("DONE")
        assert guest.finish().ok
        log, counters = guest.vm.console_log(), guest.vm.symcalls
    assert caller.failed is None
    assert caller.calls >= CALLS
    assert "1\n" in text.replace("\r", ""), text  # one sum, whatever came in between
    assert faults(log) == []
    assert counters["deadlines"] == counters["faults"] == counters["stray_returns"] == 0
    assert counters["calls"] == counters["returned"] + counters["errors"]


@pytest.mark.parametrize(
    "mode", ["direct", pytest.param("symcall", marks=[pytest.mark.shadow, pytest.mark.rest])]
)
def test_swapped_pages_are_right(mode: str) -> None:
    with test_swapbypass.Guest(
        test_swapbypass.script("random drop fork advise lock"), mode
    ) as guest:
        guest.start()
        guest.work()
        counted = guest.to_the_end()
    assert counted.adopted_total > 100, counted
    assert (counted.mapped_by_vmm > 100) == (mode == "symcall"), counted
