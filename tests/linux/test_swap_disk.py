# SPDX-License-Identifier: Apache-2.0
"""A Linux that knows nothing of the aperture: its swap disk is a disk, and the memory map keeps the rest away."""

from __future__ import annotations

import hashlib
import re

import pytest

from pyvmm.machine.memory import MIB
from tests.support.linux import Guest

SIZE = 256 * MIB
SCRIPT = """
echo serial $(cat /sys/block/vda/serial) size $(cat /sys/block/vda/size)
dmesg | grep 'e820: .*reserved'
dd if=/dev/urandom of=/dev/vda bs=1M count=8 2>/dev/null
sync
echo sum $(head -c 8388608 /dev/vda | sha256sum)
read line
blkdiscard /dev/vda && echo discarded
mkswap /dev/vda > /dev/null && swapon -d /dev/vda && echo swapping
mkdir -p /big && mount -t tmpfs -o size=200m none /big
dd if=/dev/urandom of=/piece bs=1M count=4 2>/dev/null
pieces() { for i in $(seq $1); do echo $i; cat /piece; done; }
pieces 18 > /big/one
md5sum < /big/one > /one
pieces 7 > /big/two
grep SwapFree /proc/meminfo
md5sum < /big/one | cmp - /one && echo the same
rm /big/one /big/two
swapoff /dev/vda && echo ended
"""


@pytest.mark.parametrize("bypass", [pytest.param("off", marks=pytest.mark.rest), "direct"])
def test_a_plain_guest_swaps(bypass: str) -> None:
    with Guest(SCRIPT, memory="96M", params="quiet symbiotic=off", files={}) as guest:
        swap = guest.vm.add_swap(SIZE, bypass, policy="always")
        assert swap.aperture is not None
        placed = swap.aperture
        guest.start()
        text = guest.expect("sum ")
        assert f"serial pyvmm-swap size {SIZE // 512}" in text
        ranges = re.findall(r"mem 0x([0-9a-f]+)-0x([0-9a-f]+)\] reserved", text)
        assert (placed.start, placed.end - 1) in [(int(a, 16), int(b, 16)) for a, b in ranges]
        found = guest.expect("\n").partition(" ")[0].strip()
        data = guest.vm.memory.read(placed.base, 8 * MIB)
        assert hashlib.sha256(data).hexdigest() in text + found
        guest.say("")
        guest.expect("discarded")
        guest.expect("swapping")
        guest.expect("the same")
        stats = swap.stats
        assert stats.bytes_out > 30 * MIB
        assert not stats.attached
        assert stats.guest is None
        guest.expect("ended")
        assert guest.finish().ok
