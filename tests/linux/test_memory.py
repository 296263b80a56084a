# SPDX-License-Identifier: Apache-2.0
"""Memory on both sides of the hole below 4 GiB, as the guest sees it and as the VMM does."""

from __future__ import annotations

import re

import pytest

from pyvmm.machine.memory import GIB, MIB
from tests.support.linux import Guest, program

#: What the kernel keeps for itself before it counts: its image, the table of pages.
OVERHEAD = 0.06

SCRIPT = """
grep MemTotal /proc/meminfo
dmesg | grep -E 'BIOS-e820|PVH-e820|user-defined'
/root/touch %d && echo ended
"""

#: Size of the guest, MiB touched, and where those must lie: below the hole, above it, on both sides. Linux fills high
#: memory first; of 64 MiB above the hole nothing is left, for the table of all pages is there.
SIZES = [
    pytest.param(3 * GIB + 64 * MIB, 64, "below", id="3G+64M"),
    pytest.param(3 * GIB + 256 * MIB, 400, "both", id="3G+256M"),
    pytest.param(5 * GIB, 64, "above", id="5G"),
]


def kernel_ranges(text: str) -> list[tuple[int, int]]:
    """(start, size) of usable memory as the kernel was told."""
    found = re.findall(r"e820: \[mem (0x\w+)-(0x\w+)\] usable", text)
    return [(int(start, 16), int(end, 16) + 1 - int(start, 16)) for start, end in found]


def told_pages(text: str) -> list[tuple[int, int]]:
    """(address, word) of each page that the program told of."""
    return [(int(at), int(word)) for at, word in re.findall(r"page (\d+) (\d+)", text)]


@pytest.mark.parametrize(("size", "touched", "where"), SIZES)
def test_across_the_hole(size: int, touched: int, where: str) -> None:
    files = {"/root/touch": program("touch")}
    with Guest(SCRIPT % touched, memory=f"{size // MIB}M", files=files) as guest:
        guest.start()
        text = guest.expect("touched")
        check_sizes(text, size)
        pages = told_pages(text)
        addresses = [at for at, _ in pages]
        assert min(addresses) < 3 * GIB or where == "above"
        assert max(addresses) >= 4 * GIB or where == "below"
        for at, word in pages:
            assert guest.vm.memory.read(at, 4096) == word.to_bytes(8, "little") * 512
        guest.say("")
        guest.expect("ended")
        assert guest.finish().reason == "poweroff"


def check_sizes(text: str, size: int) -> None:
    total = int(re.search(r"MemTotal:\s+(\d+) kB", text)[1]) << 10  # type: ignore[index]
    assert size * (1 - OVERHEAD) < total < size
    ranges = kernel_ranges(text)
    assert ranges, text
    above = [one for one in ranges if one[0] >= 4 * GIB]
    assert above == [(4 * GIB, size - 3 * GIB)]
    # Below the hole some of the first MiB is the firmware's.
    below = sum(length for start, length in ranges if start < 4 * GIB)
    assert 3 * GIB - MIB < below < 3 * GIB
    assert all(start + length <= 3 * GIB for start, length in ranges if start < 4 * GIB)
