# SPDX-License-Identifier: Apache-2.0
"""The life of a machine: its start, pauses and ends, with bare-metal guests on this machine's KVM."""

from __future__ import annotations

import errno
import threading
import time

import pytest

from pyvmm.errors import HostError, LimitError, StateError
from pyvmm.machine.hooks import Exit
from pyvmm.machine.machine import Machine
from pyvmm.machine.question import Question
from tests.support import bare
from tests.support.descriptors import open_descriptors
from tests.support.waiting import until


def test_halt_ends_the_run() -> None:
    with bare.machine("hlt") as machine:
        result = bare.run(machine)
    assert result.reason == "halt"
    assert result.exits == {"hlt": 1}
    assert result.status is None


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
