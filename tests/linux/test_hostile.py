# SPDX-License-Identifier: Apache-2.0
"""A guest with root's power over its own devices: it can break them for itself, and nothing else."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

from pyvmm.machine.board import VIRTIO_BASE, VIRTIO_STRIDE
from tests.support.linux import Guest

if TYPE_CHECKING:
    from pathlib import Path

#: The second device: the first is the console of the test.
RNG = VIRTIO_BASE + VIRTIO_STRIDE

STATUS, FEATURES, FEATURES_SELECT, READY, NOTIFY = 0x70, 0x20, 0x24, 0x44, 0x50
QUEUE_SELECT, QUEUE_SIZE, DESC, AVAIL, USED = 0x30, 0x38, 0x80, 0x90, 0xA0

#: Takes the entropy source from its driver and drives it by hand, with rings nowhere in memory.
BAD_RINGS = """
w() {{ devmem $(({base} + $1)) 32 $2; }}
for d in /sys/bus/virtio/drivers/virtio_rng/virtio*; do
    basename $d > /sys/bus/virtio/drivers/virtio_rng/unbind
done
w {STATUS} 0; w {STATUS} 1; w {STATUS} 3
w {FEATURES_SELECT} 1; w {FEATURES} 1; w {FEATURES_SELECT} 0; w {FEATURES} 0
w {STATUS} 11
w {QUEUE_SELECT} 0; w {QUEUE_SIZE} 8
for ring in {DESC} {AVAIL} {USED}; do w $ring 0xfffff000; w $((ring + 4)) 0x7fffffff; done
w {READY} 1; w {STATUS} 15; w {NOTIFY} 0
echo status $(devmem $(({base} + {STATUS})) 32)
echo broken; read line
w {STATUS} 0
echo status $(devmem $(({base} + {STATUS})) 32)
echo reset; read line
# What Linux leaves in the register when it lets go of a device, and expects to find there.
w {STATUS} 1
for d in /sys/bus/virtio/devices/*; do
    if [ $(cat $d/device) = 0x0004 ]; then
        basename $d > /sys/bus/virtio/drivers/virtio_rng/bind
    fi
done
echo entropy $(head -c 64 /dev/hwrng | wc -c)
echo disk $(dd if=/dev/vda bs=64K count=16 2> /dev/null | wc -c)
"""


def test_broken_device_asks_for_a_reset_and_the_rest_goes_on(tmp_path: Path) -> None:
    image = tmp_path / "disk"
    image.write_bytes(bytes(1 << 20))
    names = {name: value for name, value in globals().items() if isinstance(value, int)}
    with Guest(BAD_RINGS.format(base=RNG, **names)) as guest:
        rng = guest.vm.add_rng()
        disk = guest.vm.add_disk(image)
        assert rng.base == RNG
        guest.start()
        guest.expect("broken")
        assert rng.needs_reset
        assert sum(rng.violations.values()) >= 1
        assert not disk.needs_reset
        guest.say("")
        guest.expect("status 0x00000000")
        assert not rng.needs_reset
        guest.say("")
        guest.expect("entropy 64")
        guest.expect(f"disk {1 << 20}")
        assert guest.finish().ok
        assert disk.violations == {}


#: Scribbles over every register, with every size of access, while another CPU uses the disk.
GARBAGE = """
(while :; do dd if=/dev/vda of=/dev/null bs=64K count=16 iflag=direct 2> /dev/null || break; done) &
{writes}
echo over
"""


def test_garbage_in_every_register() -> None:
    dice = random.Random(5)
    writes = "\n".join(
        f"devmem {RNG + offset:#x} {width} {dice.getrandbits(width):#x}"
        for width in (8, 16, 32, 64)
        for offset in range(0, 0x208, width // 8 if width > 16 else 4)
    )
    fd = os.memfd_create("disk")
    os.ftruncate(fd, 1 << 20)
    with Guest(GARBAGE.format(writes=writes), cpus=2) as guest:
        rng = guest.vm.add_rng()
        disk = guest.vm.add_disk(fd)
        assert rng.base == RNG
        guest.start()
        guest.expect("over")
        assert guest.finish().ok
        assert disk.violations == {}
        assert disk.stats()["errors"] == 0
        assert disk.stats()["requests"] > 0
    os.close(fd)
