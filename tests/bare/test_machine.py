# SPDX-License-Identifier: Apache-2.0
"""The machine and its C loop, with bare-metal guests on this machine's KVM."""

from __future__ import annotations

import errno
import gc
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyvmm import VM
from pyvmm.config import CpuState, MachineConfig
from pyvmm.devices.serial import Serial
from pyvmm.devices.virtio_console import VirtioConsole
from pyvmm.errors import ConfigError, HostError, LimitError, StateError
from pyvmm.machine.hooks import Exit, GuestFault
from pyvmm.machine.machine import Machine
from pyvmm.machine.question import Question
from pyvmm.machine.result import Result
from pyvmm.swap.store import SwapStore
from tests.support import bare, closed_machine
from tests.support.waiting import until

MMIO = 0xD0100000
NO_DESCRIPTOR = 1 << 30


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_halt_ends_the_run() -> None:
    with bare.machine("hlt") as machine:
        result = bare.run(machine)
    assert result.reason == "halt"
    assert result.exits == {"hlt": 1}
    assert result.status is None


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


ENDINGS = {
    "reboot by the keyboard controller": ("mov al, 0xfe; out 0x64, al", "reboot"),
    "reboot by port cf9": ("mov dx, 0xcf9; mov al, 6; out dx, al", "reboot"),
    "ACPI power-off": ("mov dx, 0x604; mov ax, 0x3400; out dx, ax", "poweroff"),
    "panic": ("mov dx, 0x505; mov al, 1; out dx, al", "panic"),
    "triple fault": ("ud2", "triple-fault"),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_endings(name: str) -> None:
    code, reason = ENDINGS[name]
    with bare.machine(code + "\n1: jmp 1b") as machine:
        result = bare.run(machine)
    assert result.reason == reason
    assert result.vcpu == 0
    assert (result.dump is None) == (reason in ("reboot", "poweroff"))


def test_a_sleep_type_that_was_not_announced_does_nothing() -> None:
    with bare.machine("mov dx, 0x604; mov ax, 0x2400; out dx, ax; hlt") as machine:
        assert bare.run(machine).reason == "halt"


def test_guest_status_and_mark() -> None:
    with bare.machine("mov al, 42; out 0xf4, al; out 0xf5, al; hlt") as machine:
        result = bare.run(machine)
    assert result.status == 42
    assert result.boot_seconds is not None
    assert 0 < result.boot_seconds <= result.seconds


SPIN = "1: inc dword ptr [0x2000]; jmp 1b"


def count_of(machine: Machine) -> int:
    return int.from_bytes(machine.memory.read(0x2000, 4), "little")


def wait_for_progress(machine: Machine) -> None:
    before = count_of(machine)
    for _ in range(3000):
        if count_of(machine) != before:
            return
        time.sleep(0.01)
    pytest.fail("the guest makes no progress")


def test_stop_from_another_thread() -> None:
    with bare.machine(SPIN) as machine:
        machine.start()
        wait_for_progress(machine)
        machine.stop()
        assert machine.wait(60).reason == "stopped"


def test_pause_stands_still_and_resume_goes_on() -> None:
    with bare.machine(SPIN) as machine:
        machine.start()
        for _ in range(20):
            wait_for_progress(machine)
            machine.pause()
            first = count_of(machine)
            rip = machine.vcpus[0].kvm.get_regs().rip
            assert bare.CODE <= rip < bare.CODE + 16
            time.sleep(0.01)
            assert count_of(machine) == first
            machine.resume()
        machine.pause()
        machine.stop()
        assert machine.wait(60).reason == "stopped"


def test_a_pause_that_a_hook_holds_up_is_taken_back() -> None:
    """And so is a symcall, which the vCPU does not come to."""
    arrived, over = threading.Event(), threading.Event()

    def hook(exit: Exit) -> None:
        arrived.set()
        assert over.wait(60)

    with bare.machine("1: out 0xe0, al; jmp 1b") as machine:
        machine.on_port(0xE0, hook)
        machine.start()
        assert arrived.wait(60)
        try:
            with pytest.raises(LimitError, match=r"longer than 0\.3 s"):
                machine.pause(Question(0.3))
            assert machine.state == "running"
            with pytest.raises(LimitError, match="has gone"):
                machine.pause(Question(60, lambda: True))
            if machine.symbiosis is not None:
                with pytest.raises(LimitError, match=r"longer than 0\.3 s"):
                    machine.symcall(0, 1, question=Question(0.3))
        finally:
            over.set()
        machine.pause(Question(60))
        assert machine.state == "paused"
        machine.resume()
        machine.stop()


def test_registers_of_a_paused_vcpu_are_after_the_pending_instruction() -> None:
    """A read that a hook answered is complete once the machine stands: EAX holds the answer."""
    arrived = threading.Event()

    def hook(exit: Exit) -> int | None:
        exit.vcpu.machine.pause()
        arrived.set()
        return 0x77

    with bare.machine("xor eax, eax; in al, 0xe0; 1: jmp 1b") as machine:
        machine.on_port(0xE0, hook)
        machine.start()
        assert arrived.wait(60)
        deadline = time.monotonic() + 60
        while not machine.vcpus[0].parked and time.monotonic() < deadline:
            time.sleep(0.001)
        assert machine.vcpus[0].kvm.get_regs().rax == 0x77
        machine.resume()
        wait = machine.wait(0.05)
        assert wait is None
        machine.stop()


def test_timeout_leaves_the_machine_running() -> None:
    with bare.machine("1: jmp 1b") as machine:
        machine.start()
        assert machine.wait(0.05) is None
        assert machine.state == "running"


def test_a_halted_guest_with_interrupt_controllers_can_be_stopped() -> None:
    with bare.machine("cli; 1: hlt; jmp 1b", irqchip=True) as machine:
        machine.start()
        time.sleep(0.05)
        machine.stop()
        assert machine.wait(60).reason == "stopped"


@pytest.mark.host("linux")
@pytest.mark.parametrize("cpus", [1, 2])
def test_a_guest_that_nothing_wakes_hangs(cpus: int) -> None:
    """Its second vCPU was never started: it wakes nobody either."""
    with bare.machine("cli; 1: hlt; jmp 1b", irqchip=True, cpus=cpus) as machine:
        machine.start()

        def looked() -> bool:
            machine.look()
            return machine.wait(0.2) is not None

        until(looked)
        result = machine.wait(0)
        assert (result.reason, result.ok) == ("hang", False)
        assert "halted with interrupts off" in result.detail
        assert "rip" in result.dump.lower()


@pytest.mark.host("linux")
@pytest.mark.parametrize(
    "code",
    ["sti; 1: hlt; jmp 1b", "cli; 1: jmp 1b", "cli; 1: out 0xe0, al; jmp 1b"],
    ids=["interrupts on", "works", "exits"],
)
def test_a_guest_that_may_go_on_does_not_hang(code: str) -> None:
    with bare.machine(code, irqchip=True) as machine:
        machine.start()
        for _ in range(5):
            machine.look()
            assert machine.wait(0.1) is None
        assert machine.state == "running"


def test_wrong_state_is_an_error() -> None:
    machine = bare.machine("hlt")
    with pytest.raises(StateError, match="not started"):
        machine.wait()
    with pytest.raises(StateError, match="built"):
        machine.pause()
    bare.run(machine)
    with pytest.raises(StateError, match="once"):
        machine.start()
    machine.close()
    machine.close()
    with pytest.raises(StateError, match="closed"):
        machine.start()


@pytest.mark.parametrize("given", [0, 2])
def test_a_start_that_the_host_has_no_threads_for_ends(
    given: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, left = threading.Thread.start, [given]

    def scarce(thread: threading.Thread) -> None:
        if not left[0]:
            raise RuntimeError("can't start new thread")
        left[0] -= 1
        start(thread)

    before = open_descriptors()
    monkeypatch.setattr(threading.Thread, "start", scarce)
    with bare.machine("again: jmp again", irqchip=True, cpus=4) as machine:
        with pytest.raises(HostError, match="no more threads, here for vcpu") as caught:
            machine.start()
        assert caught.value.errno == errno.EAGAIN
        result = machine.wait(10)
        assert result is not None
        assert "no more threads" in result.detail
    assert open_descriptors() == before


def test_a_vcpu_is_started_by_its_machine() -> None:
    with bare.machine("hlt") as machine:
        with pytest.raises(StateError, match="by its machine"):
            machine.vcpus[0].start()
        assert bare.run(machine).reason == "halt"


def test_nothing_leaks() -> None:
    with bare.machine("hlt") as machine:
        bare.run(machine)  # whatever is made once for the process
    before = open_descriptors()
    for _ in range(5):
        with bare.machine("hlt", irqchip=True, cpus=3) as machine:
            machine.board.irqfd(20)
            machine.board.ioeventfd(MMIO, 4, 0)
            machine.start()
    assert open_descriptors() == before
    with pytest.raises(ConfigError, match="vCPUs"):
        Machine(MachineConfig(1 << 20, cpus=1 << 20))
    with pytest.raises(ConfigError, match="memory"):
        Machine(MachineConfig(12345))
    assert open_descriptors() == before


def dropped_machine() -> None:
    """With devices; never started."""
    machine = bare.machine("hlt", irqchip=True, cpus=2)
    VirtioConsole(machine)
    Serial(machine)


def dropped_after_its_run() -> None:
    """Its threads held it."""
    machine = bare.machine("hlt")
    Serial(machine)
    bare.run(machine)


def dropped_vm() -> None:
    """With one of everything; a thread of Python waits for the host to be short of memory."""
    closed_machine.built()


def collected(drop: Callable[[], None]) -> None:
    drop()
    gc.collect()


@pytest.mark.parametrize("drop", [dropped_machine, dropped_after_its_run, dropped_vm])
def test_one_that_is_dropped_says_so_and_gives_all_back(drop: Callable[[], None]) -> None:
    gc.collect()
    descriptors, threads = open_descriptors(), threading.active_count()
    with pytest.warns(ResourceWarning, match="dropped without close"):
        collected(drop)
    assert (open_descriptors(), threading.active_count()) == (descriptors, threads)


def test_the_log_is_read_only_where_a_kernel_may_have_panicked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is 64 KiB to copy, and judging it imports regular expressions."""
    asked = []
    monkeypatch.setattr(VM, "console_log", lambda vm: asked.append(vm) or b"")
    for code, reason in (("hlt", "halt"), ("mov al, 0xfe\nout 0x64, al\nhlt", "reboot")):
        with VM("2M", irqchip=False) as vm:
            vm.memory.write(bare.CODE, bare.assemble(code))
            vm.load_state(CpuState("protected", rip=bare.CODE, rsp=bare.STACK))
            assert vm.run(60).reason == reason
            assert bool(asked) == (reason == "reboot")


def test_an_unknown_device_is_a_clear_error() -> None:
    from pyvmm import kvm

    with pytest.raises(kvm.KvmUnavailable, match="no-such-kvm"):
        Machine(MachineConfig(1 << 20, kvm_path="/dev/no-such-kvm"))


def test_irqfd_wakes_a_halted_guest() -> None:
    """Real mode with the 8259s as KVM resets them: vector 8 + 5 is set up, GSI 5 is signalled from outside."""
    from pyvmm.config import CpuState

    code = """
        xor ax, ax
        mov ds, ax
        mov ss, ax
        mov sp, 0x7000
        mov word ptr [0x25 * 4], 0x1100
        mov word ptr [0x25 * 4 + 2], 0
        mov al, 0x11
        out 0x20, al
        mov al, 0x20
        out 0x21, al
        mov al, 4
        out 0x21, al
        mov al, 1
        out 0x21, al
        mov al, 0xdf
        out 0x21, al
        out 0xe0, al
        sti
    1:  hlt
        jmp 1b
    """
    handler = "mov al, 7; out 0xf4, al; mov dx, 0xcf9; mov al, 6; out dx, al"
    ready = threading.Event()
    with Machine(MachineConfig(1 << 20)) as machine:
        machine.memory.write(bare.CODE, bare.assemble(code, 16))
        machine.memory.write(0x1100, bare.assemble(handler, 16, 0x1100))
        machine.set_state(CpuState("real", rip=bare.CODE))
        machine.on_port(0xE0, lambda exit: ready.set())
        line = machine.board.irqfd(5)
        machine.start()
        assert ready.wait(60)
        os.eventfd_write(line, 1)
        result = machine.wait(60)
    assert result is not None
    assert (result.reason, result.status) == ("reboot", 7)


def test_ioeventfd_takes_the_write_without_an_exit() -> None:
    with bare.machine(f"mov eax, 3; mov [{MMIO:#x}], eax; mov [{MMIO:#x}], eax; hlt") as machine:
        kick = machine.board.ioeventfd(MMIO, 4, 3)
        result = bare.run(machine)
        assert os.eventfd_read(kick) == 2
    assert "mmio" not in result.exits


@pytest.mark.parametrize("size", [64 << 20, (3 << 30) + (64 << 20), 5 << 30])
def test_memory_around_the_hole(size: int) -> None:
    """RAM ends at 3 GiB and goes on at 4 GiB; nothing is committed until it is touched."""
    with Machine(MachineConfig(size)) as machine:
        regions = machine.memory.ram
        assert sum(region.size for region in regions) == size
        assert regions[0].gpa == 0
        assert regions[0].size == min(size, 3 << 30)
        for region in regions[1:]:
            assert region.gpa == 4 << 30
        last = regions[-1].gpa + regions[-1].size - 8
        machine.memory.write(last, b"end of R")
        assert machine.memory.read(last, 8) == b"end of R"
        for gpa, length in ((last, 9), (3 << 30, 1), ((3 << 30) - 4, 8), (1 << 60, 1), (-4, 8)):
            with pytest.raises(ValueError, match="not inside"):
                machine.memory.view(gpa, length)


@pytest.mark.parametrize("access", ["mov eax, ds:[{at:#x}]", "mov ds:[{at:#x}], eax"])
def test_memory_that_is_gone_ends_the_run_and_says_which(tmp_path: Path, access: str) -> None:
    """The guest uses a part of its swap file that somebody cut off; another machine of the process goes on."""
    window, size = 256 << 20, 2 << 20
    store = SwapStore(size, tmp_path / "swap")
    other = bare.machine("spin: jmp spin")
    other.start()
    machine = bare.machine(access.format(at=window + (1 << 20)) + "\nhlt")
    machine.board.add_window(window, size, store.mapped)
    os.truncate(tmp_path / "swap", 1 << 20)
    result = bare.run(machine)
    assert isinstance(result, Result)
    assert result.reason == "run-failed"
    assert (
        f"swap file {tmp_path}/swap was cut off: it has 1048576 bytes of 2097152" in result.detail
    )
    machine.close()
    store.close()
    assert other.state == "running"
    other.close()


@pytest.mark.parametrize(
    ("memory", "cpus", "complaint"),
    [
        (1 << 62, 1, "bits of physical addresses"),
        (-(1 << 62), 1, "at least 1 MiB"),
        (1 << 20, 10**30, "this KVM takes 1 to"),
        (1 << 20, 1.5, "this KVM takes 1 to"),
        (1 << 20, "2", "'2' vCPUs: this KVM takes 1 to"),
        (1e6, 1, "a whole number"),
        (float("nan"), 1, "a whole number"),
    ],
)
def test_machines_that_cannot_be(memory: Any, cpus: Any, complaint: str) -> None:
    before = open_descriptors()
    with pytest.raises(ConfigError, match=complaint):
        Machine(MachineConfig(memory, cpus))
    assert open_descriptors() == before


@pytest.mark.parametrize("deadline", [float("nan"), float("inf"), -1, 0])
def test_symcall_deadlines_that_cannot_be(deadline: float) -> None:
    with pytest.raises(ConfigError, match="a symcall deadline"):
        Machine(MachineConfig(1 << 20, symbiotic=False, symcall_deadline=deadline))


def test_arguments_that_cannot_be() -> None:
    """A sentence each, and not what cffi says; nothing has been begun."""
    with bare.machine("1: jmp 1b") as machine:
        for address, length in ((-1, 4), (1 << 64, 1), ((1 << 64) - 1, 2), (0xD8000000, 0)):
            with pytest.raises(ConfigError, match="addresses have 64 bits"):
                machine.on_mmio(address, length, print)  # type: ignore[arg-type]
        for port, count in ((-1, 1), (1 << 70, 1), (0, 1 << 70)):
            with pytest.raises(ConfigError, match="ports are 0 to"):
                machine.on_port(port, print, count)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="None is no hook"):
            machine.on_port(0x50, None)  # type: ignore[arg-type]
        for name in ("output_fd", "input_fd", "log_fd", "quit_fd", "failed_fd"):
            with pytest.raises(HostError, match="is not an open descriptor"):
                Serial(machine, **{name: NO_DESCRIPTOR})
        for name in ("output_fd", "input_fd", "quit_fd", "failed_fd", "gate_fd"):
            with pytest.raises(HostError, match=f"{name}={NO_DESCRIPTOR} is not an open"):
                VirtioConsole(machine, **{name: NO_DESCRIPTOR})
        with pytest.raises(ConfigError, match="the start state"):
            machine.set_state(CpuState("protected", rip=1 << 64, rsp=0))
        machine.start()
        for timeout in (float("nan"), float("inf"), 1e10):
            with pytest.raises(ConfigError, match="a timeout"):
                machine.wait(timeout)
        assert machine.wait(-1) is None
        with pytest.raises(ConfigError, match="vCPU -1"):
            machine.symcall(-1, 1)
        if machine.symbiosis is not None:
            with pytest.raises(ConfigError, match="numbers of calls have 64 bits"):
                machine.symcall(0, 1 << 64)
            for want in (-1, 1 << 70):
                with pytest.raises(ConfigError, match="bytes of data each way"):
                    machine.symcall(0, 1, want=want)
        machine.stop()
