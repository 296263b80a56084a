# SPDX-License-Identifier: Apache-2.0
"""The devices of kvm-unit-tests, as a guest of our own sees them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyvmm
from pyvmm import kvm
from pyvmm.testdev import TestDevice
from tests.support import bare

MIB = 1 << 20
#: Each step leaves its number in BL before it checks; the end is status 0, or that number.
CODE = """
        mov ebx, 1
        mov eax, 0x44332211
        out 0xe0, eax
        in al, 0xe2
        cmp al, 0x33
        jne bad
        mov al, 0x99
        out 0xe9, al
        in eax, 0xe0
        cmp eax, 0x44339911
        jne bad

        mov ebx, 2
        mov dx, 0x510
        xor eax, eax
        out dx, ax
        mov edi, 0x90000
        mov ecx, 4
        mov dx, 0x511
        rep insb
        cmp dword ptr [0x90000], 0x554D4551
        jne bad
        in al, dx
        test al, al
        jnz bad

        mov ebx, 3
        mov ax, 5
        mov dx, 0x510
        out dx, ax
        mov dx, 0x511
        in al, dx
        cmp al, 1
        jne bad

        mov ebx, 4
        mov dword ptr [0xff000010], 0x12345678
        cmp word ptr [0xff000012], 0x1234
        jne bad
        mov byte ptr [0xff00ffff], 0x77
        cmp byte ptr [0xff00ffff], 0x77
        jne bad

        mov ebx, 5
        mov dword ptr [0x90000], 0xcafe
        mov eax, 0x90123
        out 0xe4, eax
        cmp dword ptr [0x90000], 0xcafe
        jne bad
        mov eax, 0xf0000000
        out 0xe4, eax

        mov dx, 0x200a
        mov al, 1
        out dx, al
        xor ebx, ebx
bad:    mov eax, ebx
        out 0xf4, eax
halt:   hlt
        jmp halt
"""


def test_devices(tmp_path: Path) -> None:
    (tmp_path / "flat").write_bytes(bare.assemble(CODE, origin=MIB))
    with pyvmm.VM("4M", kernel=tmp_path / "flat", flat="protected") as vm:
        device = TestDevice(vm)
        result = vm.run(timeout=60)
        assert (result.reason, result.status) == ("poweroff", 0), result
        assert result.ok
        assert device.memory[0x10:0x14] == b"\x78\x56\x34\x12"
        lines = vm.machine.vm.get_irqchip(kvm.KVM_IRQCHIP_IOAPIC).chip.ioapic.irr
        assert lines & 1 << 10


def test_by_the_command_line(tmp_path: Path) -> None:
    """A kernel with a Multiboot header ends by a debug exit, whose byte becomes the status."""
    code = bare.assemble("mov al, 77\nout 0xf4, al\nhalt: hlt\njmp halt", origin=MIB + 32)
    addresses = (1 << 16, -(0x1BADB002 + (1 << 16)) & 0xFFFFFFFF, MIB, MIB, 0, 0, MIB + 32)
    words = (0x1BADB002, *addresses)
    data = b"".join(word.to_bytes(4, "little") for word in words)
    (tmp_path / "kernel").write_bytes(data + code)
    for option in ("--testdev", "--debug-exit"):
        command = [sys.executable, "-m", "pyvmm", "run", option, "-m", "4M", "--timeout", "60"]
        done = subprocess.run(
            [*command, "-k", str(tmp_path / "kernel")],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 77, done.stderr
