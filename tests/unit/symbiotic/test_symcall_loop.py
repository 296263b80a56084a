# SPDX-License-Identifier: Apache-2.0
"""Symcalls against a scripted KVM: what happens when KVM itself fails in the middle of one."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pyvmm import kvm
from pyvmm._core import lib as interface
from pyvmm.machine import result as results
from tests.support import scripted_kvm
from tests.support.scripted_kvm import RUN_SIZE

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
void fake_smm(void *run, unsigned int on);
void fake_nmi_masked(void *run, unsigned int on);
unsigned int fake_debug_control(void);
void fake_sleep(unsigned int asleep);
unsigned int fake_sleeps(void);
void fake_nested(unsigned int flags, int error);
_Bool vcpu_must_leave(const struct vcpu *vcpu);
"""
#: Bytes of an instruction that accesses a port or MMIO, in fake_kvm.h.
INSTRUCTION = 3
#: Where the fake's MMIO lies, and the port of the device here.
MMIO, PORT = 0xD0000000, 0x510
#: <asm/kvm.h>
NESTED_GUEST_MODE, NESTED_RUN_PENDING = 1, 2
HELD = 0x00100001  # KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_BLOCKIRQ


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    parts = (f"symbiotic/{name}" for name in ("overlay", "local", "entry", "probe"))
    return scripted_kvm.load(tmp_path_factory.mktemp("symcall"), *parts, declared=OFFSETS)


def wrmsr(index: int, value: int) -> tuple[int, int, int, int]:
    return (0, kvm.KVM_EXIT_X86_WRMSR, index, value)


REGISTRATION = (
    wrmsr(interface.MSR_SYMBIOTIC_VCPU_PAGE, PAGE),
    wrmsr(interface.MSR_SYMBIOTIC_RSP, 0x8000),
    wrmsr(interface.MSR_SYMBIOTIC_CS, 0x10),
    wrmsr(interface.MSR_SYMBIOTIC_PROMISES, interface.SYMBIOTIC_PROMISE_NO_FPU),
    wrmsr(interface.MSR_SYMBIOTIC_RIP, 0x1000),
)
HALT = (0, kvm.KVM_EXIT_HLT, 0, 0)


class Called:
    """A vCPU in long mode that registers its entry, halts, is called, and then does what the script says."""

    def __init__(
        self,
        built: tuple[Any, Any],
        *script: tuple[int, ...],
        nested: bool = False,
        can_block: bool = False,
    ) -> None:
        self.ffi, self.lib = built
        self.devices: list[Any] = []
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
        self.vcpu = lib.vcpu_create(
            -1, 0, int(ffi.cast("uintptr_t", self.run)), RUN_SIZE, *self.buses
        )
        known = {"nested": nested, "can_block_interrupts": can_block}
        setup = ffi.new("struct symcall_setup *", known)
        self.symcall = lib.symcall_create(self.vcpu, self.spy, self.watch, setup)
        self.call = lib.symcall_call_create()
        self.exits = ffi.new("struct fake_exit[]", [*REGISTRATION, HALT, *script])
        lib.fake_kvm(self.run, self.exits, len(REGISTRATION) + 1 + len(script))
        lib.fake_enter_long_mode(self.run)
        assert results.BY_EVENT[self.step()] == results.HALT
        self.byte(PAGE + interface.SYMBIOTIC_FLAGS_OFFSET, interface.SYMBIOTIC_VCPU_ENABLED)
        self.registers.rip, self.registers.rax = 0x4444, 0x5555

    @property
    def registers(self) -> Any:
        return self.lib.fake_registers(self.run)

    def byte(self, gpa: int, value: int) -> None:
        self.ffi.cast("uint8_t *", self.hva)[gpa] = value

    def flags(self) -> int:
        return int(self.ffi.cast("uint8_t *", self.hva)[PAGE + interface.SYMBIOTIC_FLAGS_OFFSET])

    def step(self) -> int:
        return int(self.lib.vcpu_run(self.vcpu))

    def make(self) -> int:
        return int(self.lib.symcall_make(self.vcpu, self.call, 1, 0, 0, 0, 0, 0))

    def post(self) -> None:
        """The same from another thread."""
        self.lib.symcall_message(self.call).number = 1
        self.lib.symcall_post(self.vcpu, self.call)

    def device(self, bus: int, address: int, does: Callable[[], None]) -> list[int]:
        """A device of four bytes there, which does something at each access; returns what will be written to it."""
        written: list[int] = []

        @self.ffi.callback("bus_handler")  # type: ignore[untyped-decorator]
        def access(_: Any, access: Any) -> int:
            written.append(access.value)
            does()
            return 0

        self.devices.append(access)
        assert self.lib.bus_add(self.buses[bus], address, 4, access, self.ffi.NULL) == 0
        return written

    @property
    def text(self) -> str:
        """Why the call was refused."""
        return bytes(self.ffi.string(self.lib.symcall_message(self.call).text)).decode()

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

    def make(*script: tuple[int, ...], **options: bool) -> Called:
        made.append(Called(built, *script, **options))
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
    assert it.flags() == interface.SYMBIOTIC_VCPU_ENABLED
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
    assert it.flags() == interface.SYMBIOTIC_VCPU_ENABLED | interface.SYMBIOTIC_VCPU_ACTIVE


def test_interruptions_do_not_end_a_call(called: Maker) -> None:
    it = called((errno.EINTR, 0, 0), (errno.EAGAIN, 0, 0), (0, kvm.KVM_EXIT_FAIL_ENTRY, 0))
    assert it.make() == it.lib.VCPU_SYMCALL
    assert it.status == it.lib.SYMCALL_FAULT
    assert it.counters.faults == 1


def test_an_abandoned_call_is_undone(called: Maker) -> None:
    it = called((0, kvm.KVM_EXIT_SYSTEM_EVENT, 1), HALT)
    assert results.BY_EVENT[it.make()] == results.POWEROFF
    it.lib.symcall_abandon(it.vcpu, it.call, it.lib.SYMCALL_STOPPED)
    assert it.status == it.lib.SYMCALL_STOPPED
    assert (it.registers.rip, it.registers.rax) == (0x4444, 0x5555)
    assert it.flags() == interface.SYMBIOTIC_VCPU_ENABLED


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("can_block", [False, True])
def test_nmis_wait_where_one_is_being_served(called: Maker, can_block: bool, masked: bool) -> None:
    it = called((0, kvm.KVM_EXIT_SYSTEM_EVENT, 1), HALT, can_block=can_block)
    it.lib.fake_nmi_masked(it.run, masked)
    assert results.BY_EVENT[it.make()] == results.POWEROFF
    assert it.lib.fake_debug_control() == (HELD if can_block and masked else 0)
    it.lib.symcall_abandon(it.vcpu, it.call, it.lib.SYMCALL_STOPPED)
    assert it.lib.fake_debug_control() == 0


def refused(it: Called) -> int:
    """Makes the call in both ways, which are to come to the same; its status."""
    found = []
    assert it.make() == it.lib.VCPU_SYMCALL
    found.append(it.status)
    it.post()
    assert results.BY_EVENT[it.step()] == results.HALT
    assert it.lib.symcall_wait(it.vcpu, it.call, 0)
    found.append(it.status)
    assert found[0] == found[1]
    assert it.counters.calls == 0
    assert (it.registers.rip, it.registers.rax) == (0x4444, 0x5555)
    assert it.flags() == interface.SYMBIOTIC_VCPU_ENABLED
    return found[0]


def accepted(it: Called) -> bool:
    """Whether a call begins; the script then has the vCPU end in it."""
    return it.make() == it.lib.VCPU_SYMCALL and it.status == it.lib.SYMCALL_FAULT


@pytest.mark.parametrize(("flags", "error"), [(NESTED_GUEST_MODE, 0), (3, 0), (0, errno.EINVAL)])
def test_a_guest_of_the_guest_is_not_called_into(called: Maker, flags: int, error: int) -> None:
    """Its registers are not those that the entry was registered for. Where KVM does not say, it may be one."""
    it = called(HALT, (0, kvm.KVM_EXIT_SHUTDOWN, 0), HALT, nested=True)
    it.lib.fake_nested(flags, error)
    assert refused(it) == it.lib.SYMCALL_NESTED
    it.lib.fake_nested(NESTED_RUN_PENDING, 0)
    assert accepted(it)


def test_where_there_are_no_guests_of_the_guest_nobody_asks(called: Maker) -> None:
    it = called((0, kvm.KVM_EXIT_SHUTDOWN, 0), HALT)
    it.lib.fake_nested(NESTED_GUEST_MODE, errno.ENOTTY)
    assert accepted(it)


def test_system_management_mode_is_not_called_into(called: Maker) -> None:
    it = called(HALT, (0, kvm.KVM_EXIT_SHUTDOWN, 0), HALT)
    it.lib.fake_smm(it.run, 1)
    assert refused(it) == it.lib.SYMCALL_INVALID
    assert it.text == "the vCPU is in system management mode"
    assert it.counters.refused_invalid == 2
    it.lib.fake_smm(it.run, 0)
    assert accepted(it)


WRITES = {
    "MMIO": (1, MMIO, (0, kvm.KVM_EXIT_MMIO, 4, 77)),
    "a port": (0, PORT, (0, kvm.KVM_EXIT_IO, PORT, 77)),
}


@pytest.mark.parametrize("name", WRITES)
def test_a_call_that_comes_while_a_device_is_written(called: Maker, name: str) -> None:
    """As when a queue is notified: the device sees the write once, and the call comes behind the instruction.

    The second time KVM shares the registers already: those of the exit, which are not those after it.
    """
    bus, address, exit = WRITES[name]
    down = (0, kvm.KVM_EXIT_SHUTDOWN, 0)
    it = called(exit, down, wrmsr(interface.MSR_SYMBIOTIC_RIP, 0x1000), exit, down, HALT)
    written = it.device(bus, address, it.post)
    assert results.BY_EVENT[it.step()] == results.HALT
    assert it.lib.symcall_wait(it.vcpu, it.call, 0)
    assert it.status == it.lib.SYMCALL_FAULT, "the call was under way"
    assert written == [77, 77]
    assert (it.registers.rip, it.registers.rax) == (0x4444 + 2 * INSTRUCTION, 0x5555)
    assert (it.counters.calls, it.counters.faults) == (2, 2)


READ = (0, kvm.KVM_EXIT_MMIO, 4, 0)
#: More parts of one instruction than the loop waits for.
ENDLESS = 8192
UNFINISHED = {
    "it has no end": ([(*READ, 1)] * ENDLESS, errno.ELOOP),
    "KVM fails": ([(*READ, 1)] * 100 + [(errno.EFAULT, 0, 0, 0, 1)], errno.EFAULT),
}


def in_hook_of_a_read(called: Maker, *script: tuple[int, ...]) -> Called:
    it: Called = called(READ, *script)
    assert it.lib.bus_add_hook(it.buses[1], MMIO, 4, 1) == 0
    assert it.step() == it.lib.VCPU_HOOK
    return it


@pytest.mark.parametrize("name", UNFINISHED)
def test_an_instruction_that_does_not_end_ends_the_run(called: Maker, name: str) -> None:
    """Half of it is done by then: nothing may go on with that, whatever the hook makes of the error."""
    script, error = UNFINISHED[name]
    it = in_hook_of_a_read(called, *script, HALT)
    assert it.make() == it.lib.VCPU_UNFINISHED
    assert it.vcpu.error == error
    it.lib.symcall_abandon(it.vcpu, it.call, it.lib.SYMCALL_STOPPED)
    assert it.step() == it.lib.VCPU_UNFINISHED
    assert it.counters.calls == 0


def test_an_instruction_of_many_exits_is_put_aside(called: Maker) -> None:
    it = in_hook_of_a_read(called, *[(*READ, 1)] * 3000, (0, kvm.KVM_EXIT_SHUTDOWN, 0), READ, HALT)
    assert it.make() == it.lib.VCPU_SYMCALL
    assert it.status == it.lib.SYMCALL_FAULT, "the call was under way"
    assert it.registers.rip == 0x4444
    it.vcpu.access.value = 0x1234
    assert results.BY_EVENT[it.step()] == results.HALT, "no hook sees the second read"
    assert it.registers.rip == 0x4444 + INSTRUCTION


def test_a_call_is_abandoned_in_an_instruction_of_many_exits(called: Maker) -> None:
    it = called(READ, *[(*READ, 1)] * 3000, HALT)
    assert it.lib.bus_add_hook(it.buses[1], MMIO, 4, 1) == 0
    assert it.make() == it.lib.VCPU_HOOK
    it.lib.symcall_abandon(it.vcpu, it.call, it.lib.SYMCALL_STOPPED)
    assert (it.registers.rip, it.registers.rax) == (0x4444, 0x5555)
    assert results.BY_EVENT[it.step()] == results.HALT


def test_a_stop_before_a_call_begins_waits_for_one_hook(called: Maker) -> None:
    """The write that the hook serves has more parts, each with a hook, and the call comes after them."""
    write = (0, kvm.KVM_EXIT_MMIO, 4, 77)
    it = called(write, *[(*write, 1)] * 3000, HALT)
    assert it.lib.bus_add_hook(it.buses[1], MMIO, 4, 1) == 0
    assert it.step() == it.lib.VCPU_HOOK
    assert it.make() == it.lib.VCPU_HOOK
    it.lib.vcpu_request(it.vcpu, it.lib.VCPU_REQUEST_STOP)
    assert it.lib.symcall_continue(it.vcpu, it.call) == it.lib.VCPU_SYMCALL
    assert it.status == it.lib.SYMCALL_STOPPED
    assert it.step() == it.lib.VCPU_KICKED
    it.lib.vcpu_take_requests(it.vcpu)
    assert it.step() == it.lib.VCPU_UNFINISHED


def test_a_probe_behind_which_more_comes_ends_the_run(called: Maker) -> None:
    """A single write has no second exit; one that came all the same would be lost."""
    it = called((0, kvm.KVM_EXIT_IO, PORT, 1), (*READ, 1), HALT)
    assert it.lib.probe_attach(it.buses[0], PORT) == 0
    assert results.BY_EVENT[it.step()] == results.UNKNOWN_EXIT


@pytest.mark.parametrize("in_symcall", [False, True])
def test_who_waits_on_a_vcpu_is_told_to_leave(called: Maker, in_symcall: bool) -> None:
    """By a stop, and in a symcall by its deadline; other requests may wait."""
    it = called(HALT)
    it.vcpu.heeds = it.lib.VCPU_HEED_URGENT if in_symcall else it.lib.VCPU_HEED_ALL
    it.lib.vcpu_request(it.vcpu, it.lib.VCPU_REQUEST_PAUSE | it.lib.VCPU_REQUEST_OVERLAY)
    assert not it.lib.vcpu_must_leave(it.vcpu)
    it.lib.vcpu_request(it.vcpu, it.lib.VCPU_REQUEST_LATE)
    assert it.lib.vcpu_must_leave(it.vcpu) == in_symcall
    it.lib.vcpu_request(it.vcpu, it.lib.VCPU_REQUEST_STOP)
    assert it.lib.vcpu_must_leave(it.vcpu)


def test_a_vcpu_that_sleeps_is_not_woken_for_a_call_that_cannot_begin(called: Maker) -> None:
    """The fake has no KVM_GET_XSAVE, which a handler that promises nothing makes necessary."""
    it = called(wrmsr(interface.MSR_SYMBIOTIC_PROMISES, 0), HALT, HALT)
    assert results.BY_EVENT[it.step()] == results.HALT
    it.lib.fake_sleep(1)
    it.vcpu.may_sleep = 1
    it.post()
    assert results.BY_EVENT[it.step()] == results.HALT
    assert it.lib.symcall_wait(it.vcpu, it.call, 0)
    assert it.status == it.lib.SYMCALL_HOST
    assert it.lib.fake_sleeps()


@pytest.mark.parametrize("elements", [1, 2])
def test_a_call_that_never_began_is_abandoned(called: Maker, elements: int) -> None:
    """A hook's call brought a second exit of its instruction, and that one's hook failed.

    Nobody answers the second. The first, if it had more elements, has no place to go on from.
    """
    it = called((0, kvm.KVM_EXIT_IO, PORT, 77), (*READ, 1), HALT)
    it.lib.fake_port(2, elements, 8192)
    assert it.lib.bus_add_hook(it.buses[0], PORT, 1, 1) == 0
    assert it.lib.bus_add_hook(it.buses[1], MMIO, 4, 2) == 0
    assert it.step() == it.lib.VCPU_HOOK
    assert it.make() == it.lib.VCPU_HOOK
    assert it.vcpu.hook == 2
    it.lib.symcall_abandon(it.vcpu, it.call, it.lib.SYMCALL_STOPPED)
    event = it.step()
    if elements > 1:
        assert event == it.lib.VCPU_UNFINISHED
        assert it.vcpu.error == errno.EIO
    else:
        assert results.BY_EVENT[event] == results.HALT
    assert it.counters.calls == 0
