# SPDX-License-Identifier: Apache-2.0
"""Calls into the guest kernel: by number here, by name through the functions that `register` makes
known.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Callable

from pyvmm._core import ffi, lib
from pyvmm.errors import ConfigError, SymcallError
from pyvmm.machine.handle import Closed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NamedTuple

    from pyvmm.machine.question import Question
    from pyvmm.machine.run import Run
    from pyvmm.machine.vcpu import Vcpu
else:
    from pyvmm.record import NamedTuple

DATA_SIZE: int = lib.SYMBIOTIC_DATA_SIZE
WORD = (1 << 64) - 1
ARGUMENTS: int = lib.SYMCALL_REGISTERS
#: How often a thread that waits for a symcall looks for an interrupt.
WAIT_MS = 100
ZEROS = (0,) * ARGUMENTS
#: How long a thread waits for a vCPU to begin its symcall: it may be in a hook, or the host may hold up its device.
SYMCALL_PATIENCE = 30.0


class Results(NamedTuple):
    """The results of a call: the five registers, and the bytes of the data area that were asked
    for.
    """

    rbx: int
    rcx: int
    rdx: int
    rsi: int
    rdi: int
    data: bytes


#: The five registers in a message, and no data: the fields of Results. A symcall is to cost little more than two
#: exits, so this way is short.
_RESULTS = struct.Struct(f"={ffi.offsetof('struct symcall_message', 'regs')}x{ARGUMENTS}Q0s")

#: `raw(number, *args, data=b"", want=0)`; its attribute `patient` says whether the caller may wait and try again.
Raw = Callable[..., Results]

#: The calls that have a name: functions that get a Raw and the caller's arguments.
TYPED: dict[str, Callable[..., Any]] = {}

#: Makes the package's own names known, when one is first asked for; set by the layer that has them.
load: Callable[[], None] = lambda: None  # noqa: E731


def register(name: str, function: Callable[..., Any]) -> None:
    """Give a call a name: `vcpu.symcall(name, *args)` becomes `function(raw, *args)`.

    Raise ConfigError if the name is taken by another function.
    """
    if TYPED.setdefault(name, function) is not function:
        raise ConfigError(f"symcall {name!r} exists already")


def typed(name: str) -> Callable[..., Any]:
    """Return the function of a name. Raise ConfigError for one that nobody registered."""
    if name not in TYPED:
        load()
    if name not in TYPED:
        raise ConfigError(f"no symcall is named {name!r}; there are: {', '.join(sorted(TYPED))}")
    return TYPED[name]


def call_typed(name: str, raw: Raw, args: tuple[Any, ...]) -> Any:
    """Return the answer to a call by name.

    Raise what its function does, ConfigError for arguments that it does not take.
    """
    function = typed(name)
    try:
        return function(raw, *args)
    except TypeError as error:
        # Raised by the call itself, and not in the function: its frame is the only one.
        if error.__traceback__ is not None and error.__traceback__.tb_next is None:
            raise ConfigError(f"symcall {name!r}: {error}") from error
        raise


_REASONS = {
    lib.SYMCALL_ERROR: "error",
    lib.SYMCALL_ABSENT: "absent",
    lib.SYMCALL_DISABLED: "disabled",
    lib.SYMCALL_ACTIVE: "active",
    lib.SYMCALL_INVALID: "invalid",
    lib.SYMCALL_DEADLINE: "deadline",
    lib.SYMCALL_FAULT: "fault",
    lib.SYMCALL_NESTED: "nested",
    lib.SYMCALL_STOPPED: "stopped",
    lib.SYMCALL_HOST: "host",
}
_TEXTS = {
    "absent": "the guest has not registered an entry for symcalls: its kernel has no symbiotic driver, "
    "or has not loaded it yet",
    "disabled": "the guest takes no symcalls",
    "active": "a symcall cannot be made within another one",
    "invalid": "the entry that the guest registered cannot be used",
    "deadline": "the guest's handler did not return in time; symcalls are off until it registers again",
    "fault": "the guest's handler brought the vCPU down",
    "nested": "the vCPU runs a guest of the guest",
    "stopped": "the vCPU does not run",
}


#: In place of what a call had in C.
CLOSED = Closed("this call")


class Call:
    """One call on its way; used again and again by whoever makes one at a time."""

    def __init__(self) -> None:
        self._c: Any = lib.symcall_call_create()
        if self._c == ffi.NULL:
            raise MemoryError
        self.message: Any = lib.symcall_message(self._c)
        self._bytes = ffi.buffer(self.message)
        self._want = 0
        self.passes = False  # data, either way

    def close(self) -> None:
        """Free it; no other thread uses it."""
        doomed = self._let_go()
        if doomed is not None:
            lib.symcall_call_destroy(doomed)

    def _let_go(self) -> Any:
        """Return what it had in C, once."""
        had, self._c = self._c, CLOSED
        self.message = CLOSED
        return None if had is CLOSED else had

    def disown(self, vcpu: Any) -> None:
        """Give up a call that was posted on a vCPU (a `struct vcpu *`), or never was, at any stage
        of it.

        One that has not begun never will; one that is under way the vCPU's thread frees at its end.
        An interrupt (ctrl-c) in between leaks it at worst.
        """
        given_up = self._let_go()
        if given_up is not None:
            lib.symcall_disown(vcpu, given_up)

    def pack(self, args: tuple[int, ...], data: bytes, want: int) -> tuple[int, ...]:
        """Return the five arguments, with the data put in.

        Raise ConfigError for too many of anything.
        """
        if len(args) > ARGUMENTS:
            raise ConfigError(f"{len(args)} arguments: a symcall takes at most {ARGUMENTS}")
        if data or want or self.passes:
            self._pass(data, want)
        for arg in args:
            if not 0 <= arg <= WORD:
                args = tuple(arg & WORD for arg in args)
                break
        return args + ZEROS[len(args) :]

    def _pass(self, data: bytes, want: int) -> None:
        if not 0 <= want <= DATA_SIZE or len(data) > DATA_SIZE:
            raise ConfigError(f"a symcall passes at most {DATA_SIZE} bytes of data each way")
        message = self.message
        message.given, message.wanted = len(data), want
        self._want, self.passes = want, bool(data or want)
        if data:
            ffi.memmove(message.data, data, len(data))

    def results(self) -> Results:
        """Return what it brought. Raise SymcallError if it failed."""
        message = self.message
        if message.status:
            raise self._error()
        words = _RESULTS.unpack_from(self._bytes)
        if self._want:
            words = *words[:ARGUMENTS], bytes(ffi.buffer(message.data, self._want))
        return tuple.__new__(Results, words)

    def _error(self) -> SymcallError:
        message = self.message
        reason = _REASONS.get(message.status, "host")
        text = ffi.string(message.text).decode("ascii", "replace") if reason != "error" else ""
        code = int(message.error) if reason in ("error", "host") else 0
        if reason in ("error", "host"):
            why = os.strerror(code) if code < 4096 else "no known code"
            who = "the guest answered" if reason == "error" else "KVM refused"
            what = f"{who}: {why} ({code})"
        else:
            what = _TEXTS[reason] + (f": {text}" if text else "")
        return SymcallError(f"symcall {message.number:#x}: {what}", reason, code)


def check_number(number: int) -> int:
    """Return the number of a call. Raise ConfigError for one of more than 64 bits."""
    if not 0 <= number <= WORD:
        raise ConfigError(f"symcall {number}: numbers of calls have 64 bits")
    return number


def make(
    vcpu: Any,
    number: int,
    args: tuple[int, ...],
    data: bytes,
    want: int,
    notify: Callable[[], None],
    patience: float,
    question: Question | None = None,
) -> Results:
    """Post a call on a vCPU (a `struct vcpu *`) that another thread runs; `notify` is called when
    it was asked for.

    A vCPU that does not begin it within `patience` seconds is not waited for; nor is one longer
    than the `question` has time. An interrupt (ctrl-c) gives the call up: see `Call.disown`.
    """
    call = Call()
    try:
        message = call.message
        message.number = check_number(number)
        message.regs = call.pack(args, data, want)
        lib.symcall_post(vcpu, call._c)
        notify()
        await_end(vcpu, call, patience, question)
        return call.results()
    finally:
        call.disown(vcpu)


def await_end(vcpu: Any, call: Call, patience: float, question: Question | None = None) -> None:
    """Wait until the call is over.

    Raise SymcallError if it did not begin in time, LimitError as `question`.
    """
    left = int(patience * 1000)
    while not lib.symcall_wait(vcpu, call._c, min(left, WAIT_MS) or WAIT_MS):
        if question is not None:
            question.check()
        left = max(left - WAIT_MS, 0)
        # One that cannot be taken back is under way.
        if not left and lib.symcall_withdraw(vcpu, call._c):
            raise SymcallError(
                f"symcall {call.message.number:#x}: its vCPU did not come to it in {patience:g} s: "
                "it is in a hook, or waits for the host",
                "deadline",
            )


class Symcalls:
    """Calls into the guest kernel on the vCPUs of a machine, from any thread, also while the
    machine is paused.
    """

    def __init__(self, run: Run, vcpus: list[Vcpu], deadline: float) -> None:
        self._run = run
        self._vcpus = vcpus
        self._deadline = deadline

    def call(
        self,
        cpu: int,
        call: int | str,
        *args: Any,
        data: bytes = b"",
        want: int = 0,
        question: Question | None = None,
    ) -> Any:
        """Make a call, by number or by name.

        Raise what `Vcpu.symcall` does, StateError if the machine neither runs nor is paused,
        ConfigError for a vCPU that does not exist, LimitError once the `question` has no time left.
        """
        raw = self.raw(cpu, question)
        if isinstance(call, str):
            return call_typed(call, raw, args)
        return raw(call, *args, data=data, want=want)

    def raw(self, cpu: int, question: Question | None = None) -> Raw:
        """Return the function that makes calls by number on a vCPU, for those who make several, in
        a question's time.

        Raise ConfigError for a vCPU that does not exist.
        """
        if not 0 <= cpu < len(self._vcpus):
            raise ConfigError(f"vCPU {cpu}: there are 0 to {len(self._vcpus) - 1}")
        vcpu = self._vcpus[cpu]
        if threading.current_thread() is vcpu.thread:
            return vcpu.raw

        def raw(number: int, *args: int, data: bytes = b"", want: int = 0) -> Results:
            return self._make(vcpu, number, args, data, want, question)

        raw.patient = not self._run.on_vcpu_thread()  # type: ignore[attr-defined]
        return raw

    def _make(
        self,
        vcpu: Vcpu,
        number: int,
        args: tuple[int, ...],
        data: bytes,
        want: int,
        question: Question | None,
    ) -> Results:
        if question is not None:
            question.check()
        self._run.check_takes_calls()
        # Two hooks that call each other's vCPU would wait for ever.
        patience = self._deadline if self._run.on_vcpu_thread() else SYMCALL_PATIENCE
        with vcpu.handle as c, vcpu.calls or vcpu.handle:
            return make(c, number, args, data, want, self._run.notify, patience, question)
