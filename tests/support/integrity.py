# SPDX-License-Identifier: Apache-2.0
"""The guest that checks all its state without end while it is upcalled: it must never see a difference.

The guest is guests/integrity.c, with a file for each part of its state. It puts known values into every register, at
CPL 0 and CPL 3, does one thing (a port access, a string of them, MMIO of every size, an MSR, an interrupt in the shadow
of STI, HLT, nothing) and compares everything. Here are the devices it talks to, whose values form a sequence that both
sides know, and the upcalls: from the hooks of these devices and from another thread.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pyvmm._core import lib
from pyvmm.errors import StateError, SymcallError
from tests.support import guest64, remote

if TYPE_CHECKING:
    from collections.abc import Callable

    from _pytest.mark import ParameterSet

    from pyvmm.machine.hooks import Exit, Handler
    from pyvmm.machine.symcall import Results
    from tests.support.steady_caller import SteadyCaller

# As in tests/support/guests/integrity.h.
PORT, PORT_STEP = 0x5C0, 0x10
MMIO, MMIO_STEP = 0xD0100000, 0x2000
MSR, MSR_STEP = 0x12340, 1
KINDS = {"port": 0, "mmio": 1, "msr": 2}
WRITE = 4
UPCALL = 0x1000
VECTORS, EXCURSION, PORTS, MEMORY, MSRS, SEGMENTS, CR2, NMI, DATA, CONTROL = (
    1 << i for i in range(10)
)
EVERYTHING = 0x3FF
BITS = EVERYTHING.bit_length()
FAIL, SPIN = 1 << BITS, 2 << BITS
ERRNOS = 4095
CHEAP = SEGMENTS | CR2
FAILURES = (
    *("", "general register", "vector register", "upper vector register", "system register"),
    *("segment base at CPL 3", "buffer", "interrupts", "interrupt shadow", "NMI", "symcall entry"),
    *("device of the handler", "trap", "CR3 of CPL 3"),
)
OPERATIONS = (
    *("nothing", "in", "out", "ins", "outs", "load", "store", "movs from", "movs to", "xchg"),
    *("push", "pop", "load 16", "store 16", "load across pages", "store across pages", "loop"),
    *("rdmsr", "wrmsr", "mov ss", "storm", "nmi", "shadow", "shadow out", "shadow in"),
    *("shadow store", "shadow load", "halt", "echo"),
)
ECHOES = 64  # a window
PORT_OPERATIONS = OPERATIONS[1:5]
ECHO = OPERATIONS.index("echo")
#: Calls of a kind before one of them misses its deadline.
LATE_AFTER = 200
MASK = (1 << 64) - 1
#: In a lab, where a change of threads takes a millisecond, there are fewer calls.
LAB = "PYVMM_LAB" in os.environ
MAPS = ("one-map", "two-maps")


def parts(isolate: bool) -> list[ParameterSet]:
    """Parameters: the part of a test's calls, and whether CPL 3 has a page table of its own.

    Each change must pass a fifth, isolated or not; the rest of the tests makes all, both ways.
    """
    few = pytest.param(0.2, isolate, id=f"few-{MAPS[isolate]}")
    many = [
        pytest.param(1.0, each, id=f"many-{MAPS[each]}", marks=pytest.mark.rest)
        for each in (False, True)
    ]
    return [few, *many]


def mix(value: int) -> int:
    """As mix() in tests/support/guests/mix.h."""
    value = (value + 0x9E3779B97F4A7C15) & MASK
    value = ((value ^ value >> 30) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ value >> 27) * 0x94D049BB133111EB) & MASK
    return value ^ value >> 31


class Device:
    """Registers whose n-th access has the n-th value of a sequence: a lost or doubled access is seen by both sides."""

    def __init__(self, upcall: Callable[[Exit], None]) -> None:
        self.count = 0
        self.wrong: list[str] = []
        self.upcall = upcall

    def handler(self, kind: int) -> Handler:
        def access(exit: Exit) -> int | None:
            way = kind | (WRITE if exit.is_write else 0)
            key = self.count ^ exit.address << 24 ^ exit.size << 56 ^ way << 60
            value = mix(key & MASK) & ((1 << 8 * exit.size) - 1)
            self.count += 1
            if exit.is_write and exit.value != value:
                self.wrong.append(f"access {self.count}: {exit}, not {value:#x}")
                exit.vcpu.machine.stop()
            self.upcall(exit)
            return None if exit.is_write else value

        return access


class Integrity:
    """The guest with its devices. `upcall` makes symcalls and checks what they bring back.

    The guest asks for some itself, unless `echoes` is false. Where `late` says ("thread" or "exit") one of them never
    returns; then the guest does not ask, because it would be refused.
    """

    def __init__(
        self,
        *,
        promise: bool = False,
        isolate: bool = False,
        echoes: bool = True,
        late: str = "",
        seed: int = 1,
    ) -> None:
        self.image = guest64.build(*guest64.INTEGRITY)
        deadline = 4 * remote.deadline() if late else 60.0
        self.machine = guest64.machine(self.image, symbiotic=True, symcall_deadline=deadline)
        self.random = random.Random(seed)
        self.late, self.spun = late, False
        #: Symcalls that were begun, by who made them; so many ended in an error, or at the deadline; were not begun.
        self.made: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.expired: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.disabled: Counter[str] = Counter()
        self.from_exits: Counter[str] = Counter()
        self.ready = threading.Event()
        self.said: list[int] = []
        #: Symcalls from each hook of the guest's devices, on average.
        self.share = 1.0
        self.numbers = EVERYTHING & ~(VECTORS | EXCURSION) if promise else EVERYTHING
        self.outer = Device(self._at_exit)
        self.inner = Device(self._inside)
        for device, step in ((self.outer, 0), (self.inner, 1)):
            port, mmio, msr = (device.handler(kind) for kind in KINDS.values())
            self.machine.on_port(PORT + step * PORT_STEP, port, PORT_STEP)
            self.machine.on_mmio(MMIO + step * MMIO_STEP, MMIO_STEP, mmio)
            self.machine.on_msr(MSR + step * MSR_STEP, msr)
        self.machine.on_mmio(guest64.REPORT, 4, self._report)
        guest64.write(self.machine, self.image, "seed", seed)
        guest64.write(self.machine, self.image, "promise", int(promise))
        guest64.write(self.machine, self.image, "isolate", int(isolate))
        guest64.write(self.machine, self.image, "timer_count", 4_000_000)
        self.echoes = echoes and not late
        if not self.echoes:
            guest64.write(self.machine, self.image, "kinds", MASK ^ 1 << ECHO)
        # QEMU's emulated SVM forgets the interrupt shadow at each entry of a guest, symcall or not. It also ends
        # itself where a guest moves something to CR8 while an interrupt waits, so that it is left alone there.
        emulated = os.environ.get("PYVMM_LAB", "").startswith("svm")
        guest64.write(self.machine, self.image, "shadow_kept", int(not emulated))
        guest64.write(self.machine, self.image, "cr8_left_alone", int(emulated))

    def _report(self, exit: Exit) -> None:
        # First, as whoever waits for it takes any word for the end of waiting.
        if exit.value == 3:
            self.ready.set()
        else:
            self.machine.stop()
        self.said.append(exit.value)

    def _at_exit(self, exit: Exit) -> None:
        """As many symcalls as the share says, in the middle of the access."""
        count = int(self.share)
        count += self.random.random() < self.share - count
        for _ in range(count):
            self.upcall(exit.vcpu.symcall, "exit")
            self.from_exits[name_of(exit)] += 1

    def _inside(self, exit: Exit) -> None:
        """A symcall within a symcall is refused, whatever the guest's page says."""
        if self.random.random() < 0.05:
            with pytest.raises(SymcallError) as raised:
                exit.vcpu.symcall(lib.SYMCALL_TEST)
            assert raised.value.reason == "active"
            self.refused["active"] += 1

    def upcall(self, symcall: Callable[..., Results], where: str) -> None:
        """One symcall that may be refused after one that was late: the guest has to register first."""
        try:
            if self.late == where and self.made[where] >= LATE_AFTER and not self.spun:
                self.spun = True
                self._lose(symcall, self.numbers | SPIN, where)
            else:
                self._any(symcall, where)
            self.made[where] += 1
        except SymcallError as error:
            if error.reason != "disabled" or not self.spun:
                raise
            self.disabled[where] += 1

    def _any(self, symcall: Callable[..., Results], where: str) -> None:
        """Mostly cheap ones, now and then one that loses everything it can; some of those fail after that."""
        chance = self.random.random()
        if chance < 0.5:
            self._test(symcall)
        else:
            what = self.numbers if chance > 0.97 else self.numbers & self.random.getrandbits(BITS)
            what = what if chance > 0.85 else what & CHEAP
            self._lose(symcall, what | FAIL if self.random.random() < 0.1 else what, where)

    def _test(self, symcall: Callable[..., Results]) -> None:
        words = [self.random.getrandbits(64) for _ in range(5)]
        results = symcall(lib.SYMCALL_TEST, *words)
        assert list(results[:5]) == [(word + 1) & MASK for word in words]

    def _lose(self, symcall: Callable[..., Results], what: int, where: str) -> None:
        number = UPCALL + what
        words = [self.random.getrandbits(64) for _ in range(5)]
        data = self.random.randbytes(self.random.randrange(1, 64)) if what & DATA else b""
        words[4] = len(data)
        answer = (mix(words[0] ^ number) + 1) & MASK
        try:
            results = symcall(number, *words, data=data, want=len(data))
        except SymcallError as error:
            self._ended(error, what, answer, where)
            return
        assert not what & (FAIL | SPIN)
        assert results.rbx == answer
        assert list(results[1:5]) == [(word + 1) & MASK for word in words[1:]]
        assert results.data == bytes(byte ^ 0x5A for byte in data)

    def _ended(self, error: SymcallError, what: int, answer: int, where: str) -> None:
        """A call that was to end badly did so. Raises the error if it has nothing to do with that."""
        if what & SPIN and error.reason == "deadline":
            self.expired[where] += 1
        elif what & FAIL and error.reason == "error":
            assert error.code == 1 + answer % ERRNOS
            self.failed[where] += 1
        else:
            raise error

    def value(self, name: str, index: int = 0) -> int:
        """A variable of the guest."""
        return guest64.read(self.machine, self.image, name, index)

    def difference(self) -> str:
        """What the guest found, or nothing."""
        what, which, wanted, got = (self.value("failure", i) for i in range(4))
        if not what:
            return ""
        kind = OPERATIONS[self.value("current")]
        return f"{FAILURES[what]} {which:#x} ({kind}): {got:#x}, not {wanted:#x}"

    def operations(self) -> dict[str, tuple[int, int]]:
        """How often each operation ran, at CPL 0 and CPL 3."""
        return {
            name: (self.value("operations", 2 * i), self.value("operations", 2 * i + 1))
            for i, name in enumerate(OPERATIONS)
        }

    def all_upcalls(self) -> int:
        """With those that the guest asks for itself by the doorbell, and that C makes."""
        echoes = self.operations()["echo"][0] * ECHOES
        return self.made.total() + echoes

    def covers(self) -> bool:
        """Whether each operation had its turn at both levels of privilege: they come one after the other."""
        return self.value("windows") > 4 * len(OPERATIONS) and self.value("windows", 1) > (
            2 * len(OPERATIONS)
        )

    def run(self, upcalls: int, made: int, pause: float = 0.0) -> None:
        """Upcalls the guest until there were that many, `made` of them from here and from the hooks."""
        caller = random.Random(2)

        def turn() -> None:
            self.upcall(lambda *args, **more: self.machine.symcall(0, *args, **more), "thread")
            if pause and caller.random() < 0.3:
                time.sleep(caller.random() * pause)

        def enough() -> bool:
            # Hooks may have made them all before a thread had its turns.
            ended = self.expired.total() == bool(self.late)
            return ended and self.made.total() >= made and self.all_upcalls() >= upcalls

        self.take_turns(turn, enough)

    def run_steadily(self, caller: SteadyCaller, upcalls: int, each: int) -> None:
        """The same with a caller in C, until `each` of the calls interrupted CPL 0, and as many CPL 3."""

        def enough() -> bool:
            return caller.made >= upcalls and min(caller.interrupted) >= each

        self.take_turns(caller.turn, enough, 400 + upcalls / 25)
        self.made["steady"], self.failed["steady"] = caller.made, caller.failed

    def take_turns(
        self, turn: Callable[[], None], enough: Callable[[], bool], seconds: float = 240
    ) -> None:
        """Starts the guest, takes turns until that is enough, and hears what the guest has to say."""
        self.machine.start()
        self._wait(self.ready.is_set, seconds)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not (enough() and self.covers()):
            try:
                turn()
            except StateError:
                break
            except SymcallError as error:
                if error.reason != "stopped":
                    raise
                break
        self.share = 0
        guest64.write(self.machine, self.image, "stop", 1)
        result = self.machine.wait(seconds)
        assert result is not None
        assert not self.difference(), f"{self.difference()} after {self.made}"
        assert not self.outer.wrong
        assert not self.inner.wrong
        assert self.said[-1] == 2, result

    def _wait(self, condition: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not condition() and not self.said and time.monotonic() < deadline:
            time.sleep(0.001)
        assert condition(), self.difference()

    def check(self, upcalls: int) -> None:
        """The counters agree with the calls that were made, and everything was covered."""
        counters = self.machine.symcalls
        made = self.all_upcalls()
        assert made >= upcalls
        ends = {
            "errors": self.failed.total(),
            "deadlines": self.expired.total(),
            "refused_active": self.refused["active"],
            "refused_disabled": self.disabled.total(),
        }
        assert counters["calls"] == self.value("upcalls") == made
        assert counters["returned"] == made - ends["errors"] - ends["deadlines"]
        for name, count in counters.items():
            if name not in ("calls", "returned", "doorbells"):
                assert count == ends.get(name, 0), name
        assert ends["errors"]
        assert ends["deadlines"] == bool(self.late)
        self._check_coverage()

    def _check_coverage(self) -> None:
        """Each operation had its turn, and each way in which a handler loses state."""
        ports = self.value("user_ports")
        for name, (kernel, user) in self.operations().items():
            assert kernel or (name == "echo" and not self.echoes), name
            assert user or name in PORT_OPERATIONS[: 4 * (not ports)] or name in KERNEL_ONLY, name
        assert self.value("ticks")
        assert self.value("nmi_inside")
        numbers = self.numbers | FAIL | (SPIN if self.late else 0)
        for bit in range(16):
            asked = bool(numbers >> bit & 1)
            assert bool(self.value("upcalls_by_bit", bit)) == asked, f"bit {bit} of the numbers"
        assert bool(self.value("upper_mask") & 4) == has_avx()


KERNEL_ONLY = OPERATIONS[17:]


def has_avx() -> bool:
    """Whether the CPU has vector registers of 256 bits, whose upper halves the guest then has under check."""
    flags = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if "flags" in line)
    return "avx" in flags.split()


def name_of(exit: Exit) -> str:
    kind = "port" if exit.address < 0x10000 else "msr" if exit.address == MSR else "mmio"
    return f"{kind} {'write' if exit.is_write else 'read'}"
