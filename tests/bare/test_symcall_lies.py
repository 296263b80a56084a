# SPDX-License-Identifier: Apache-2.0
"""Guests that break the rules of SymCall: the VMM lives on, counts it, and so does the guest where that is possible."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pyvmm._core import lib
from pyvmm.errors import SymcallError
from tests.support import remote
from tests.support.remote import Remote

if TYPE_CHECKING:
    from pyvmm.machine.hooks import Exit

#: On VT-x exceptions and state go through VMCS fields of other rules.
pytestmark = pytest.mark.host("linux", "vmx", "shadow", rest=True)


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
        assert guest.goes_on(2)  # it may have been about to write once more
        assert set(outcomes) <= {"done", "disabled"}
        assert outcomes.get("done")
        guest.do(remote.REGISTER)
        assert guest.works()
        assert set(guest.counters()) <= {"refused_disabled"}
