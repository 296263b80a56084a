# SPDX-License-Identifier: Apache-2.0
"""What becomes of pages that are used where they lie, one by one: the series' own tests, and evictions that meet pages
which cannot move.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import pytest

from tests.support import kernels, linux, selftests
from tests.support.kernel_log import faults
from tests.support.swapguest import SwapGuest

if TYPE_CHECKING:
    from pyvmm.swap.disk import GuestSwap

PATIENCE = 300
#: More than a guest has out, in pages: a request for all of them.
ALL = 1 << 14

SELFTEST = "swap_bypass; echo STATUS=$?; echo TESTED; read go; swapoff $swap; echo OFF=$?\n"

PIN = """
held pin &
read go; touch /tmp/go; wait; swapoff $swap; echo OFF=$?
"""

#: Pages of the group, which may have a third of them as memory, and of a process outside.
GROUP_PAGES, OTHER_PAGES = 24 * 256, 8 * 256
GROUP = """
mount -t cgroup2 cgroup2 /sys/fs/cgroup 2> /dev/null
echo +memory > /sys/fs/cgroup/cgroup.subtree_control
mkdir /sys/fs/cgroup/full; echo 8M > /sys/fs/cgroup/full/memory.max
(echo 0 > /sys/fs/cgroup/full/cgroup.procs; exec held out 24) &
read go
held out 8 &
read go; touch /tmp/go; wait; echo OVER
"""


class Guest(SwapGuest):
    """A guest with the programs of these tests, whose swap disk is always bypassed."""

    def __init__(self, script: str, mode: str = "direct", version: str = "6.12") -> None:
        files = {
            "/bin/held": linux.program("held"),
            "/bin/swap_bypass": selftests.swap_bypass(version),
        }
        super().__init__(
            script, mode, linux=version, memory="192M", files=files, swap={"policy": "always"}
        )

    def counts(self) -> GuestSwap:
        """The guest's own."""
        assert self.vm.swap is not None
        stats = self.vm.swap.stats.guest
        assert stats is not None, "the guest does not answer"
        return stats

    def evict(self, pages: int = ALL) -> GuestSwap:
        """Asks for pages and waits until the guest is done with it. What it has counted then."""
        assert self.vm.swap is not None
        self.vm.swap.evict(pages)
        deadline = time.monotonic() + PATIENCE
        while (counted := self.counts()).evicting:
            assert time.monotonic() < deadline, "the guest does not come to an end with it"
            self.pump(0.1)
        return counted

    def let_go(self) -> None:
        """The script goes on, to its end, and the kernel saw nothing wrong."""
        self.say("go")
        assert self.finish(PATIENCE).ok
        assert faults(self.vm.console_log()) == []


@pytest.mark.parametrize(
    ("version", "mode"),
    [
        kernels.one(kernels.DEFAULT, "direct"),
        pytest.param(kernels.DEFAULT, "symcall", marks=pytest.mark.rest),
        kernels.one(kernels.OLD, "direct"),
    ],
)
def test_every_selftest_passes(version: str, mode: str) -> None:
    """KSM, mlock and MADV_COLLAPSE find such pages in RAM; file mappings and shared entries have none."""
    with Guest(SELFTEST, mode, version) as guest:
        guest.start()
        text = guest.expect("TESTED", PATIENCE)
        assert "STATUS=0" in text, text
        # What a kernel does not have may be skipped, and nothing else.
        skipped = re.findall(r"^ok \d+ .*SKIP (.*)$", text, re.M)
        assert skipped in ([], ["this kernel has no UFFDIO_MOVE"] * (version == kernels.OLD)), text
        assert int(re.search(r"pass:(\d+)", text)[1]) >= 9, text  # type: ignore[index]
        guest.let_go()
        assert "OFF=0" in guest.text, guest.text


def test_a_pinned_page_ends_an_eviction() -> None:
    """It is tried once, all others move, and later requests leave it alone for a while."""
    with Guest(PIN) as guest:
        guest.start()
        guest.expect("HELD pin", PATIENCE)
        before = guest.counts()
        assert before.adopted > 0, before
        first = guest.evict()
        assert first.evict_failed == before.evict_failed + 1, (before, first)
        for _ in range(3):
            again = guest.evict()
        assert again.evict_failed == first.evict_failed, (first, again)
        guest.let_go()
        assert "LET GO pin, 0 pages wrong" in guest.text
        assert "OFF=0" in guest.text, guest.text


def test_a_group_at_its_limit_holds_up_no_other_pages() -> None:
    """What cannot be charged as memory stays; what other processes have out moves all the same."""
    with Guest(GROUP) as guest:
        guest.start()
        guest.expect("HELD out", PATIENCE)
        guest.say("go")
        guest.expect("HELD out", PATIENCE)
        before = guest.counts()
        assert before.adopted > GROUP_PAGES + OTHER_PAGES // 2, before
        after = guest.evict()
        assert after.evict_failed - before.evict_failed > GROUP_PAGES // 2, (before, after)
        assert after.adopted < GROUP_PAGES - OTHER_PAGES // 2, (before, after)
        guest.let_go()
        assert guest.text.count("LET GO out, 0 pages wrong") == 2, guest.text
