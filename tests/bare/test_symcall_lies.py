# SPDX-License-Identifier: Apache-2.0
"""Guests that break the rules of SymCall: the VMM lives on, counts it, and so does the guest where that is possible."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pyvmm import kvm
from pyvmm._core import lib
from pyvmm.errors import SymcallError
from tests.support import remote
from tests.support.remote import Remote
from tests.support.waiting import until

if TYPE_CHECKING:
    from pyvmm.machine.hooks import Exit, Hypercall

#: On VT-x exceptions and state go through VMCS fields of other rules.
pytestmark = pytest.mark.host("linux", "vmx", "shadow", rest=True)

NOT_CANONICAL = 0x8000_0000_0000_0000


@pytest.fixture
def guest() -> Iterator[Remote]:
    with Remote(symcall_deadline=remote.deadline()) as made:
        yield made.start()


def disabled_until_registered(guest: Remote) -> None:
    """After a call that came to a bad end there are no more of them, until the guest registers its entry anew."""
    refused = guest.machine.symcalls["refused_disabled"]
    assert guest.refusal(lib.SYMCALL_TEST).reason == "disabled"
    assert guest.machine.symcalls["refused_disabled"] == refused + 1
    assert guest.goes_on()
    assert guest.wrmsr(lib.MSR_SYMBIOTIC_RIP, guest.address("symcall_entry"))
    assert guest.works()


def page_flags(guest: Remote) -> int:
    """Of the page of the vCPU, as the guest sees them."""
    at = guest.address("vcpu_page") + lib.SYMBIOTIC_FLAGS_OFFSET
    return int.from_bytes(guest.machine.memory.read(at, 4), "little")


def test_a_handler_that_never_returns(guest: Remote) -> None:
    error = guest.refusal(remote.NEVER_RETURNS)
    assert error.reason == "deadline"
    # No call is active, and what the guest said of itself stands.
    assert page_flags(guest) == lib.SYMBIOTIC_VCPU_ENABLED
    assert guest.value("spins")
    assert guest.goes_on()
    assert guest.counters() == {"deadlines": 1}
    disabled_until_registered(guest)


def test_a_handler_that_never_returns_to_a_hook(guest: Remote) -> None:
    reasons: list[str] = []

    def hook(exit: Exit) -> None:
        with pytest.raises(SymcallError) as raised:
            exit.vcpu.symcall(remote.NEVER_RETURNS)
        reasons.append(raised.value.reason)

    guest.machine.on_port(0x5F8, hook)
    assert guest.do(remote.OUT8, 0x5F8, 1) == 0
    assert reasons == ["deadline"]
    assert page_flags(guest) == lib.SYMBIOTIC_VCPU_ENABLED
    disabled_until_registered(guest)
    assert page_flags(guest) == lib.SYMBIOTIC_VCPU_ENABLED


def test_a_handler_that_halts_for_ever(guest: Remote) -> None:
    assert guest.refusal(remote.HALTS).reason == "deadline"
    assert guest.goes_on()
    disabled_until_registered(guest)


@pytest.mark.parametrize("code", [38, 1, 4095])
def test_an_error_has_its_code(guest: Remote, code: int) -> None:
    error = guest.refusal(remote.FAILS, code)
    assert (error.reason, error.code) == ("error", code)
    assert page_flags(guest) == lib.SYMBIOTIC_VCPU_ENABLED
    assert guest.counters() == {"errors": 1}
    assert guest.works()


@pytest.mark.parametrize("code", [0, 1 << 63, (1 << 64) - 1])
def test_an_error_with_a_senseless_code_is_an_error(guest: Remote, code: int) -> None:
    assert guest.refusal(remote.FAILS, code).reason == "error"
    assert guest.works()


def test_a_return_without_a_call(guest: Remote) -> None:
    for number in (lib.SYMBIOTIC_RETURN, lib.SYMBIOTIC_ERROR):
        after = guest.ring(number, 1, 2, 3, 4, 5)
        assert after == [lib.SYMBIOTIC_HYPERCALL_REFUSED, 1, 2, 3, 4, 5]
    assert guest.counters() == {"stray_returns": 2}
    assert guest.works()


def test_a_second_return_is_a_return_without_a_call(guest: Remote) -> None:
    assert guest.works()
    assert guest.ring(lib.SYMBIOTIC_RETURN)[0] == lib.SYMBIOTIC_HYPERCALL_REFUSED
    assert guest.counters() == {"stray_returns": 1}
    assert guest.works()


def test_a_return_from_user_mode(guest: Remote) -> None:
    """It counts for nothing; the handler then faults there, and its kernel reports that."""
    error = guest.refusal(remote.RETURNS_FROM_USER)
    assert (error.reason, error.code) == ("error", 1006)
    refused = {"doorbells_refused": 1} if remote.has_user_ports() else {}
    assert guest.counters() == {"errors": 1, **refused}
    assert guest.works()


def test_a_handler_that_faults_and_recovers(guest: Remote) -> None:
    assert guest.symcall(remote.FAULTS).rbx == 6 + 1
    assert guest.counters() == {}
    assert guest.works()


def ends_or_goes_on(number: int) -> None:
    """A handler that brings the vCPU down ends the call. The guest goes on, unless the CPU was reset by it (SVM)."""
    with Remote(symcall_deadline=remote.deadline()).start() as guest:
        assert guest.refusal(number).reason == "fault"
        assert guest.counters() == {"faults": 1}
        result = guest.machine.wait(0.5)
        if result is None:
            assert guest.goes_on()
            disabled_until_registered(guest)
        else:
            assert result.reason == "triple-fault"
            assert not Path("/sys/module/kvm_intel").exists()


def test_a_handler_that_triple_faults() -> None:
    ends_or_goes_on(remote.TRIPLE_FAULTS)


def test_a_handler_that_loses_its_gdt_and_triple_faults() -> None:
    """What it did to the registers before is not taken for a reset."""
    ends_or_goes_on(remote.LOSES_ITS_GDT)


def test_a_handler_that_loses_its_page_tables() -> None:
    ends_or_goes_on(remote.LOSES_PAGE_TABLES)


def test_a_handler_that_leaves_long_mode(guest: Remote) -> None:
    """Clearing CR0.PG in 64-bit code is a #GP, which the guest's kernel reports."""
    error = guest.refusal(remote.LEAVES_LONG_MODE)
    assert (error.reason, error.code) == ("error", 1013)
    assert guest.works()


def test_a_handler_that_registers_anew_keeps_its_own_frame(guest: Remote) -> None:
    """What it writes counts from the next call on; this one returns to what it interrupted."""
    stack = guest.address("symcall_stack_top") - 0x800
    assert guest.symcall(remote.REGISTERS_ANEW, lib.MSR_SYMBIOTIC_RSP, stack).rbx == (
        lib.MSR_SYMBIOTIC_RSP + 1
    )
    assert guest.rdmsr(lib.MSR_SYMBIOTIC_RSP) == stack
    assert guest.counters() == {"reregistered": 1}
    assert guest.works()


def test_a_handler_that_withdraws_itself(guest: Remote) -> None:
    guest.symcall(remote.REGISTERS_ANEW, lib.MSR_SYMBIOTIC_RIP, 0)
    assert guest.refusal(lib.SYMCALL_TEST).reason == "absent"
    assert guest.counters() == {"reregistered": 1, "refused_absent": 1}
    assert guest.goes_on()
    guest.do(remote.REGISTER)
    assert guest.works()


def test_a_handler_that_withdraws_its_page(guest: Remote) -> None:
    guest.symcall(remote.REGISTERS_ANEW, lib.MSR_SYMBIOTIC_VCPU_PAGE, 0, want=64)
    assert guest.refusal(lib.SYMCALL_TEST).reason == "disabled"
    guest.do(remote.REGISTER)
    assert guest.works()


@pytest.mark.parametrize("flags", [0, 1, 2, 3, 0xFFFFFFFF])
def test_a_symcall_in_a_symcall_whatever_the_page_says(guest: Remote, flags: int) -> None:
    reasons = []

    def hook(exit: Exit) -> None:
        with pytest.raises(SymcallError) as raised:
            exit.vcpu.symcall(lib.SYMCALL_TEST)
        reasons.append(raised.value.reason)

    guest.machine.on_port(remote.SCRIBBLE_PORT, hook)
    assert guest.symcall(remote.SCRIBBLES, flags).rbx == flags + 1
    assert reasons == ["active"]
    assert guest.counters() == {"refused_active": 1}
    guest.do(remote.REGISTER)
    assert guest.works()


def test_a_guest_that_says_a_call_is_active_can_be_called(guest: Remote) -> None:
    guest.machine.memory.write(guest.address("vcpu_page") + lib.SYMBIOTIC_FLAGS_OFFSET, b"\3\0\0\0")
    assert guest.works()


def test_the_guest_turns_symcalls_off_and_on(guest: Remote) -> None:
    guest.machine.memory.write(guest.address("vcpu_page") + lib.SYMBIOTIC_FLAGS_OFFSET, b"\0\0\0\0")
    assert guest.refusal(lib.SYMCALL_TEST).reason == "disabled"
    guest.machine.memory.write(guest.address("vcpu_page") + lib.SYMBIOTIC_FLAGS_OFFSET, b"\2\0\0\0")
    assert guest.works()
    assert guest.counters() == {"refused_disabled": 1}


REFUSED_AT_ONCE = [
    (lib.MSR_SYMBIOTIC_RIP, NOT_CANONICAL),
    (lib.MSR_SYMBIOTIC_RSP, NOT_CANONICAL),
    (lib.MSR_SYMBIOTIC_GS_BASE, NOT_CANONICAL),
    (lib.MSR_SYMBIOTIC_FS_BASE, NOT_CANONICAL),
    (lib.MSR_SYMBIOTIC_CS, 0x3C),  # of the LDT
    (lib.MSR_SYMBIOTIC_CS, 0x3B),  # for CPL 3
    (lib.MSR_SYMBIOTIC_CS, 0x10038),
    (lib.MSR_SYMBIOTIC_CS, 1 << 63),
    (lib.MSR_SYMBIOTIC_CR3_CLEAR, 1 << 63),
    (lib.MSR_SYMBIOTIC_PROMISES, 2),
    (lib.MSR_SYMBIOTIC_PROMISES, 1 << 63),
]


@pytest.mark.parametrize(
    ("index", "value"), REFUSED_AT_ONCE, ids=[f"{i:x}-{v:x}" for i, v in REFUSED_AT_ONCE]
)
def test_registers_that_are_refused_at_once(guest: Remote, index: int, value: int) -> None:
    before = guest.rdmsr(index)
    assert not guest.wrmsr(index, value)
    assert guest.rdmsr(index) == before
    assert guest.counters() == {"msr_refused": 1}
    assert guest.works()


REFUSED_AT_THE_CALL = [
    (lib.MSR_SYMBIOTIC_RIP, 1 << 47),  # canonical with five levels of page tables only
    (lib.MSR_SYMBIOTIC_RSP, 0),
    (lib.MSR_SYMBIOTIC_RSP, 1 << 55),
    (lib.MSR_SYMBIOTIC_GS_BASE, 1 << 47),
    (lib.MSR_SYMBIOTIC_FS_BASE, 1 << 55),
    (lib.MSR_SYMBIOTIC_CS, 0),
    (lib.MSR_SYMBIOTIC_CS, 0xFFF8),  # beyond the GDT
    (lib.MSR_SYMBIOTIC_CS, 0x78),  # its last descriptor: SS would be beyond
]


@pytest.mark.parametrize(
    ("index", "value"), REFUSED_AT_THE_CALL, ids=[f"{i:x}-{v:x}" for i, v in REFUSED_AT_THE_CALL]
)
def test_registers_that_no_call_can_be_entered_with(guest: Remote, index: int, value: int) -> None:
    right = guest.rdmsr(index)
    assert right is not None
    assert guest.wrmsr(index, value)
    assert guest.refusal(lib.SYMCALL_TEST).reason == "invalid"
    assert guest.counters() == {"refused_invalid": 1}
    assert guest.goes_on()
    assert guest.wrmsr(index, right)
    assert guest.works()


@pytest.mark.parametrize("index", [lib.MSR_SYMBIOTIC_RIP, lib.MSR_SYMBIOTIC_RSP])
def test_an_entry_that_is_not_mapped(guest: Remote, index: int) -> None:
    """The page fault is the guest's own affair: its kernel reports it."""
    right = guest.rdmsr(index)
    assert right is not None
    assert guest.wrmsr(index, 0x7000_0000_0000)
    # A call without the stack uses none in TEST; this one pushes.
    error = guest.refusal(remote.RETURNS_FROM_USER)
    assert error.reason == "error"
    assert error.code in (1014, 1008)
    assert guest.wrmsr(index, right)
    assert guest.works()


def test_nothing_registered(guest: Remote) -> None:
    assert guest.wrmsr(lib.MSR_SYMBIOTIC_RIP, 0)
    assert guest.refusal(lib.SYMCALL_TEST).reason == "absent"
    assert guest.counters() == {"refused_absent": 1}


def test_registered_in_long_mode_and_called_in_another(guest: Remote) -> None:
    """The vCPU is put into 32-bit code without paging, as a kernel that starts another one does."""
    machine, vcpu = guest.machine, guest.machine.vcpus[0].kvm
    loop = 0x8000
    machine.memory.write(loop, b"\xff\x05\x00\x90\x00\x00\xeb\xf8")  # 1: inc [0x9000]; jmp 1b
    machine.pause()
    regs, sregs = vcpu.get_regs(), vcpu.get_sregs()
    short, flat = vcpu.get_regs(), vcpu.get_sregs()
    short.rip, short.rflags = loop, 2
    flat.cr0 &= ~(1 << 31)
    flat.cr4 &= ~(1 << 5)
    flat.efer = 0
    flat.cs.l, flat.cs.db, flat.cs.limit = 0, 1, 0xFFFFFFFF
    vcpu.set_sregs(flat)
    vcpu.set_regs(short)
    machine.resume()
    for _ in range(3):
        assert guest.refusal(lib.SYMCALL_TEST).reason == "invalid"
    assert guest.counters() == {"refused_invalid": 3}
    assert int.from_bytes(machine.memory.read(0x9000, 4), "little")
    machine.pause()
    vcpu.set_sregs(sregs)
    vcpu.set_regs(regs)
    machine.resume()
    assert guest.works()


def test_the_doorbell_takes_four_bytes_out_only(guest: Remote) -> None:
    assert guest.do(remote.OUT8, lib.SYMBIOTIC_PORT, 0x35) == 0
    assert guest.do(remote.OUT16, lib.SYMBIOTIC_PORT, 0x535) == 0
    assert guest.do(remote.IN32, lib.SYMBIOTIC_PORT) == 0
    assert guest.result() == 0xFFFFFFFF
    assert "stray_returns" not in guest.counters()
    assert guest.works()


def test_the_doorbell_from_user_mode(guest: Remote) -> None:
    calls: list[int] = []
    guest.machine.on_hypercall(0x6000, lambda call: calls.append(call.number))
    after = guest.ring(0x6000, 1, 2, 3, 4, 5, user=True)
    assert after == [0x6000, 1, 2, 3, 4, 5]
    assert calls == []
    if remote.has_user_ports():
        assert guest.counters() == {"doorbells_refused": 1}
    assert guest.ring(0x6000)[0] == lib.SYMBIOTIC_HYPERCALL_DONE
    assert calls == [0x6000]
    assert guest.works()


def test_hypercalls(guest: Remote) -> None:
    def answer(call: Hypercall) -> tuple[int, ...]:
        return tuple(word * 2 for word in call.args)

    guest.machine.on_hypercall(0x6001, answer)
    after = guest.ring(0x6001, 1, 2, 3, 4, 1 << 63)
    assert after == [lib.SYMBIOTIC_HYPERCALL_DONE, 2, 4, 6, 8, 0]
    assert guest.ring(0x6002, 1, 2, 3, 4, 5) == [lib.SYMBIOTIC_HYPERCALL_UNKNOWN, 1, 2, 3, 4, 5]
    assert guest.ring(0x10000)[0] != lib.SYMBIOTIC_HYPERCALL_DONE
    assert guest.works()


def test_a_hypercall_s_hook_makes_symcalls(guest: Remote) -> None:
    """Both directions in one another: what the guest gets back is the hook's, not what its handler left behind."""
    found: list[tuple[int, ...]] = []

    def answer(call: Hypercall) -> tuple[int, ...]:
        for _ in range(3):
            found.append(call.vcpu.symcall(lib.SYMCALL_TEST, *call.args)[:5])
        with pytest.raises(SymcallError) as raised:
            call.vcpu.symcall(remote.FAILS, 7)
        return raised.value.code, *call.args[1:4], 1 << 63

    guest.machine.on_hypercall(0x6003, answer)
    for _ in range(3):
        after = guest.ring(0x6003, 1, 2, 3, 4, (1 << 64) - 1)
        assert after == [lib.SYMBIOTIC_HYPERCALL_DONE, 7, 2, 3, 4, 1 << 63]
    assert found == [(2, 3, 4, 5, 0)] * 9
    assert guest.counters() == {"errors": 3}
    assert guest.works()


def test_a_hypercall_s_hook_that_answers_nothing_makes_symcalls(guest: Remote) -> None:
    """The guest's registers are as it rang, but for RAX."""

    def answer(call: Hypercall) -> None:
        assert call.vcpu.symcall(lib.SYMCALL_TEST, 5).rbx == 6

    guest.machine.on_hypercall(0x6004, answer)
    assert guest.ring(0x6004, 1, 2, 3, 4, 5) == [lib.SYMBIOTIC_HYPERCALL_DONE, 1, 2, 3, 4, 5]
    assert guest.works()


def test_a_symcall_that_comes_while_a_device_is_written(guest: Remote) -> None:
    """Another thread asks during the exit of a write: it is done once, and the call comes after it."""
    vcpu = guest.machine.vcpus[0]
    written: list[int] = []
    answers: list[int] = []

    def hook(exit: Exit) -> None:
        written.append(exit.value)
        caller = threading.Thread(target=lambda: answers.append(guest.symcall(1, exit.value).rbx))
        caller.start()
        callers.append(caller)
        until(vcpu.is_called, remote.PATIENCE)
        assert answers == [value + 1 for value in written[:-1]]

    callers: list[threading.Thread] = []
    guest.machine.on_port(0x5F8, hook)
    for value in range(1, 50):
        assert guest.do(remote.OUT8, 0x5F8, value) == 0
        callers[-1].join(remote.PATIENCE)
    assert written == list(range(1, 50))
    assert answers == list(range(2, 51))
    assert guest.works()


def test_a_symcall_in_user_mode(guest: Remote) -> None:
    guest.post(remote.USER)
    assert guest.goes_on(1)
    for i in range(500):
        assert guest.symcall(lib.SYMCALL_TEST, i).rbx == i + 1
    assert guest.goes_on(1)
    assert not guest.done()
    guest.set_value("leave", 1)
    assert guest.finish() == 0
    assert guest.works()


def test_a_symcall_while_halted(guest: Remote) -> None:
    """The guest sleeps on after each; only the interrupt ends its HLT, once."""
    guest.post(remote.HALT)
    time.sleep(0.05)
    turns = guest.turns()
    for i in range(500):
        assert guest.symcall(lib.SYMCALL_TEST, i).rbx == i + 1
        assert not guest.done()
    assert guest.turns() == turns
    guest.machine.pause()
    assert guest.machine.vcpus[0].kvm.get_mp_state() == kvm.KVM_MP_STATE_HALTED
    guest.machine.resume()
    guest.wake()
    assert guest.finish() == 1
    assert guest.works()


def test_a_deadline_while_halted(guest: Remote) -> None:
    guest.post(remote.HALT)
    time.sleep(0.05)
    turns = guest.turns()
    assert guest.refusal(remote.NEVER_RETURNS).reason == "deadline"
    time.sleep(0.05)
    assert not guest.done()
    assert guest.turns() == turns
    guest.wake()
    assert guest.finish() == 1
    disabled_until_registered(guest)


def test_a_symcall_while_paused(guest: Remote) -> None:
    guest.machine.pause()
    turns = guest.turns()
    for i in range(20):
        assert guest.symcall(lib.SYMCALL_TEST, i).rbx == i + 1
    assert guest.turns() == turns
    guest.machine.resume()
    assert guest.works()


@pytest.mark.parametrize("paused", [False, True])
def test_many_callers(guest: Remote, paused: bool) -> None:
    wrong: list[int] = []
    if paused:
        guest.machine.pause()

    def call(first: int) -> None:
        for i in range(first, first + 300):
            if guest.symcall(lib.SYMCALL_TEST, i).rbx != i + 1:
                wrong.append(i)

    threads = [threading.Thread(target=call, args=(n * 1000,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert guest.machine.symcalls["returned"] == 1200
    if paused:
        guest.machine.resume()
    assert guest.works()


def test_a_stop_during_a_handler_that_never_returns() -> None:
    """The machine does not wait for the deadline."""
    reasons: list[str] = []
    with Remote(symcall_deadline=600.0).start() as guest:

        def call() -> None:
            reasons.append(guest.refusal(remote.NEVER_RETURNS).reason)

        caller = threading.Thread(target=call)
        caller.start()
        while not guest.value("spins"):
            time.sleep(0.001)
        guest.machine.stop()
        result = guest.machine.wait(remote.PATIENCE)
        caller.join(remote.PATIENCE)
        assert not caller.is_alive()
    assert result is not None
    assert result.reason == "stopped"
    assert reasons == ["stopped"]


def test_another_vcpu_scribbles_over_the_page() -> None:
    """The VMM keeps its own state: what the page says only turns calls off and on."""
    outcomes: dict[str, int] = {}
    with Remote(cpus=2, symcall_deadline=60.0) as guest:
        guest.prepare_second()
        guest.start()
        guest.await_second()
        guest.set_value("race", 1)
        for i in range(1000):
            try:
                assert guest.symcall(lib.SYMCALL_TEST, i).rbx == i + 1
                outcome = "done"
            except SymcallError as error:
                outcome = error.reason
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
        guest.set_value("race", 0)
        assert set(outcomes) <= {"done", "disabled"}
        assert outcomes.get("done")
        guest.do(remote.REGISTER)
        assert guest.works()
        assert set(guest.counters()) <= {"refused_disabled"}
