# SPDX-License-Identifier: Apache-2.0
"""The memory of the swap disk as a tier of Debian's own kernels: pages move there, back, and stay right."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import kernels, linux
from tests.support.stream import SECONDS
from tests.support.waiting import until

if TYPE_CHECKING:
    from pyvmm.symbiotic.swapstats import GuestSwap

MIB = 1 << 20
PAGES_A_MIB = 256
MEMORY = "256M"
#: MiB that the guest has just not enough for, so that some of it moves and all of it finds room again.
TIGHT = 176
SERIAL = "pyvmm-swap"
PATIENCE = SECONDS * 3
COMPLAINTS = (
    r"warning:|bug:|oops|call trace|bad page|general protection|symbiotic: .*(refuse|not|stay)"
)
#: Does what its input says, a line at a time.
SCRIPT = f"""
for disk in /sys/block/vd*; do
    case $(cat $disk/serial) in {SERIAL}) tier=/dev/${{disk##*/}};; other) other=/dev/${{disk##*/}};; esac
done
echo ready
while read -r line; do eval "$line"; echo =end=; done
"""
KERNELS = kernels.of_debian(symbiotic=True)
FOLLOWED = [one for one in KERNELS if "6.1-" not in str(one.values[0])]
each_kernel = pytest.mark.parametrize("version", KERNELS)
REMOVE = "rmmod symbiotic && echo out"
INSERT = "insmod /lib/modules/symbiotic.ko && echo in"
SWAP_ON = "mkswap $other > /dev/null && swapon $other"
WRITE = "dd if=/bin/busybox of=$tier bs=4k seek=9 count=1 conv=notrunc,fsync 2> /dev/null"
SECTORS = "cat /sys/block/${tier##*/}/size"
#: Loads and unloads of a long run, and so many of them between two answers of the guest.
CYCLES, AT_A_TIME = 50, 5
#: Each mode, for a second, so many times.
TURNS = 3


class Guest(linux.Guest):
    """A guest with the program `passes`, a tier, and maybe another disk to swap to."""

    def __init__(
        self, version: str, mode: str = "direct", *, other: bool = False, **swap: Any
    ) -> None:
        files = {"/bin/passes": linux.program("passes")}
        super().__init__(
            SCRIPT, linux=version, memory=MEMORY, cpus=2, params=linux.PATIENT, files=files
        )
        self.swap = self.vm.add_swap(512 * MIB, mode, serial=SERIAL, policy="always", **swap)
        self._disk = os.memfd_create("other")
        if other:
            os.ftruncate(self._disk, 256 * MIB)
            self.vm.add_disk(self._disk, serial="other")

    def __enter__(self) -> Guest:
        self.start()
        self.expect("ready\n", PATIENCE)
        return self

    def __exit__(self, *exc: object) -> None:
        super().__exit__(*exc)
        os.close(self._disk)

    def tell(self, line: str) -> str:
        """What the line printed."""
        self.say(line)
        return self.expect("=end=\n", PATIENCE).removesuffix("=end=\n")

    def hold(self, mib: int) -> None:
        """Starts a process that holds so much, until `let_go`."""
        self.tell("mkfifo /gate; exec 3<>/gate")
        self.tell(f"passes {mib} 1 hold <&3 > /held &")
        self.tell("until grep -q HOLDS /held; do sleep 0.1; done")

    def let_go(self) -> str:
        """It looks at all of it once more, and ends."""
        self.say("echo go >&3; wait; cat /held")
        text = self.expect("pages wrong\n", PATIENCE)
        self.expect("=end=\n", PATIENCE)
        return text

    @property
    def said(self) -> GuestSwap:
        said = self.swap.stats.guest
        assert said is not None
        return said

    def wait(self, done: Callable[[GuestSwap], bool]) -> GuestSwap:
        """Until it is so."""
        deadline = time.monotonic() + PATIENCE
        while not done(said := self.said):
            assert time.monotonic() < deadline, said
            time.sleep(0.05)
        return said

    def evict(self) -> GuestSwap:
        """Asks for all, and waits for the end of that."""
        self.swap.evict()
        return self.wait(lambda said: not said.evicting)

    def log(self) -> str:
        """Nothing, or what the kernel complained of, with what is around it."""
        return self.tell(f"dmesg | grep -iE -B 8 -A 24 '{COMPLAINTS}'")


def right(text: str) -> bool:
    return "PASSES DONE, 0 pages wrong" in text


@each_kernel
def test_a_process_larger_than_ram_without_a_swap_area(version: str) -> None:
    """Nobody is killed: what RAM has no room for is in the tier, and goes back to the host afterwards."""
    with Guest(version) as guest:
        assert guest.tell("cat /proc/swaps | wc -l") == "1\n"
        text = guest.tell("passes 320 3")
        assert right(text), text
        said = guest.said
        assert said.tier
        assert not said.on
        assert said.adopted_total >= (320 - 256) * PAGES_A_MIB, said
        guest.wait(lambda said: said.adopted_total == said.moved_ahead + said.moved_behind)
        guest.wait(lambda said: said.adopted == 0)
        held = said.adopted_total << 12
        deadline = time.monotonic() + PATIENCE
        while guest.swap.bytes_used > held // 8:
            assert time.monotonic() < deadline, guest.swap.stats
            time.sleep(0.1)
        assert guest.said.discarded > 0
        assert guest.log() == ""


@each_kernel
def test_evicted_and_moved_again(version: str) -> None:
    """The VMM has pages back as far as there is RAM; in mode off they stay there."""
    with Guest(version) as guest:
        guest.hold(TIGHT)
        before = guest.said
        assert before.adopted > 0
        guest.swap.mode = "off"
        after = guest.evict()
        assert after.evicted > 0
        assert after.adopted < before.adopted
        assert right(guest.let_go())
        guest.wait(lambda said: said.adopted == 0)
        guest.swap.mode = "direct"
        assert right(guest.tell("passes 240 2"))
        assert guest.log() == ""


@each_kernel
def test_the_vmm_says_how_much_moves(version: str) -> None:
    """Mode symcall asks for each batch; a function may grant part of it."""
    asked: list[tuple[int, str]] = []

    def policy(move: Any) -> int:
        asked.append((move.pages, move.reason))
        return move.pages // 2 or 1

    with Guest(version, "symcall") as guest:
        guest.swap.policy = policy
        assert right(guest.tell("passes 240 2"))
        # Pages may be moving yet: what is counted later is no less.
        said = guest.said
        assert said.refused_vmm > 0
        assert 0 < said.adopted_total <= guest.swap.stats.granted
        until(lambda: guest.swap.stats.asked == sum(pages for pages, _ in asked), PATIENCE)
        assert {reason for _, reason in asked} <= {"ahead", "behind"}


@each_kernel
def test_unloaded_and_loaded_while_pages_are_there(version: str) -> None:
    with Guest(version, other=True) as guest:
        guest.tell(SWAP_ON)
        for _ in range(2):
            guest.hold(TIGHT)
            assert guest.said.adopted > 0
            assert guest.tell(REMOVE).endswith("out\n")
            assert not guest.swap.stats.attached
            assert guest.swap.bytes_used <= 2 * MIB
            assert guest.tell(INSERT).endswith("in\n")
            assert guest.swap.stats.tier
            assert right(guest.let_go())
            guest.tell("rm /gate")
        assert guest.log() == ""


@each_kernel
def test_a_disk_that_is_not_to_be_bypassed_stays_a_disk(version: str) -> None:
    """The guest can swap to it, as to any other."""
    with Guest(version, "off") as guest:
        assert guest.tell("lsmod | grep -c symbiotic") == "1\n"
        assert guest.tell("mkswap $tier > /dev/null && swapon $tier && echo on") == "on\n"
        stats = guest.swap.stats
        assert not stats.tier
        assert not stats.attached
        assert stats.bytes_out > 0
        assert not guest.log()


@each_kernel
def test_the_disk_is_closed_as_the_guest_sees_it(version: str) -> None:
    """Nobody can use it while it is a tier; and while it holds data it becomes none."""
    with Guest(version) as guest:
        assert guest.tell(SECTORS) == "0\n"
        assert guest.tell("dd if=$tier bs=4k count=1 2> /dev/null | wc -c") == "0\n"
        for refused in ("mkswap $tier", "swapon $tier", "dd if=/dev/zero of=$tier bs=4k count=1"):
            assert guest.tell(f"{refused} > /dev/null 2>&1 || echo refused") == "refused\n"
        assert guest.tell(REMOVE) == "out\n"
        guest.tell(f"until [ $({SECTORS}) = {guest.swap.size // 512} ]; do sleep 0.1; done")
        swap = "mkswap $tier > /dev/null && swapon $tier && swapoff $tier && echo swapped"
        assert guest.tell(swap) == "swapped\n"
        assert guest.tell(f"{WRITE} && echo written") == "written\n"
        assert guest.log() == ""
        assert guest.tell(INSERT) == "in\n"
        assert not guest.swap.stats.tier
        assert guest.swap.stats.attach_refused == 1
        assert "holds data and stays a disk" in guest.tell("dmesg | tail -5")
        assert guest.tell(f"{REMOVE} && blkdiscard $tier; {INSERT}") == "out\nin\n"
        assert guest.swap.stats.tier
        assert (
            guest.tell(f"until [ $({SECTORS}) = 0 ]; do sleep 0.1; done; echo closed") == "closed\n"
        )


@pytest.mark.parametrize("version", FOLLOWED)
def test_what_is_swapped_in_moves_there(version: str) -> None:
    """A page that came from another swap disk: the VMM refuses to have pages moved ahead of that.

    Linux 6.1 does not move a page that is still in the swap cache.
    """

    def behind(move: Any) -> int:
        return move.pages if move.reason == "behind" else 0

    with Guest(version, "symcall", other=True) as guest:
        guest.swap.policy = behind
        guest.tell(SWAP_ON)
        text = guest.tell("passes 208 3")
        assert right(text), text
        said = guest.said
        assert said.offered > 0, said
        assert said.moved_behind > 0, said
        assert said.moved_ahead == 0, said
        guest.wait(lambda said: said.adopted_total == said.moved_behind)
        assert guest.log() == ""


@each_kernel
def test_modes_switched_each_second(version: str) -> None:
    """A process's pages are right whatever they were moved by, to and fro."""
    with Guest(version, other=True) as guest:
        guest.tell(SWAP_ON)
        guest.tell("while [ ! -e /stop ]; do passes 208 2; done > /said &")
        for _ in range(TURNS):
            for mode in ("direct", "off", "symcall"):
                guest.swap.mode = mode
                time.sleep(1)
                guest.wait(lambda said: not said.evicting)
                guest.swap.evict()
        guest.swap.mode = "direct"
        assert all_right(guest.tell("touch /stop; wait; cat /said"))
        # Pages go back only where there is RAM for them, and this load leaves little.
        assert guest.said.adopted_total > 0
        assert guest.log() == ""


@pytest.mark.rest
@each_kernel
def test_unloaded_and_loaded_many_times_under_load(version: str) -> None:
    cycle(version, CYCLES)


def cycle(version: str, count: int) -> None:
    """Unloads the module and loads it so many times, while a process works on more than RAM has room for."""
    with Guest(version, other=True) as guest:
        guest.tell(SWAP_ON)
        guest.tell(f"while [ ! -e /stop ]; do passes {TIGHT} 2; done > /said &")
        moved = 0
        for _ in range(count // AT_A_TIME):
            moved += guest.said.adopted_total
            turns = " ".join(map(str, range(AT_A_TIME)))
            said = guest.tell(f"for _ in {turns}; do {REMOVE} && {INSERT}; sleep 0.2; done")
            assert said == "out\nin\n" * AT_A_TIME
        assert all_right(guest.tell("touch /stop; wait; cat /said"))
        assert moved > 0
        assert guest.swap.stats.tier
        assert guest.log() == ""


def all_right(text: str) -> bool:
    """Whether there was at least one process, and none found a wrong page."""
    done = [line for line in text.splitlines() if line.startswith("PASSES DONE")]
    return bool(done) and all(right(line) for line in done)
