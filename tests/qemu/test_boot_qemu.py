# SPDX-License-Identifier: Apache-2.0
"""What the boot layer prepares, given to Linux by somebody else: QEMU's emulated CPU, and no KVM at all.

The guest memory is written to files, which QEMU puts in place; a reset vector of a few instructions
puts the CPU in the state that the boot layer asked for. So a kernel that comes up proves protocol,
tables and registers apart from pyvmm's own machine.
"""

import struct
import subprocess

import pytest

from pyvmm.boot import acpi
from pyvmm.boot.load import load_kernel
from pyvmm.config import CpuState
from tests.support.images import MIB, FakeMemory, Region, cached_kernels

MEMORY = 256 * MIB
TIMER_FAULT = "MP-BIOS bug"
TRIES = 3
# The firmware's area is ROM here, so the tables lie below it.
TABLES = 0x90000
# Where QEMU's microvm has its virtio-mmio devices; GSI 9 is the SCI's.
VIRTIO = [(0xFEB00000 + 512 * n, 5 + n) for n in range(8) if n != 4]

# lgdt at the start of the reset segment's pointer; then the mode switch and a far jump.
LGDT = bytes.fromhex("fa 2e 66 0f 01 16")  # cli; lgdtl %cs:disp16
MOV_EAX = b"\x66\xb8"  # movl $imm32, %eax
TO_CR0 = bytes.fromhex("0f 22 c0")
TO_CR3 = bytes.fromhex("0f 22 d8")
TO_CR4 = bytes.fromhex("0f 22 e0")
SET_LME = bytes.fromhex("66 b9 80 00 00 c0 66 b8 00 01 00 00 66 31 d2 0f 30")
DATA_SEGMENTS = bytes.fromhex("b8 18 00 8e d8 8e c0 8e d0")
MOV_EBX, MOV_ESI = b"\x66\xbb", b"\x66\xbe"
FAR_JUMP = b"\x66\xea"


def reset_rom(state: CpuState) -> bytes:
    """A 64 KiB ROM whose reset vector enters `state`."""

    def long(value: int) -> bytes:
        return struct.pack("<I", value)

    code = MOV_EAX + long(1) + TO_CR0
    if state.mode == "long":
        code = MOV_EAX + long(1 << 5) + TO_CR4 + MOV_EAX + long(state.cr3) + TO_CR3 + SET_LME
        code += MOV_EAX + long(1 << 31 | 1) + TO_CR0
    code += DATA_SEGMENTS + MOV_EBX + long(state.rbx) + MOV_ESI + long(state.rsi)
    code += FAR_JUMP + long(state.rip) + b"\x10\0"
    pointer_at = 0x100
    rom = bytearray(0x10000)
    code = LGDT + struct.pack("<H", pointer_at) + code
    rom[: len(code)] = code
    struct.pack_into("<HI", rom, pointer_at, state.gdt_limit, state.gdt_base)
    rom[0xFFF0:0xFFF3] = b"\xe9\x0d\x00"  # jmp to the segment's start
    return bytes(rom)


def kernels() -> list[str]:
    """One kernel of each protocol."""
    return cached_kernels("vmlinux*")[:1] + cached_kernels("vmlinuz-*")[:1]


def boot(kernel: str, folder) -> str:
    """Run the kernel until it resets; return its log."""
    memory = FakeMemory(MEMORY)
    tables = acpi.build(2, VIRTIO, address=TABLES, timer_pin=2)
    memory.write(tables.address, tables.blob)
    state = load_kernel(
        kernel,
        memory,
        cmdline="console=ttyS0 earlyprintk=serial panic=-1 reboot=t root=/dev/absent",
        rsdp=tables.rsdp,
        reserved=[Region(TABLES, 0x10000)],
    )
    (folder / "low").write_bytes(memory.read(0, 0xA0000))
    (folder / "high").write_bytes(memory.read(MIB, MEMORY - MIB).rstrip(b"\0"))
    (folder / "rom").write_bytes(reset_rom(state))
    command = (
        "qemu-system-x86_64 -M microvm,acpi=off,rtc=off,pit=on,pic=on,isa-serial=on -accel "
        "tcg,thread=single -cpu max -smp 2 -m 256 -nodefaults -no-reboot -display none -serial file:log -bios rom "
        "-device loader,file=low,addr=0,force-raw=on "
        f"-device loader,file=high,addr={MIB:#x},force-raw=on"
    )
    subprocess.run(command.split(), cwd=folder, check=True, timeout=300)
    return (folder / "log").read_text(errors="replace")


@pytest.mark.parametrize("kernel", kernels() or [None])
def test_linux_boots_from_what_the_boot_layer_wrote(kernel, tmp_path) -> None:
    if kernel is None:
        pytest.fail("no kernel in the cache: make guest")
    for _ in range(TRIES):
        log = boot(kernel, tmp_path)
        # Linux expects some ticks in a short time by the TSC, in which QEMU may not run at all on a busy machine.
        if TIMER_FAULT not in log:
            break
    assert "Linux version" in log
    assert "BIOS-e820: [mem 0x0000000000100000-0x000000000fffffff] usable" in log
    assert "ACPI: FACP 0x" in log
    assert "smp: Brought up 1 node, 2 CPUs" in log
    assert "1 ACPI AML tables successfully acquired and loaded" in log
    assert "PM: (supports S0" in log
    assert "ttyS0 at I/O 0x3f8 (irq = 4" in log
    for complaint in ("ACPI Error", "ACPI BIOS", "ACPI Warning", "FADT:", TIMER_FAULT):
        assert complaint not in log, log
