# SPDX-License-Identifier: Apache-2.0
"""A virtio device under a bare-metal driver on this machine's KVM: real exits, real kicks, real read-only pages."""

from __future__ import annotations

import os
import struct
import threading
from typing import TYPE_CHECKING

import pytest

from pyvmm import kvm
from pyvmm._core import ffi
from pyvmm.devices import virtio
from pyvmm.devices.virtio_blk import VirtioBlk
from pyvmm.devices.virtio_rng import VirtioRng
from pyvmm.errors import HostError, SymcallError
from pyvmm.machine.machine import Machine
from tests.support import bare, callee
from tests.support.waiting import until

if TYPE_CHECKING:
    from pyvmm.machine.hooks import Exit

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


OFFERED, TABLE, HEADER, STATUS_BYTE, DATA = 256, 0x30000, 0x40000, 0x40100, 0x100000
#: The same for a disk whose queue is full of chains of 4 GiB, by indirect tables: the guest kicks and goes on for ever.
ENDLESS = (
    DRIVER[: DRIVER.index("wait:")]
    .replace(write(0x70, 11), write(0x24, 0) + write(0x20, 1 << 28) + write(0x70, 11))
    .replace(write(0x38, 8), write(0x38, OFFERED))
    + "spin: jmp spin"
)


def disk_with_a_terabyte_to_do(machine: Machine, kind: int = 0) -> VirtioBlk:
    fd = os.memfd_create("disk")
    os.ftruncate(fd, 5 << 30)
    disk = VirtioBlk(machine, fd)
    os.close(fd)
    memory = machine.memory
    memory.write(HEADER, struct.pack("<IIQ", kind, 0, 0))
    chain = [(HEADER, 16, 1, 1)]
    chain += [(DATA, 15 << 20, 1 | (0 if kind else 2), n + 2) for n in range(250)]
    chain += [(STATUS_BYTE, 1, 2, 0)]
    memory.write(TABLE, b"".join(struct.pack("<QIHH", *descriptor) for descriptor in chain))
    for head in range(OFFERED):
        memory.write(DESC + 16 * head, struct.pack("<QIHH", TABLE, 16 * len(chain), 4, 0))
    heads = struct.pack(f"<HH{OFFERED}H", 0, OFFERED, *range(OFFERED))
    memory.write(AVAIL, heads)
    return disk


def test_a_guest_that_offers_a_terabyte_is_stopped() -> None:
    """By a timeout as well, and by close(); none of it waits for the disk."""
    for end in ("stop", "close", "pause"):
        machine = bare.machine(ENDLESS, memory=17 << 20)
        disk = disk_with_a_terabyte_to_do(machine)
        machine.start()
        until(lambda disk=disk: disk.stats()["kicks"] > 2)
        if end == "pause":
            machine.pause()
        if end != "close":
            machine.stop()
            assert machine.wait(60).reason == "stopped"
        assert disk.stats()["requests"] < OFFERED
        machine.close()


def test_a_machine_whose_close_failed_is_closed_by_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The host holds up a write of the disk's thread, while the guest waits for it with a reset."""
    held, go_on = threading.Event(), threading.Event()

    @ffi.callback("virtio_blk_observer")
    def hold(_opaque: object, _sector: int, _count: int) -> None:
        held.set()
        go_on.wait(60)

    before = len(os.listdir("/proc/self/fd"))
    machine = bare.machine(ENDLESS.replace("spin:", write(0x70, 0) + "spin:"), memory=17 << 20)
    disk_with_a_terabyte_to_do(machine, kind=1).observe(hold)
    machine.start()
    assert held.wait(60)
    machine.stop()
    assert machine.wait(60).reason == "stopped"  # though its vCPU waited for the disk
    monkeypatch.setattr(virtio, "STOP_SECONDS", 0)
    for _ in range(2):
        with pytest.raises(HostError, match="virtio-blk"):
            machine.close()
    assert machine.closed
    go_on.set()
    monkeypatch.setattr(virtio, "STOP_SECONDS", 60)
    machine.close()
    machine.close()
    assert len(os.listdir("/proc/self/fd")) == before


PORT, NEEDS_RESET = 0x510, 64
#: A disk with one request of 512 bytes, and a call of the VMM once it is under way.
ONE_REQUEST = f"mov ebx, {REGS:#x}\n" + "".join(
    f"mov dword ptr [rbx + {offset:#x}], {value:#x}\n"
    for offset, value in (
        *((0x70, 1), (0x70, 3), (0x24, 1), (0x20, 1), (0x70, 11), (0x30, 0), (0x38, 8)),
        *((0x80, DESC), (0x90, AVAIL), (0xA0, USED), (0x44, 1), (0x70, 15)),
    )
)
#: Offered behind DRIVER_OK, so that the write of that is over.
KICK = f"mov word ptr [{AVAIL + 2:#x}], 1\nmov dword ptr [rbx + 0x50], 0\n"
ASK = f"mov edx, {PORT:#x}\nout dx, al\nmov eax, [rbx + 0x70]\nmov [{callee.TARGET:#x}], eax"
RESET = f"mov ebp, {REGS:#x}\nmov dword ptr [rbp + 0x70], 0"


def test_a_deadline_holds_while_the_guest_waits_for_a_device() -> None:
    """The handler of a symcall resets a disk whose thread the host holds up; the disk then wants a reset."""
    held, go_on = threading.Event(), threading.Event()
    reasons: list[str] = []

    @ffi.callback("virtio_blk_observer")
    def hold(_opaque: object, _sector: int, _count: int) -> None:
        held.set()
        go_on.wait(60)

    def ask(exit: Exit) -> None:
        assert held.wait(60)
        with pytest.raises(SymcallError) as raised:
            exit.vcpu.symcall(1)
        reasons.append(raised.value.reason)

    with callee.machine(ONE_REQUEST + KICK + ASK, handler=RESET, symcall_deadline=0.2) as machine:
        fd = os.memfd_create("disk")
        os.ftruncate(fd, 1 << 20)
        VirtioBlk(machine, fd).observe(hold)
        os.close(fd)
        memory = machine.memory
        memory.write(HEADER, struct.pack("<IIQ", 1, 0, 0))
        chain = [(HEADER, 16, 1, 1), (DATA, 512, 1, 2), (STATUS_BYTE, 1, 2, 0)]
        memory.write(DESC, b"".join(struct.pack("<QIHH", *descriptor) for descriptor in chain))
        memory.write(AVAIL, struct.pack("<HHH", 0, 0, 0))
        machine.on_port(PORT, ask)
        try:
            assert bare.run(machine).reason == "halt"  # type: ignore[attr-defined]
        finally:
            go_on.set()
        assert reasons == ["deadline"]
        assert callee.word(machine, callee.TARGET) & NEEDS_RESET
