# SPDX-License-Identifier: Apache-2.0
"""What a machine is made of and gives back, with bare-metal guests on this machine's KVM."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyvmm import VM
from pyvmm.config import CpuState, MachineConfig
from pyvmm.devices.serial import Serial
from pyvmm.devices.virtio_console import VirtioConsole
from pyvmm.errors import ConfigError, HostError, StateError
from pyvmm.machine.machine import Machine
from pyvmm.machine.result import Result
from pyvmm.swap.store import SwapStore
from tests.support import bare, closed_machine
from tests.support.bare import MMIO
from tests.support.descriptors import open_descriptors

NO_DESCRIPTOR = 1 << 30


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


def test_two_threads_that_close_it_do_so_one_after_the_other() -> None:
    """Or the second one would free the memory that a device uses which the first is still closing."""
    vm = VM("2M")
    left: list[bytes] = []

    class Slow:
        """A part that takes its time, and is closed before the memory is."""

        def close(self) -> None:
            other.start()
            other.join(0.5)
            left.append(vm.memory.read(0, 2))

    other = threading.Thread(target=vm.close)
    vm.machine.own(Slow())
    vm.close()
    other.join()
    assert left == [bytes(2)]
    with pytest.raises(StateError):
        vm.memory.read(0, 2)
