# SPDX-License-Identifier: Apache-2.0
"""Symcalls against a scripted KVM: what happens when KVM itself fails in the middle of one."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Any

import pytest

from pyvmm import kvm
from pyvmm.machine import result as results
from pyvmm.symbiotic import abi
from tests.unit import c_library
from tests.unit.test_vcpu_loop import DECLARED, HERE, RUN_SIZE

MEMORY = 0x10000
PAGE = 0x3000
OFFSETS = """
struct kvm_regs {
	unsigned long long rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp;
	unsigned long long r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags;
};
void fake_enter_long_mode(void *run);
struct kvm_regs *fake_registers(void *run);
unsigned int fake_dirty(void *run);
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    return c_library.load(
        tmp_path_factory.mktemp("symcall"),
        c_library.LOOP,
        DECLARED + OFFSETS,
        extra=(HERE / "fake_kvm.c",),
        defines=("ioctl=fake_ioctl",),
    )


def wrmsr(index: int, value: int) -> tuple[int, int, int, int]:
    return (0, kvm.KVM_EXIT_X86_WRMSR, index, value)


REGISTRATION = (
    wrmsr(abi.MSR_VCPU_PAGE, PAGE),
    wrmsr(abi.MSR_ENTRY_RSP, 0x8000),
    wrmsr(abi.MSR_ENTRY_CS, 0x10),
    wrmsr(abi.MSR_ENTRY_PROMISES, abi.PROMISE_STATE_KEPT),
    wrmsr(abi.MSR_ENTRY_RIP, 0x1000),
)
HALT = (0, kvm.KVM_EXIT_HLT, 0, 0)


class Called:
    """A vCPU in long mode that registers its entry, halts, is called, and then does what the script says."""

    def __init__(self, built: tuple[Any, Any], *script: tuple[int, ...]) -> None:
        self.ffi, self.lib = built
        ffi, lib = built
        self.ram = ffi.new("uint8_t[]", 2 * MEMORY)
        start = int(ffi.cast("uintptr_t", self.ram))
        self.hva = (start + 0xFFF) & ~0xFFF
        self.run = ffi.new("uint8_t[]", RUN_SIZE)
        self.buses = [lib.bus_create() for _ in range(3)]
        self.memory = lib.guest_memory_create()
        assert lib.guest_memory_add(self.memory, 0, MEMORY, ffi.cast("void *", self.hva), 0) == 0
        self.spy = lib.symspy_create(self.memory, 1)
        assert lib.symspy_attach(self.spy, self.buses[2]) == 0
        assert lib.symcall_attach(self.buses[2]) == 0
        self.watch = lib.symcall_watch_create(600_000, 1)
        self.vcpu = lib.vcpu_create(-1, 0, int(ffi.cast("uintptr_t", self.run)), *self.buses)
        setup = ffi.new("struct symcall_setup *")
        self.symcall = lib.symcall_create(self.vcpu, self.spy, self.watch, setup)
        self.call = lib.symcall_call_create()
        self.exits = ffi.new("struct fake_exit[]", [*REGISTRATION, HALT, *script])
        lib.fake_kvm(self.run, self.exits, len(REGISTRATION) + 1 + len(script))
        lib.fake_enter_long_mode(self.run)
        assert results.BY_EVENT[self.step()] == results.HALT
        self.byte(PAGE + abi.PAGE_FLAGS, abi.VCPU_ENABLED)
        self.registers.rip, self.registers.rax = 0x4444, 0x5555

    @property
    def registers(self) -> Any:
        return self.lib.fake_registers(self.run)

    def byte(self, gpa: int, value: int) -> None:
        self.ffi.cast("uint8_t *", self.hva)[gpa] = value

    def flags(self) -> int:
        return int(self.ffi.cast("uint8_t *", self.hva)[PAGE + abi.PAGE_FLAGS])

    def step(self) -> int:
        return int(self.lib.vcpu_run(self.vcpu))

    def make(self) -> int:
        return int(self.lib.symcall_make(self.vcpu, self.call, 1, 0, 0, 0, 0, 0))

    @property
    def status(self) -> int:
        return int(self.lib.symcall_message(self.call).status)

    @property
    def counters(self) -> Any:
        return self.lib.symcall_counters(self.symcall)

    def close(self) -> None:
        self.lib.symcall_watch_destroy(self.watch)
        self.lib.symcall_destroy(self.symcall)
        self.lib.symcall_call_destroy(self.call)
        self.lib.symspy_destroy(self.spy)
        self.lib.vcpu_destroy(self.vcpu)
        for bus in self.buses:
            self.lib.bus_destroy(bus)
        self.lib.guest_memory_destroy(self.memory)


Maker = Any


@pytest.fixture
def called(built: tuple[Any, Any]) -> Iterator[Maker]:
    made: list[Called] = []

    def make(*script: tuple[int, ...]) -> Called:
        made.append(Called(built, *script))
        return made[-1]

    yield make
    for each in made:
        each.close()


COLLAPSES = {
    "the CPU refuses the entry": (0, kvm.KVM_EXIT_FAIL_ENTRY, 0),
    "KVM refuses the registers": (errno.EINVAL, 0, 0),
    "KVM cannot emulate": (0, kvm.KVM_EXIT_INTERNAL_ERROR, 0),
    "a triple fault": (0, kvm.KVM_EXIT_SHUTDOWN, 0),
    "a halt without interrupt controllers": (0, kvm.KVM_EXIT_HLT, 0),
}


@pytest.mark.parametrize("name", COLLAPSES)
def test_a_call_that_brings_the_vcpu_down_is_undone(called: Maker, name: str) -> None:
    it = called(COLLAPSES[name], HALT)
    assert it.make() == it.lib.VCPU_SYMCALL
    assert it.status == it.lib.SYMCALL_FAULT
    assert (it.registers.rip, it.registers.rax) == (0x4444, 0x5555)
    assert it.lib.fake_dirty(it.run), "KVM is to take the old registers back"
    assert it.flags() == abi.VCPU_ENABLED
    assert (it.counters.calls, it.counters.returned, it.counters.faults) == (1, 0, 1)
    assert it.make() == it.lib.VCPU_SYMCALL
    assert it.status == it.lib.SYMCALL_DISABLED
    assert results.BY_EVENT[it.step()] == results.HALT, "the guest goes on"


ENDS = {
    "a reset by a triple fault": ((0, kvm.KVM_EXIT_SHUTDOWN, 1), results.TRIPLE_FAULT),
    "an error of the host": ((errno.EFAULT, 0, 0), results.RUN_FAILED),
    "an exit nobody knows": ((0, 4711, 0), results.UNKNOWN_EXIT),
    "power off": ((0, kvm.KVM_EXIT_SYSTEM_EVENT, 1), results.POWEROFF),
}


@pytest.mark.parametrize("name", ENDS)
def test_what_ends_the_machine_ends_it_in_a_call_too(called: Maker, name: str) -> None:
    script, reason = ENDS[name]
    it = called(script)
    assert results.BY_EVENT[it.make()] == reason


def test_a_call_is_entered_as_registered(called: Maker) -> None:
    it = called((0, kvm.KVM_EXIT_SYSTEM_EVENT, 1))
    assert results.BY_EVENT[it.make()] == results.POWEROFF
    registers = it.registers
    assert (registers.rip, registers.rsp, registers.rflags) == (0x1000, 0x8000, 2)
    assert (registers.rax, registers.rbx, registers.r15) == (1, 0, 0)
    assert it.flags() == abi.VCPU_ENABLED | abi.VCPU_ACTIVE


def test_interruptions_do_not_end_a_call(called: Maker) -> None:
    it = called((errno.EINTR, 0, 0), (errno.EAGAIN, 0, 0), (0, kvm.KVM_EXIT_FAIL_ENTRY, 0))
    assert it.make() == it.lib.VCPU_SYMCALL
    assert it.status == it.lib.SYMCALL_FAULT
    assert it.counters.faults == 1


def test_an_abandoned_call_is_undone(called: Maker) -> None:
    it = called((0, kvm.KVM_EXIT_SYSTEM_EVENT, 1), HALT)
    assert results.BY_EVENT[it.make()] == results.POWEROFF
    it.lib.symcall_abandon(it.vcpu, it.lib.SYMCALL_STOPPED)
    assert it.status == it.lib.SYMCALL_STOPPED
    assert (it.registers.rip, it.registers.rax) == (0x4444, 0x5555)
    assert it.flags() == abi.VCPU_ENABLED
