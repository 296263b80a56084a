# SPDX-License-Identifier: Apache-2.0
"""A virtio device under a bare-metal driver on this machine's KVM: real exits, real kicks, real read-only pages."""

from __future__ import annotations

import struct

from pyvmm import kvm
from pyvmm.devices.virtio_rng import VirtioRng
from tests import bare

REGS = 0xD0000000
DESC, AVAIL, USED, BUFFER = 0x20000, 0x21000, 0x22000, 0x23000
REPORT = 0x24000


def write(offset: int, value: int) -> str:
    return f"mov dword ptr ds:[{REGS + offset:#x}], {value:#x}\n"


DRIVER = (
    write(0x70, 1)
    + write(0x70, 3)
    + write(0x24, 1)
    + write(0x20, 1)
    + write(0x70, 11)
    + write(0x30, 0)
    + write(0x38, 8)
    + write(0x80, DESC)
    + write(0x90, AVAIL)
    + write(0xA0, USED)
    + write(0x44, 1)
    + write(0x70, 15)
    + write(0x50, 0)  # one kick
    + f"""
    wait:
        cmp word ptr ds:[{USED + 2:#x}], 1
        jne wait
    interrupt:
        mov eax, ds:[{REGS + 0x60:#x}]
        test eax, eax
        jz interrupt
        mov ds:[{REPORT:#x}], eax
        mov dword ptr ds:[{REGS + 0x64:#x}], eax
        mov ecx, 100
    reads:
        mov eax, ds:[{REGS:#x}]
        dec ecx
        jnz reads
        mov ds:[{REPORT + 4:#x}], eax
        mov eax, ds:[{REGS + 0x70:#x}]
        mov ds:[{REPORT + 8:#x}], eax
        hlt
    """
)


def test_driver_without_exits_for_reads_and_kicks() -> None:
    with bare.machine(DRIVER) as machine:
        device = VirtioRng(machine)
        machine.memory.write(DESC, struct.pack("<QIHH", BUFFER, 64, 2, 0))
        machine.memory.write(AVAIL, struct.pack("<HHH", 0, 1, 0))
        result = bare.run(machine)
        assert result.reason == "halt", result
        assert machine.memory.read(USED + 4, 8) == struct.pack("<II", 0, 64)
        assert machine.memory.read(BUFFER, 64) != bytes(64)
        assert struct.unpack("<III", machine.memory.read(REPORT, 12)) == (1, 0x74726976, 15)
        assert device.stats()["requests"] == 1
        assert result.unclaimed == 0
        if machine.kvm.check_extension(kvm.KVM_CAP_READONLY_MEM):
            assert result.exits == {
                "hlt": 1,
                "mmio": 12,
            }  # its writes but the kick and the acknowledgement
