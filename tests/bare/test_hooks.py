# SPDX-License-Identifier: Apache-2.0
"""Hooks on ports, MMIO and MSRs, with bare-metal guests on this machine's KVM."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from pyvmm.errors import ConfigError, StateError
from pyvmm.machine.hooks import Exit, GuestFault
from tests.support import bare
from tests.support.bare import MMIO


def test_port_hook_sees_writes_and_answers_reads() -> None:
    seen = []

    def hook(exit: Exit) -> int | None:
        seen.append((exit.address, exit.offset, exit.size, exit.is_write, exit.value))
        return None if exit.is_write else 0x11223344

    code = """
        mov dx, 0x511
        mov eax, 0xcafebabe
        out dx, al
        out dx, ax
        out dx, eax
        in eax, dx
        mov [0x2000], eax
        xor eax, eax
        in al, dx
        mov [0x2004], eax
        hlt"""
    with bare.machine(code) as machine:
        machine.on_port(0x510, hook, 4)
        bare.run(machine)
        assert machine.memory.read(0x2000, 8) == bytes.fromhex("44332211 44000000")
    assert seen == [
        (0x511, 1, 1, True, 0xBE),
        (0x511, 1, 2, True, 0xBABE),
        (0x511, 1, 4, True, 0xCAFEBABE),
        (0x511, 1, 4, False, 2**64 - 1),
        (0x511, 1, 1, False, 2**64 - 1),
    ]


def test_string_io_is_one_hook_call_per_element() -> None:
    written: list[int] = []
    numbers = iter(range(100, 200))

    def hook(exit: Exit) -> int | None:
        if exit.is_write:
            written.append(exit.value)
            return None
        return next(numbers)

    code = """
        mov esi, 0x2000
        mov edi, 0x3000
        mov ecx, 37
        mov dx, 0x510
        cld
        rep outsb
        mov ecx, 37
        rep insb
        hlt"""
    with bare.machine(code) as machine:
        machine.memory.write(0x2000, bytes(range(37)))
        machine.on_port(0x510, hook)
        bare.run(machine)
        assert machine.memory.read(0x3000, 38) == bytes(range(100, 137)) + b"\0"
    assert written == list(range(37))


def test_nobody_at_a_port_reads_all_ones_and_is_counted() -> None:
    with bare.machine("in eax, 0xe0; mov [0x2000], eax; out 0xe0, al; hlt") as machine:
        result = bare.run(machine)
        assert machine.memory.read(0x2000, 4) == b"\xff" * 4
    assert result.unclaimed == 2


def test_mmio_hook() -> None:
    seen = []

    def hook(exit: Exit) -> int | None:
        seen.append((exit.offset, exit.size, exit.is_write, exit.value if exit.is_write else None))
        return None if exit.is_write else 0x5A5A1234

    code = f"""
        mov eax, 0x01020304
        mov [{MMIO + 8:#x}], eax
        mov [{MMIO + 3:#x}], al
        mov ebx, [{MMIO:#x}]
        mov [0x2000], ebx
        hlt"""
    with bare.machine(code) as machine:
        machine.on_mmio(MMIO, 0x100, hook)
        bare.run(machine)
        assert machine.memory.read(0x2000, 4) == bytes.fromhex("34125a5a")
    assert seen == [(8, 4, True, 0x01020304), (3, 1, True, 4), (0, 4, False, None)]


def test_msr_hook_reads_and_writes() -> None:
    stored = {}

    def hook(exit: Exit) -> int | None:
        if exit.is_write:
            stored[exit.address] = exit.value
            return None
        return 0x1111222233334444

    code = """
        mov ecx, 0x4b564d10
        mov eax, 0x89abcdef
        mov edx, 0x01234567
        wrmsr
        mov ecx, 0x4b564d11
        rdmsr
        mov [0x2000], eax
        mov [0x2004], edx
        hlt"""
    with bare.machine(code) as machine:
        machine.on_msr(0x4B564D10, hook, 2)
        result = bare.run(machine)
        assert machine.memory.read(0x2000, 8) == (0x1111222233334444).to_bytes(8, "little")
    assert stored == {0x4B564D10: 0x0123456789ABCDEF}
    assert result.exits["x86_wrmsr"] == result.exits["x86_rdmsr"] == 1


def test_refused_msr_is_a_general_protection_fault() -> None:
    """There is no IDT, so the #GP ends in a triple fault: proof that it was delivered."""

    def hook(exit: Exit) -> int | None:
        raise GuestFault

    with bare.machine("mov ecx, 0x4b564d10; rdmsr; hlt") as machine:
        machine.on_msr(0x4B564D10, hook)
        result = bare.run(machine)
    assert result.reason == "triple-fault"
    assert "rip" in result.dump.lower()


def test_hooks_must_not_overlap_devices_or_ram() -> None:
    with bare.machine("hlt") as machine:
        machine.on_port(0x510, lambda exit: None, 8)
        with pytest.raises(ConfigError, match="0x517"):
            machine.on_port(0x517, lambda exit: None)
        with pytest.raises(ConfigError, match="RAM"):
            machine.on_mmio(0x8000, 0x1000, lambda exit: None)
        with pytest.raises(ConfigError, match="0x64"):
            machine.on_port(0x64, lambda exit: None)
        with pytest.raises(ConfigError, match="x2APIC"):
            machine.on_msr(0x7FF, lambda exit: None, 2)
        with pytest.raises(ConfigError, match="ports"):
            machine.on_port(0xFFFF, lambda exit: None, 2)


def test_an_exception_in_a_hook_ends_the_run_and_is_raised() -> None:
    def hook(exit: Exit) -> int | None:
        raise KeyError("from the hook")

    with bare.machine("1: out 0xe0, al; jmp 1b") as machine:
        machine.on_port(0xE0, hook)
        machine.start()
        with pytest.raises(KeyError, match="from the hook"):
            machine.wait(60)


def test_hooks_that_several_threads_add_are_each_called_for_their_own_port() -> None:
    """Hooks may be added at any time; the bus knows each by its place in a list."""
    first, each, threads = 0x1000, 20, 4
    called: dict[int, int] = {}

    class Slow(list[Any]):
        """Lets another thread come between what is done with it."""

        def append(self, hook: Any) -> None:
            super().append(hook)
            time.sleep(0.0005)

    with bare.machine(
        f"mov edx, {first}\n1: out dx, al\ninc edx\ncmp edx, {first + each * threads}\njne 1b\nhlt"
    ) as machine:
        machine.hooks.handlers = Slow()

        def add(thread: int) -> None:
            for port in range(first + thread, first + each * threads, threads):
                machine.on_port(
                    port, lambda exit, port=port: called.__setitem__(port, exit.address)
                )

        adders = [threading.Thread(target=add, args=(n,)) for n in range(threads)]
        for adder in adders:
            adder.start()
        for adder in adders:
            adder.join()
        assert bare.run(machine).reason == "halt"
    assert called == {port: port for port in range(first, first + each * threads)}


def test_a_hook_cannot_close_its_machine() -> None:
    with bare.machine("1: out 0xe0, al; jmp 1b") as machine:
        machine.on_port(0xE0, lambda exit: machine.close())
        machine.start()
        with pytest.raises(StateError, match="call stop"):
            machine.wait(60)


@pytest.mark.parametrize("timeout", [None, 0.1])
def test_a_hook_cannot_wait_for_its_machine(timeout: float | None) -> None:
    with bare.machine("in al, 0x50\nhlt") as machine:
        machine.on_port(0x50, lambda exit: machine.wait(timeout))
        with pytest.raises(StateError, match=r"hook cannot wait .* stop\(\)"):
            bare.run(machine)


def test_a_hook_can_stop_its_machine() -> None:
    with bare.machine("1: out 0xe0, al; jmp 1b") as machine:
        machine.on_port(0xE0, lambda exit: machine.stop())
        assert bare.run(machine).reason == "stopped"
