# SPDX-License-Identifier: Apache-2.0
"""The virtio entropy source."""

from __future__ import annotations

from pyvmm.devices.virtio_rng import VirtioRng
from tests.support.virtio_driver import WRITE, Descriptor, Driver, FakeMachine

BUFFER = 0x40000


def test_fills_buffers_with_different_bytes() -> None:
    with FakeMachine() as machine:
        device = VirtioRng(machine)  # type: ignore[arg-type]
        assert (device.kind, device.base, device.gsi) == ("virtio-rng", 0xD0000000, 16)
        (queue,) = Driver(machine, device).start()
        for head in range(4):
            queue.write_desc(head, Descriptor(BUFFER + 64 * head, 64, WRITE))
        queue.offer(0, 1, 2, 3)
        queue.kick()
        assert sorted(queue.wait(4)) == [(head, 64) for head in range(4)]
        got = {machine.memory.read(BUFFER + 64 * head, 64) for head in range(4)}
        assert len(got) == 4
        assert bytes(64) not in got
        assert machine.memory.read(BUFFER + 256, 64) == bytes(64)
        stats = device.stats()
        assert stats["bytes_to_guest"] == 256
        assert stats["requests"] == 4


def test_requests_without_room() -> None:
    with FakeMachine() as machine:
        device = VirtioRng(machine)  # type: ignore[arg-type]
        (queue,) = Driver(machine, device).start()
        queue.chain(0, [Descriptor(BUFFER, 64)])
        queue.offer(0)
        queue.kick()
        assert queue.wait() == [(0, 0)]
        assert device.violations == {}
