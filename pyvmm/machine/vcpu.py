# SPDX-License-Identifier: Apache-2.0
"""One virtual CPU: its KVM object, its thread, and what happens when the C loop comes back."""

from __future__ import annotations

import errno
import os
import struct
from _thread import get_ident

from pyvmm import kvm
from pyvmm._core import ffi, lib
from pyvmm.config import BOOT_CS, BOOT_DS
from pyvmm.errors import ConfigError, HostError, StateError, SymcallError
from pyvmm.machine import result as results
from pyvmm.machine.handle import Closed, Handle
from pyvmm.machine.hooks import Exit, GuestFault, Hypercall
from pyvmm.machine.part import Part
from pyvmm.machine.symcall import Call, Results, call_typed, check_number
from pyvmm.machine.thread import Thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm.config import CpuState
    from pyvmm.machine.machine import Machine

CR0_PE = 1 << 0
CR0_ET = 1 << 4
CR0_PG = 1 << 31
CR4_PAE = 1 << 5
EFER_LME = 1 << 8
EFER_LMA = 1 << 10

CODE = 0xB  # execute, read, accessed
DATA = 0x3  # read, write, accessed

RFLAGS_IF = 1 << 9

MSR_MTRR_DEF_TYPE = 0x2FF
MTRR_WRITE_BACK = 1 << 11 | 6  # enabled, default type write-back
MSR_MISC_ENABLE = 0x1A0
MISC_FAST_STRINGS = 1


def _flat(segment: Any, selector: int, kind: int, *, long: bool) -> None:
    """Make a flat 4 GiB segment; `long` makes a code segment 64-bit (SDM 3A, 3.4.5)."""
    code = kind == CODE
    segment.base, segment.limit, segment.selector = 0, 0xFFFFFFFF, selector
    segment.type, segment.present, segment.dpl, segment.s, segment.g = kind, 1, 0, 1, 1
    segment.l, segment.db = int(code and long), int(not (code and long))


#: No thread's number: the vCPU's has one as soon as it runs.
STARTING = -1

#: The number and the five arguments.
_HYPERCALL = struct.Struct("=6Q")


#: Open files that a process has beside its vCPUs': fewer than the first are counted, the second are needed at least.
DESCRIPTORS = 256
LEAST_DESCRIPTORS = 24


def check_cpus(cpus: int, most: int) -> None:
    """Raise ConfigError for a number of vCPUs that KVM does not take, HostError for too few
    descriptors (EMFILE).
    """
    if not isinstance(cpus, int) or not 1 <= cpus <= most:
        raise ConfigError(f"{cpus!r} vCPUs: this KVM takes 1 to {most}")
    limit = os.sysconf("SC_OPEN_MAX")
    if 0 < limit < cpus + DESCRIPTORS:
        needed = len(os.listdir("/proc/self/fd")) + cpus + LEAST_DESCRIPTORS
        if limit < needed:
            raise HostError(
                errno.EMFILE,
                f"{cpus} vCPUs take some {needed} open files, and this process may have {limit}; raise ulimit -n",
            )


class Registers(kvm.Vcpu):
    """The descriptor of a vCPU that the C loop runs: using it finds, in KVM, the registers as they
    are.

    The loop leaves registers that it restored in the shared structure until the next KVM_RUN.
    """

    loop: Handle | None = None

    @property
    def fd(self) -> int:
        """The descriptor, for an ioctl that is about to come."""
        loop = self.loop
        if loop is not None:
            with loop as vcpu:
                error = lib.vcpu_flush(vcpu)
            if error:
                raise HostError(-error, f"KVM_RUN of vCPU {self.id}: {os.strerror(-error)}")
        return super().fd

    def enter(self) -> int:
        """Enter as `kvm.Vcpu.enter` does.

        Raise StateError while the loop has it, which would lose the exit.
        """
        if self.loop is not None and not self.loop.released:
            raise StateError(f"vCPU {self.id} is part of a machine, which runs it: start that")
        return super().enter()

    def close(self) -> None:
        """Close as `kvm.Vcpu.close` does.

        Raise StateError while the loop has it: another descriptor may get its number.
        """
        if self.loop is not None and not self.loop.released:
            raise StateError(f"vCPU {self.id} is part of a machine, which closes it: close that")
        super().close()


class Vcpu(Part):
    """A vCPU of a machine. `index` is its APIC id; `kvm` the `pyvmm.kvm.Vcpu` for its registers.

    Registers may be read and set from a hook on this vCPU, or while the machine is paused or not
    started. A symcall that another thread makes while it is paused borrows them: nobody may do both
    at once. Once the vCPU is closed everything here raises StateError.
    """

    def __init__(self, machine: Machine, index: int) -> None:
        self.machine = machine
        self._run = machine.run
        self._hooks = machine.hooks
        self.index = index
        self.kvm = machine.vm.create_vcpu(index, Registers)
        self.parked = False
        #: How often in a row it was found halted for good.
        self.found_halted = 0
        self.cpuid: Any = None
        #: Those that a symbiotic machine adds to it.
        self.calls: Handle | None = None
        self.thread: Thread | None = None
        board = machine.board
        run = int(ffi.cast("uintptr_t", kvm.ffi.cast("uintptr_t", self.kvm.run)))
        made = lib.vcpu_create(
            self.kvm.fd, index, run, self.kvm.run_size, board.pio, board.mmio, board.msr
        )
        try:
            self.handle = Handle(made, lib.vcpu_destroy, f"vCPU {index}")
        except HostError:
            self.kvm.close()
            raise
        #: For its own thread, which ends before it is closed; others use the handle.
        self._c: Any = made
        self.kvm.loop = self.handle
        self._call: Call | None = Call()
        self._ident = 0  # of the thread, while there is one
        self._hypercall = ffi.buffer(self._c.hypercall)

    def set_cpuid(self, table: Any) -> None:
        """Give the vCPU its CPUID table, a `struct kvm_cpuid2 *`. Before it runs."""
        self.kvm.set_cpuid2(table)
        self.cpuid = table

    def set_msrs(self) -> None:
        """Set the MSRs as firmware would have: memory is write-back, fast strings are on."""
        for index, value in (
            (MSR_MTRR_DEF_TYPE, MTRR_WRITE_BACK),
            (MSR_MISC_ENABLE, MISC_FAST_STRINGS),
        ):
            try:
                self.kvm.set_msrs({index: value})
            except kvm.KvmError:
                # Software back ends know fewer MSRs; a guest that needs one will say so.
                continue

    def set_state(self, state: CpuState) -> None:
        """Put the vCPU where a loaded kernel begins."""
        sregs = self.kvm.get_sregs()
        if state.mode == "real":
            self._set_real(sregs)
        else:
            self._set_flat(sregs, state)
        self.kvm.set_sregs(sregs)
        regs = kvm.ffi.new("struct kvm_regs *")
        try:
            regs.rip, regs.rsp, regs.rflags = state.rip, state.rsp, 2
            regs.rax, regs.rbx, regs.rsi, regs.rdi = state.rax, state.rbx, state.rsi, state.rdi
        except OverflowError as error:
            raise ConfigError(f"the start state: {error}") from error
        self.kvm.set_regs(regs)

    @staticmethod
    def _set_real(sregs: Any) -> None:
        sregs.cs.base, sregs.cs.selector = 0, 0

    @staticmethod
    def _set_flat(sregs: Any, state: CpuState) -> None:
        long = state.mode == "long"
        _flat(sregs.cs, BOOT_CS, CODE, long=long)
        for name in ("ds", "es", "fs", "gs", "ss"):
            _flat(getattr(sregs, name), BOOT_DS, DATA, long=long)
        sregs.gdt.base, sregs.gdt.limit = state.gdt_base, state.gdt_limit
        sregs.idt.base, sregs.idt.limit = 0, 0
        sregs.cr0 = CR0_PE | CR0_ET | (CR0_PG if long else 0)
        if long:
            sregs.cr3, sregs.cr4 = state.cr3, CR4_PAE
            sregs.efer = EFER_LME | EFER_LMA

    def start(self) -> None:
        """Start the vCPU's thread, once: for `Machine.start`.

        Raise HostError if the host gives no more threads.
        """
        self.handle.check()
        if self.thread is not None:
            raise StateError(f"vCPU {self.index} was started already")
        if self._run.state == "built":
            raise StateError(f"vCPU {self.index} is started by its machine: start that")
        self.thread = Thread(self._main, f"vcpu{self.index}")
        self._ident = STARTING
        self.thread.start()

    def call_off(self) -> bool:
        """Call off a thread that has not begun; return False for one that has.

        Needs the machine's lock.
        """
        if self.thread is not None and self._ident != STARTING:
            return False
        self.thread = None
        self._ident = 0
        return True

    def request(self, bits: int) -> None:
        """Get the vCPU out of the guest, from any thread, to look at a VCPU_REQUEST_* bit."""
        with self.handle as c:
            lib.vcpu_request(c, bits)

    def symcall(self, call: int | str, *args: Any, data: bytes = b"", want: int = 0) -> Any:
        """Call into the guest kernel on this vCPU, from a hook of its own or from any other thread.

        A number takes up to five arguments and gives `Results`; `data` goes to the guest with it,
        `want` bytes come back. A name calls the function that `pyvmm.machine.symcall.register`
        knows by it. Raise SymcallError, GuestDataError for the answer to a name that cannot be
        true, ConfigError for a name or arguments that cannot be.
        """
        if get_ident() != self._ident:
            return self.machine.symcall(self.index, call, *args, data=data, want=want)
        if isinstance(call, str):
            return call_typed(call, self.raw, args)
        return self._make(call, args, data, want)

    def raw(self, number: int, *args: int, data: bytes = b"", want: int = 0) -> Results:
        """Make a call on the vCPU's own thread, in a hook. Raise StateError on another."""
        self._check_thread()
        return self._make(number, args, data, want)

    def _check_thread(self) -> None:
        if get_ident() != self._ident:
            raise StateError(f"this is for the thread of vCPU {self.index}, while it runs")

    def _make(self, number: int, args: tuple[int, ...], data: bytes, want: int) -> Results:
        if number >> 64:
            check_number(number)
        call = self._call or Call()
        self._call = None  # a hook within the call must not use it as well
        try:
            if args or data or want or call.passes:
                packed = call.pack(args, data, want)
                event = lib.symcall_make(self._c, call._c, number, *packed)
            else:  # the same, short
                event = lib.symcall_make(self._c, call._c, number, 0, 0, 0, 0, 0)
            if event != lib.VCPU_SYMCALL:
                self._see_through(call, event)
            return call.results()
        except BaseException:
            # A hook that failed gives up this call and no other; one that is over stays as it is. Not in
            # _see_through(), where nothing may be left of Python's stack.
            lib.symcall_abandon(self._c, call._c, lib.SYMCALL_STOPPED)
            raise
        finally:
            self._keep(call)

    def _see_through(self, call: Call, event: int) -> None:
        """Serve the events of a call until it is over."""
        while event != lib.VCPU_SYMCALL:
            self._serve_in_symcall(event)
            event = lib.symcall_continue(self._c, call._c)

    def _keep(self, call: Call) -> None:
        """Save a call for the next one."""
        if self._call is not None:
            self._call.close()
        self._call = call

    def _serve_in_symcall(self, event: int) -> None:
        """Serve what the guest's handler brought about.

        Raise SymcallError if the guest ended with it.
        """
        number = lib.symcall_number(self._c)
        if event == lib.VCPU_KICKED:
            raise SymcallError(f"symcall {number:#x}: the machine stops", "stopped")
        if not self._serve(event):
            self._run.end(self, self._result(event))
            raise SymcallError(f"symcall {number:#x}: the guest ended in it", "fault")

    def _main(self) -> None:
        with self._run.lock:
            if self._ident != STARTING:
                return  # called off
            self._ident = get_ident()
        lib.vcpu_attach(self._c)
        try:
            self._loop()
        except BaseException as error:
            self._run.fail(self, error)
        finally:
            lib.symcall_close(self._c)
            lib.vcpu_detach(self._c)
            self._ident = 0
            self._run.leave()

    def _loop(self) -> None:
        run, c, kicked = lib.vcpu_run, self._c, lib.VCPU_KICKED
        while True:
            event = run(c)
            if event == kicked:
                if not self._serve_requests():
                    return
            elif not self._serve(event):
                self._run.end(self, self._result(event))
                return

    def _serve(self, event: int) -> bool:
        """Serve the hook of an event; False for an event that has none."""
        if event == lib.VCPU_HOOK:
            self._serve_access()
        elif event == lib.VCPU_HYPERCALL:
            self._serve_hypercall()
        else:
            return False
        return True

    def _serve_access(self) -> None:
        c = self._c
        access = c.access
        value = access.value
        is_write = access.is_write
        if not is_write:
            value = 0xFFFFFFFFFFFFFFFF
        exit = Exit(self, access.address, access.offset, access.length, bool(is_write), value)
        try:
            answer = self._hooks.handlers[c.hook](exit)
        except GuestFault:
            access.refused = 1
            return
        if not is_write:
            if answer is None:
                answer = exit.value
            access.value = answer & 0xFFFFFFFFFFFFFFFF

    def _serve_hypercall(self) -> None:
        c = self._c
        call = Hypercall(self, _HYPERCALL.unpack(self._hypercall))
        answer = self._hooks.hypercall_handlers[c.hook](call)
        if not answer:
            return  # the guest has been answered so far
        words = [word & 0xFFFFFFFFFFFFFFFF for word in answer]
        error = lib.doorbell_answer(c, lib.SYMBIOTIC_HYPERCALL_DONE, words, len(words))
        if error:
            raise HostError(-error, f"hypercall {call.number:#x}: {os.strerror(-error)}")

    def _serve_requests(self) -> bool:
        """Return False when the vCPU shall leave its loop."""
        requests = lib.vcpu_take_requests(self._c)
        if requests & lib.VCPU_REQUEST_STOP:
            return False
        if requests & lib.VCPU_REQUEST_LOOK and self._look():
            return False
        if requests & lib.VCPU_REQUEST_PAUSE:
            return self._run.park(self)
        return True

    def _look(self) -> bool:
        """Note whether the guest has halted this vCPU for good; end the run if it is the last of
        all.
        """
        self.found_halted = self.found_halted + 1 if self._is_halted() else 0
        if not self._run.hangs():
            return False
        detail = "every vCPU has halted with interrupts off, and nothing wakes them"
        self._run.end(self, results.Result(results.HANG, vcpu=self.index, detail=detail))
        return True

    def _is_halted(self) -> bool:
        """Say whether it waits for what only another vCPU sends, or the host."""
        try:
            state = self.kvm.get_mp_state()
        except kvm.KvmError:
            return False  # a KVM that does not say
        if state == kvm.lib.KVM_MP_STATE_HALTED:
            return not self.kvm.get_regs().rflags & RFLAGS_IF
        return state in (kvm.lib.KVM_MP_STATE_UNINITIALIZED, kvm.lib.KVM_MP_STATE_INIT_RECEIVED)

    def is_called(self) -> bool:
        """Return whether another thread waits for a symcall."""
        with self.handle as c, self.calls or self.handle:
            return bool(lib.symcall_pending(c))

    def serve_symcalls(self) -> bool:
        """Make the calls of other threads, on the vCPU's thread, while the machine is paused; the
        guest stays where it is. False when the vCPU shall leave its loop. Raise StateError in a
        hook, whose access it would complete.
        """
        self._check_thread()
        if self._c.hook_pending:
            raise StateError(f"vCPU {self.index} is in a hook: its access is not over")
        self._c.held = 1
        try:
            while lib.symcall_pending(self._c) or lib.symcall_is_active(self._c):
                event = lib.vcpu_run(self._c)
                if event == lib.VCPU_KICKED:
                    if lib.vcpu_take_requests(self._c) & lib.VCPU_REQUEST_STOP:
                        return False
                elif not self._serve(event):
                    self._run.end(self, self._result(event))
                    return False
        finally:
            self._c.held = 0
        return True

    def _result(self, event: int) -> results.Result:
        reason = results.BY_EVENT.get(event, results.UNKNOWN_EXIT)
        return results.Result(reason, vcpu=self.index, detail=self._detail(event))

    def _detail(self, event: int) -> str:
        c = self._c
        where = f"in symcall {lib.symcall_number(c):#x}" if lib.symcall_is_active(c) else ""
        return ": ".join(filter(None, (where, self._reason(event))))

    def _reason(self, event: int) -> str:
        run = self.kvm.run
        name = results.exit_name(self._c.exit_reason)
        if event == lib.VCPU_IOCTL_FAILED:
            error = self._c.error
            said = f"KVM_RUN failed: {os.strerror(error)} (errno {error}), exit reason {name}"
            # The host cannot give the guest memory that it uses.
            trouble = self.machine.memory.trouble if error == errno.EFAULT else ""
            return f"{trouble}; {said}" if trouble else said
        if event == lib.VCPU_UNFINISHED:
            why = os.strerror(self._c.error)
            return f"the instruction that a symcall put aside did not come to its end: {why}"
        if event == lib.VCPU_INTERNAL_ERROR:
            return f"KVM could not go on: suberror {run.internal.suberror}"
        if event == lib.VCPU_ENTRY_FAILURE:
            reason = run.fail_entry.hardware_entry_failure_reason
            return f"the CPU refused to enter the guest: hardware reason {reason:#x}"
        if event == lib.VCPU_UNKNOWN_EXIT:
            return f"exit of kind {name}, which pyvmm has no answer to"
        if event == lib.VCPU_DEBUG:
            return "guest debug event with nobody to serve it"
        return ""

    def exits(self) -> dict[str, int]:
        """Return the exits so far, by kind; kinds that never came are left out."""
        with self.handle as c:
            counts = list(c.exits)
        return {results.exit_name(i): count for i, count in enumerate(counts) if count}

    @property
    def unclaimed(self) -> int:
        """Accesses that no device and no hook answered."""
        with self.handle as c:
            return int(c.unclaimed)

    def close(self) -> None:
        """Free the vCPU; may be called twice.

        Raise StateError while a machine has it, or its thread runs.
        """
        super().close()
        if self._ident:
            raise StateError(f"vCPU {self.index} runs; stop the machine first")
        if self.thread is not None:
            self.thread.join()  # it is on its last lines
        if self._call is not None:
            self._call.close()
            self._call = None
        self._c = self._hypercall = Closed(f"vCPU {self.index}")
        self.handle.release()
        self.kvm.close()
