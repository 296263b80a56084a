# SPDX-License-Identifier: Apache-2.0
"""Kernels of our own, of each kind that the boot layer takes, run on the vCPU."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

import pyvmm
from tests.support import bare
from tests.support import images as support
from tests.support.images import MIB, Load

ADDRESS = 2 * MIB
#: Writes the text at ESI, as far as its NUL or, with EDX, to that address, to the serial port, and a line's end.
PUTS = """
puts:   lodsb
        test al, al
        jz newline
        mov dx, 0x3f8
        out dx, al
        jmp puts
newline: mov al, 10
        mov dx, 0x3f8
        out dx, al
        ret
"""
#: Power-off by ACPI, with BL as the status.
END = """
end:    mov al, bl
        out 0xf4, al
        mov dx, 0x604
        mov ax, 0x3400
        out dx, ax
        hlt
"""

#: Says what the loader told it; status 1 if the registers are not as the specification has them.
MULTIBOOT = f"""
        mov esp, {ADDRESS + 0x4000}
        cmp eax, 0x2BADB002
        jne bad
        pushfd
        pop eax
        test eax, 0x20200
        jnz bad
        mov ecx, cr0
        and ecx, 0x80000001
        cmp ecx, 1
        jne bad
        mov eax, [bss]
        test eax, eax
        jnz bad
        mov ebp, ebx
        mov esi, [ebp + 64]
        call puts
        mov esi, [ebp + 16]
        call puts
        mov ebx, [ebp + 20]
        mov edi, [ebp + 24]
module: test ebx, ebx
        jz done
        mov esi, [edi + 8]
        call puts
        mov esi, [edi]
        call puts
        add edi, 16
        dec ebx
        jmp module
done:   mov ebx, 40
        jmp end
bad:    mov ebx, 1
        jmp end
{PUTS}
{END}
        .balign 4
bss:
"""


def header(flags: int, *addresses: int) -> bytes:
    return support.multiboot_header(flags) + struct.pack(f"<{len(addresses)}I", *addresses)


def aout() -> bytes:
    code = bare.assemble(MULTIBOOT, origin=ADDRESS + 32)
    end = ADDRESS + 32 + len(code)
    return header(1 << 16, ADDRESS, ADDRESS, end, end + 4096, ADDRESS + 32) + code


def elf(bits: int) -> bytes:
    code = header(0) + bare.assemble(MULTIBOOT, origin=ADDRESS + 12)
    return support.vmlinux((Load(ADDRESS, code, 8192),), b"", bits=bits, entry=ADDRESS + 12)


@pytest.mark.parametrize("data", [aout(), elf(32), elf(64)], ids=["addresses", "elf32", "elf64"])
def test_multiboot(tmp_path: Path, data: bytes) -> None:
    kernel, module = tmp_path / "kernel", tmp_path / "module"
    kernel.write_bytes(data)
    module.write_bytes(b"in it\0")
    with pyvmm.VM(
        "8M", kernel=kernel, cmdline="some words", initrd=[f"{module} with=words", b"bytes\0"]
    ) as vm:
        result = vm.run(timeout=60)
        said = vm.console_log().decode()
    assert (result.reason, result.status) == ("poweroff", 40), result
    expected = ["pyvmm", f"{kernel} some words", f"{module} with=words", "in it", "", "bytes"]
    assert said.splitlines() == expected


#: Checks the magic of hvm_start_info and prints its command line.
PVH = f"""
        mov esp, {ADDRESS + 0x4000}
        cmp dword ptr [ebx], 0x336EC578
        jne bad
        mov esi, [ebx + 24]
        call puts
        mov ebx, 41
        jmp end
bad:    mov ebx, 1
        jmp end
{PUTS}
{END}
"""


@pytest.mark.parametrize("bits", [32, 64])
def test_pvh(tmp_path: Path, bits: int) -> None:
    kernel = tmp_path / "kernel"
    kernel.write_bytes(
        support.vmlinux((Load(ADDRESS, bare.assemble(PVH, origin=ADDRESS)),), bits=bits)
    )
    with pyvmm.VM("8M", kernel=kernel, cmdline="some words") as vm:
        result = vm.run(timeout=60)
        said = vm.console_log()
    assert (result.reason, result.status, said) == ("poweroff", 41, b"some words\n"), result
