# SPDX-License-Identifier: Apache-2.0
"""Memory of another process."""

from __future__ import annotations

import pytest

from pyvmm.drgn.physical import RemoteMemory
from pyvmm.errors import GuestMemoryError, HostError, StateError
from pyvmm.machine.memory import Region
from tests.support.madeup_kernel import MIB


def test_memory_of_another_process(other):
    process, address, fd = other
    memory = RemoteMemory(fd, [[4 << 30, MIB, address + MIB], [0, MIB, address]])
    assert memory.ram == (Region(0, MIB), Region(4 << 30, MIB))
    assert memory.read(0, 4) == b"head"
    assert memory.read((4 << 30) + MIB - 4, 4) == b"tail"
    assert memory.read(0, MIB) == b"head".ljust(MIB, b"\0")
    assert memory.read(0, 0) == b""
    for gpa, length in ((MIB, 1), (MIB - 1, 2), (-1, 1), (0, -1), ((4 << 30) + MIB, 1)):
        with pytest.raises(GuestMemoryError):
            memory.read(gpa, length)
    process.kill()
    process.wait()
    with pytest.raises(StateError, match="has ended"):
        memory.read(0, 4)


def test_memory_that_is_not_mapped(other):
    _, _, fd = other
    with pytest.raises(StateError, match="has ended"):
        RemoteMemory(fd, [[0, MIB, 4096]]).read(0, 4)
    with pytest.raises(HostError, match="reading the memory"):
        RemoteMemory(-1, [[0, MIB, 4096]]).read(0, 4)


@pytest.mark.parametrize(
    "regions",
    [
        [[0, 0, 4096]],
        [[0, -1, 4096]],
        [[-4096, 4096, 4096]],
        [[0, 4096, 0]],
        [[0, 8192, 4096], [4096, 4096, 1 << 20]],
        [[(1 << 64) - 1, 2, 4096]],
        [[0, 8192, (1 << 64) - 4096]],
    ],
)
def test_regions_that_cannot_be(regions):
    with pytest.raises(HostError, match="says it has RAM"):
        RemoteMemory(-1, regions)
