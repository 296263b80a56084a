# SPDX-License-Identifier: Apache-2.0
"""The C loop against a scripted KVM: what each exit makes of a run, those too that no guest can force."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from pyvmm import kvm
from pyvmm.machine import result as results
from tests.support import scripted_kvm
from tests.support.scripted_kvm import RUN_SIZE

OVERLAY = """
struct vcpu_overlay {
	_Bool (*exit)(struct vcpu *vcpu);
	void (*answered)(struct vcpu *vcpu);
	int (*event)(struct vcpu *vcpu, int event);
	int (*request)(struct vcpu *vcpu, uint32_t request);
};
"""
PORT = 0x510

SHUTDOWN, RESET, CRASH, WAKEUP = 1, 2, 3, 4  # <linux/kvm.h>: KVM_SYSTEM_EVENT_*


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    return scripted_kvm.load(tmp_path_factory.mktemp("loop"), declared=OVERLAY)


class Loop:
    """A vCPU whose KVM_RUN returns the given (errno, exit reason, detail), one after the other."""

    def __init__(self, built: tuple[Any, Any], *exits: tuple[int, ...]) -> None:
        self.ffi, self.lib = built
        self.run = self.ffi.new("uint8_t[]", RUN_SIZE)
        self.exits = self.ffi.new("struct fake_exit[]", [tuple(each) for each in exits])
        self.buses = [self.lib.bus_create() for _ in range(3)]
        address = int(self.ffi.cast("uintptr_t", self.run))
        self.vcpu = self.lib.vcpu_create(-1, 0, address, RUN_SIZE, *self.buses)
        self.lib.fake_kvm(self.run, self.exits, len(exits))

    def step(self) -> int:
        return int(self.lib.vcpu_run(self.vcpu))

    def close(self) -> None:
        self.lib.vcpu_destroy(self.vcpu)
        for bus in self.buses:
            self.lib.bus_destroy(bus)


ENDS = {
    "fail entry": ((0, kvm.KVM_EXIT_FAIL_ENTRY, 0), results.ENTRY_FAILURE),
    "internal error": ((0, kvm.KVM_EXIT_INTERNAL_ERROR, 0), results.INTERNAL_ERROR),
    "shutdown": ((0, kvm.KVM_EXIT_SHUTDOWN, 0), results.TRIPLE_FAULT),
    "halt": ((0, kvm.KVM_EXIT_HLT, 0), results.HALT),
    "system shutdown": ((0, kvm.KVM_EXIT_SYSTEM_EVENT, SHUTDOWN), results.POWEROFF),
    "system reset": ((0, kvm.KVM_EXIT_SYSTEM_EVENT, RESET), results.REBOOT),
    "system crash": ((0, kvm.KVM_EXIT_SYSTEM_EVENT, CRASH), results.PANIC),
    "another system event": ((0, kvm.KVM_EXIT_SYSTEM_EVENT, WAKEUP), results.UNKNOWN_EXIT),
    "an exit nobody knows": ((0, 4711, 0), results.UNKNOWN_EXIT),
    "an impossible MMIO length": ((0, kvm.KVM_EXIT_MMIO, 9), results.UNKNOWN_EXIT),
    "KVM_RUN fails": ((errno.EFAULT, 0, 0), results.RUN_FAILED),
}


@pytest.mark.parametrize("name", ENDS)
def test_ends(built: tuple[Any, Any], name: str) -> None:
    script, reason = ENDS[name]
    loop = Loop(built, script)
    event = loop.step()
    assert results.BY_EVENT[event] == reason
    if script[0]:
        assert loop.vcpu.error == script[0]
    loop.close()


#: Bytes of an element, elements, and where KVM says that they lie.
PORTS = {
    "all that a page holds": ((4, 1024, 8192), results.HALT),
    "no elements": ((4, 0, 8192), results.HALT),
    "an element of three bytes": ((3, 1, 8192), results.UNKNOWN_EXIT),
    "an element of no bytes": ((0, 1, 8192), results.UNKNOWN_EXIT),
    "an element of eight bytes": ((8, 1, 8192), results.UNKNOWN_EXIT),
    "more than a page": ((4, 1025, 4096), results.UNKNOWN_EXIT),
    "so many that the product wraps": ((4, 1 << 30, 8192), results.UNKNOWN_EXIT),
    "data across the end": ((4, 1, RUN_SIZE - 3), results.UNKNOWN_EXIT),
    "data behind the end": ((1, 1, RUN_SIZE), results.UNKNOWN_EXIT),
    "data far away": ((4, 1, 1 << 63), results.UNKNOWN_EXIT),
    "data before the beginning": ((4, 1, (1 << 64) - 4), results.UNKNOWN_EXIT),
}


@pytest.mark.parametrize("name", PORTS)
def test_what_kvm_says_of_a_port_is_checked(built: tuple[Any, Any], name: str) -> None:
    port, reason = PORTS[name]
    loop = Loop(built, (0, kvm.KVM_EXIT_IO, PORT), (0, kvm.KVM_EXIT_HLT, 0))
    loop.lib.fake_port(*port)
    assert results.BY_EVENT[loop.step()] == reason
    assert loop.vcpu.unclaimed == (port[1] if reason == results.HALT else 0)
    loop.close()


def test_elements_are_those_of_the_exit(built: tuple[Any, Any]) -> None:
    """A handler in which KVM is entered: what it shares then says something else."""
    loop = Loop(built, (0, kvm.KVM_EXIT_IO, PORT, 0x11223344), (0, kvm.KVM_EXIT_HLT, 0))
    loop.lib.fake_port(2, 2, 8192)
    seen: list[tuple[int, int, int]] = []

    @loop.ffi.callback("bus_handler")  # type: ignore[untyped-decorator]
    def access(_: Any, access: Any) -> int:
        seen.append((access.address, access.length, access.value))
        for i in range(32, 64):  # past the fields about the run, over those about the exit
            loop.run[i] = 0xFF
        return 0

    assert loop.lib.bus_add(loop.buses[0], PORT, 1, access, loop.ffi.NULL) == 0
    assert results.BY_EVENT[loop.step()] == results.HALT
    assert seen == [(PORT, 2, 0x3344), (PORT, 2, 0x1122)]
    loop.close()


def test_interruptions_do_not_end_a_run(built: tuple[Any, Any]) -> None:
    loop = Loop(
        built,
        (errno.EINTR, 0, 0),
        (errno.EAGAIN, 0, 0),
        (0, kvm.KVM_EXIT_INTR, 0),
        (0, kvm.KVM_EXIT_MMIO, 4),
        (0, kvm.KVM_EXIT_HLT, 0),
    )
    assert results.BY_EVENT[loop.step()] == results.HALT
    assert loop.vcpu.exits[kvm.KVM_EXIT_INTR] == 3
    assert loop.vcpu.exits[kvm.KVM_EXIT_MMIO] == 1
    assert loop.vcpu.unclaimed == 1
    loop.close()


INPUT = (0, kvm.KVM_EXIT_MMIO, 4)
OF_MANY = {
    "MMIO": (1, 0xD0000000, [INPUT, *[(*INPUT, 0, 1)] * 3000]),
    "a port": (0, PORT, [(0, kvm.KVM_EXIT_IO, PORT)]),
}


@pytest.mark.parametrize("name", OF_MANY)
def test_a_stop_waits_for_one_access_of_an_instruction(built: tuple[Any, Any], name: str) -> None:
    """One that has thousands, each with a hook, is left in the middle, and the vCPU does not run again."""
    bus, address, script = OF_MANY[name]
    loop = Loop(built, *script, HALT)
    loop.lib.fake_port(1, 3000, 8192)
    assert loop.lib.bus_add_hook(loop.buses[bus], address, 4, 1) == 0
    assert [loop.step() for _ in range(2)] == [loop.lib.VCPU_HOOK] * 2
    loop.lib.vcpu_request(loop.vcpu, loop.lib.VCPU_REQUEST_STOP)
    assert [loop.step() for _ in range(2)] == [loop.lib.VCPU_KICKED] * 2
    loop.lib.vcpu_take_requests(loop.vcpu)
    assert loop.step() == loop.lib.VCPU_UNFINISHED
    loop.close()


def test_a_request_is_seen_before_the_guest_is_entered(built: tuple[Any, Any]) -> None:
    loop = Loop(built, (0, kvm.KVM_EXIT_HLT, 0))
    loop.lib.vcpu_request(loop.vcpu, loop.lib.VCPU_REQUEST_PAUSE)
    loop.lib.vcpu_request(loop.vcpu, loop.lib.VCPU_REQUEST_STOP)
    assert loop.step() == loop.lib.VCPU_KICKED
    both = loop.lib.VCPU_REQUEST_PAUSE | loop.lib.VCPU_REQUEST_STOP
    assert loop.lib.vcpu_take_requests(loop.vcpu) == both
    assert loop.lib.vcpu_take_requests(loop.vcpu) == 0
    assert results.BY_EVENT[loop.step()] == results.HALT
    loop.close()


def test_a_request_for_a_symcall_is_not_taken(built: tuple[Any, Any]) -> None:
    """Only the loop forgets it, when it serves the call: one that came just before would wait for ever."""
    loop = Loop(built, (0, kvm.KVM_EXIT_HLT, 0))
    posted = loop.lib.VCPU_REQUEST_OVERLAY | loop.lib.VCPU_REQUEST_LATE
    loop.lib.vcpu_request(loop.vcpu, posted | loop.lib.VCPU_REQUEST_PAUSE)
    assert loop.lib.vcpu_take_requests(loop.vcpu) == posted | loop.lib.VCPU_REQUEST_PAUSE
    assert loop.lib.vcpu_take_requests(loop.vcpu) == posted
    loop.close()


class Overlay:
    """An overlay that notes what it is asked, and has nothing to say unless a test has it say something."""

    def __init__(self, loop: Loop) -> None:
        self.seen: list[tuple[Any, ...]] = []
        self.serves = False
        self.says: dict[int, int] = {}
        ffi, vcpu = loop.ffi, loop.vcpu

        @ffi.callback("_Bool(struct vcpu *)")  # type: ignore[untyped-decorator]
        def exit(_: Any) -> bool:
            self.seen.append(("exit", loop.vcpu.exit.access))
            return self.serves

        @ffi.callback("void(struct vcpu *)")  # type: ignore[untyped-decorator]
        def answered(_: Any) -> None:
            self.seen.append(("answered", loop.vcpu.exit.next, loop.vcpu.exit.data[0]))

        @ffi.callback("int(struct vcpu *, int)")  # type: ignore[untyped-decorator]
        def event(_: Any, event: int) -> int:
            self.seen.append(("event", event))
            return self.says.get(event, event)

        @ffi.callback("int(struct vcpu *, uint32_t)")  # type: ignore[untyped-decorator]
        def request(_: Any, request: int) -> int:
            self.seen.append(("request", request))
            return 0

        self.functions = (exit, answered, event, request)
        self.c = ffi.new("struct vcpu_overlay *", self.functions)
        vcpu.overlay = self.c


READ = (0, kvm.KVM_EXIT_MMIO, 4, 0)
WRITE = (0, kvm.KVM_EXIT_MMIO, 4, 7)
HALT = (0, kvm.KVM_EXIT_HLT, 0, 0)


def test_an_overlay_is_told_of_answers_and_events(built: tuple[Any, Any]) -> None:
    loop = Loop(built, READ, WRITE, HALT)
    overlay = Overlay(loop)
    assert loop.step() == loop.lib.VCPU_HALTED
    assert overlay.seen == [("answered", 1, 0xFF), ("event", loop.lib.VCPU_HALTED)]
    loop.close()


def test_an_overlay_that_watches_may_serve_an_exit(built: tuple[Any, Any]) -> None:
    loop = Loop(built, READ, HALT)
    overlay = Overlay(loop)
    overlay.serves = True
    loop.vcpu.watched = 1
    assert loop.step() == loop.lib.VCPU_IOCTL_FAILED  # it took the halt for its own too
    mmio = loop.lib.VCPU_MMIO
    assert overlay.seen[:2] == [("exit", mmio), ("exit", loop.lib.VCPU_NO_ACCESS)]
    assert loop.vcpu.unclaimed == 0
    loop.close()


def test_an_overlay_may_take_an_event_for_its_own(built: tuple[Any, Any]) -> None:
    loop = Loop(built, HALT, (0, kvm.KVM_EXIT_SHUTDOWN, 0, 0))
    overlay = Overlay(loop)
    overlay.says = {loop.lib.VCPU_HALTED: 0, loop.lib.VCPU_TRIPLE_FAULT: loop.lib.VCPU_PANIC}
    assert loop.step() == loop.lib.VCPU_PANIC
    loop.close()


def test_an_overlay_gets_its_requests_and_holds_others_up(built: tuple[Any, Any]) -> None:
    loop = Loop(built, HALT, HALT)
    overlay, lib = Overlay(loop), loop.lib
    lib.vcpu_request(loop.vcpu, lib.VCPU_REQUEST_LATE | lib.VCPU_REQUEST_OVERLAY)
    assert loop.step() == lib.VCPU_HALTED
    assert overlay.seen == [("request", lib.VCPU_REQUEST_OVERLAY), ("event", lib.VCPU_HALTED)]
    loop.vcpu.heeds = lib.VCPU_HEED_URGENT
    lib.vcpu_request(loop.vcpu, lib.VCPU_REQUEST_PAUSE)
    assert loop.step() == lib.VCPU_HALTED
    assert overlay.seen[2:] == [("request", lib.VCPU_REQUEST_LATE), ("event", lib.VCPU_HALTED)]
    loop.vcpu.heeds = lib.VCPU_HEED_ALL
    assert loop.step() == lib.VCPU_KICKED
    loop.close()
