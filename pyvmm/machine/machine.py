# SPDX-License-Identifier: Apache-2.0
"""The machine: guest memory, vCPUs, interrupt controllers, buses, and the life of a run."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterable

from pyvmm import kvm
from pyvmm._core import ffi, lib
from pyvmm.errors import ConfigError, HostError, LimitError, StateError
from pyvmm.machine import capacity, cpuid, symbiosis
from pyvmm.machine import result as results
from pyvmm.machine.handle import Handle
from pyvmm.machine.memory import (
    File,
    GuestMemory,
    Mapping,
)
from pyvmm.machine.part import Part, System, Vm
from pyvmm.machine.result import Result
from pyvmm.machine.symbiosis import Symbiosis
from pyvmm.machine.symcall import call_typed, make
from pyvmm.machine.vcpu import Vcpu
from pyvmm.quantity import check_seconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from pyvmm.config import CpuState
    from pyvmm.machine.hooks import Handler, HypercallHandler
    from pyvmm.machine.question import Question
    from pyvmm.machine.symcall import Raw, Results

    class Device(Protocol):
        """What the machine knows of a device: how to end it."""

        def close(self) -> None:
            """Stops the device's threads and frees it, in reverse order of adding. Where it raises, it is called again
            when the machine is.
            """


IDENTITY_MAP = 0xFFFBC000
TSS = 0xFFFBD000

VIRTIO_BASE = 0xD0000000
VIRTIO_STRIDE = 0x1000
VIRTIO_GSIS = (*range(16, 24), 5, 6, 7, 10, 11, 12, 13, 14, 15)

PORTS = 0x10000
MSR_RANGES = 16
#: How long a vCPU thread may take to notice a stop before the machine calls it stuck.
STOP_SECONDS = 30.0
#: How long a thread waits for a vCPU to begin its symcall: it may be in a hook, or the host may hold up its device.
SYMCALL_PATIENCE = 30.0
#: How often who waits for a pause looks whether to go on waiting, seconds.
LOOK_SECONDS = 0.2


class Machine:
    """A virtual machine without devices and without a kernel.

    `memory` in bytes, with `shared` and `hugepages` as for `GuestMemory`; `cpus` as many as KVM allows;
    `irqchip=False` leaves the interrupt controllers out, for bare programs that end with HLT; `nested=True` shows VMX
    or SVM to the guest. `symbiotic` shows the guest the interface for symcalls, None where KVM can; a symcall may take
    `symcall_deadline` seconds. Raises ConfigError and, from the host, `pyvmm.kvm` errors.

    Life: built -> `start` -> running, paused -> ended -> `close`.
    """

    def __init__(
        self,
        memory: int,
        cpus: int = 1,
        *,
        shared: bool = False,
        hugepages: str | None = None,
        irqchip: bool = True,
        nested: bool = False,
        symbiotic: bool | None = None,
        symcall_deadline: float = symbiosis.DEADLINE,
        kvm_path: str = "/dev/kvm",
    ) -> None:
        self._undo: list[Callable[[], None]] = []
        self.closed = False
        try:
            self._build(memory, cpus, shared, hugepages, irqchip, kvm_path)
            self._create_vcpus(cpus, nested, symbiotic, symcall_deadline)
        except BaseException:
            self.close()
            raise

    def _build(
        self,
        memory: int,
        cpus: int,
        shared: bool,
        hugepages: str | None,
        irqchip: bool,
        kvm_path: str,
    ) -> None:
        self.hooks: list[Handler] = []
        self.hypercall_hooks: list[HypercallHandler] = []
        self.symbiosis: Symbiosis | None = None
        self.symcall_deadline = symbiosis.DEADLINE
        self._msr_ranges: list[tuple[int, int]] = []
        self.devices: list[Device] = []
        self._virtio_count = 0
        self._slots = 0
        self.vcpus: list[Vcpu] = []
        self._change = threading.Condition()
        self.state = "built"
        self._result: Result | None = None
        self._error: BaseException | None = None
        self._running = 0
        self._started_at = 0.0
        self._ended_at = 0.0

        check(lib.vcpu_setup_kick(), "sigaction for the kick signal")
        self.kvm = self._keep(System(kvm_path))
        capacity.check_cpus(cpus, self.kvm.check_extension(kvm.KVM_CAP_MAX_VCPUS) or 4)
        self._supported = self.kvm.supported_cpuid()
        capacity.check_memory(memory, cpuid.address_bits(self._supported))
        self.vm = self._keep(self.kvm.create_vm(kind=Vm))
        self.memory = self._keep(GuestMemory(memory, shared=shared, hugepages=hugepages))
        for gpa, size, address in self.memory.slots():
            self.vm.set_memory_region(self.next_slot(), gpa, size, address)
        self._pio, self._mmio, self._msr = (
            self._own(lib.bus_create(), lib.bus_destroy, f"the bus of {what}")
            for what in ("ports", "MMIO", "MSRs")
        )
        self._platform = self._own(
            lib.platform_create(self.vm.fd), lib.platform_destroy, "the platform"
        )
        check(lib.platform_attach(self.platform, self.pio), "claiming the chipset's ports")
        self.irqchip = irqchip
        self._create_controllers(irqchip)

    def _keep(self, thing: Any) -> Any:
        if isinstance(thing, Part):
            thing.keep()
            self._undo.append(thing.give_back)
        else:
            self._undo.append(thing.close)
        return thing

    def _own(self, pointer: Any, destroy: Callable[[Any], object], what: str) -> Handle:
        handle = Handle(pointer, destroy, what)
        self._undo.append(handle.release)
        return handle

    # The buses and the platform in C, for who makes devices. StateError after close().

    @property
    def pio(self) -> Any:
        """The bus of the ports."""
        return self._pio.pointer

    @property
    def mmio(self) -> Any:
        """The bus of guest-physical addresses that are no memory."""
        return self._mmio.pointer

    @property
    def msr(self) -> Any:
        """The bus of MSRs."""
        return self._msr.pointer

    @property
    def platform(self) -> Any:
        """The chipset, as far as there is one."""
        return self._platform.pointer

    def next_slot(self) -> int:
        """The number of a KVM memory slot that nobody uses yet."""
        self._slots += 1
        return self._slots - 1

    def add_window(self, gpa: int, size: int, what: int | File | Mapping | None = None) -> None:
        """Memory of the guest that is not RAM, as `GuestMemory.add_window`, in a KVM slot of its own."""
        address = self.memory.add_window(gpa, size, what)
        if isinstance(what, (int, File)):
            with self._mmio as bus:
                lib.bus_add(bus, gpa, size, ffi.addressof(lib, "vcpu_memory_gone"), ffi.NULL)
        self.vm.set_memory_region(self.next_slot(), gpa, size, address)

    def _create_controllers(self, irqchip: bool) -> None:
        # Intel CPUs without unrestricted guest need both below 4 GiB (api.rst, KVM_SET_TSS_ADDR).
        for setter, address in (
            (self.vm.set_identity_map_addr, IDENTITY_MAP),
            (self.vm.set_tss_addr, TSS),
        ):
            try:
                setter(address)
            except kvm.KvmError as error:
                if not isinstance(error, kvm.KvmCapabilityMissing):
                    raise
        if irqchip:
            self.vm.create_irqchip()
            self.vm.create_pit2(kvm.KVM_PIT_SPEAKER_DUMMY)

    def _create_vcpus(
        self, cpus: int, nested: bool, symbiotic: bool | None, symcall_deadline: float
    ) -> None:
        if symbiotic is not False:
            lacking = symbiosis.missing(self.vm)
            if lacking and symbiotic:
                raise ConfigError(f"symbiotic: this KVM lacks {', '.join(lacking)}")
            symbiotic = not lacking
        self.symcall_deadline = symbiosis.check_deadline(symcall_deadline)
        more = [symbiosis.leaf()] if symbiotic else []
        deadline = self.irqchip and self.kvm.check_extension(kvm.KVM_CAP_TSC_DEADLINE_TIMER) > 0
        for index in range(cpus):
            vcpu = self._keep(Vcpu(self, index))
            table = cpuid.table(
                self._supported, index, cpus, deadline=deadline, nested=nested, more=more
            )
            vcpu.set_cpuid(table)
            vcpu.set_msrs()
            self.vcpus.append(vcpu)
        if symbiotic:
            self.symbiosis = self._keep(Symbiosis(self, symcall_deadline, nested))

    # What devices need.

    def irqfd(self, gsi: int) -> int:
        """A new eventfd; each signal of it is one edge on the interrupt line `gsi`. Closed with the machine."""
        fd = self._eventfd()
        if self.irqchip:
            self.vm.irqfd(fd, gsi)
        return fd

    def ioeventfd(self, address: int, length: int, datamatch: int | None = None) -> int:
        """A new eventfd, signalled by KVM itself when the guest writes there. Closed with the machine.

        Where the back end has no ioeventfd the write reaches the device's handler instead, which signals it as well.
        """
        fd = self._eventfd()
        try:
            self.vm.ioeventfd(fd, address, length, datamatch)
        except kvm.KvmCapabilityMissing:
            pass
        return fd

    def _eventfd(self) -> int:
        self._check_open()
        fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._undo.append(lambda: os.close(fd))
        return fd

    def ready_fd(self) -> int:
        """An eventfd that is signalled when the guest says, by a mark, that it takes input. Closed with the machine."""
        with self._platform as platform:
            if platform.ready_fd < 0:
                platform.ready_fd = self._eventfd()
            return int(platform.ready_fd)

    def end_at_status(self) -> None:
        """Has the guest's report of its status end the run, as a power-off. Before the start."""
        with self._platform as platform:
            platform.debug_exit = 1

    def allocate_virtio(self) -> tuple[int, int]:
        """Address of the registers and interrupt line of the next virtio device."""
        if self._virtio_count == len(VIRTIO_GSIS):
            raise ConfigError(f"more than {len(VIRTIO_GSIS)} virtio devices")
        number = self._virtio_count
        self._virtio_count += 1
        return VIRTIO_BASE + number * VIRTIO_STRIDE, VIRTIO_GSIS[number]

    def virtio_devices(self) -> list[tuple[int, int]]:
        """(address, interrupt line) of each virtio device, for the firmware tables."""
        return [
            (VIRTIO_BASE + n * VIRTIO_STRIDE, VIRTIO_GSIS[n]) for n in range(self._virtio_count)
        ]

    def add_device(self, device: Device) -> None:
        """Hands a device over: the machine closes it before it closes itself."""
        self._check_open()
        self.devices.append(device)
        self._undo.append(device.close)

    # Hooks.

    def on_port(self, port: int, handler: Handler, count: int = 1) -> None:
        """Calls `handler` for accesses to `count` ports from `port` on. ConfigError if they are taken."""
        if not (port >= 0 and count >= 1 and port + count <= PORTS):
            raise ConfigError(f"ports {port:#x} + {count}: ports are 0 to {PORTS - 1:#x}")
        self._hook(self._pio, port, count, handler, f"port {port:#x}")

    def on_mmio(self, address: int, length: int, handler: Handler) -> None:
        """Calls `handler` for accesses to a range of guest-physical addresses outside memory.

        Raises ConfigError for a range that cannot be, or is taken.
        """
        if not (address >= 0 and length >= 1 and address + length <= 1 << 64):
            raise ConfigError(f"MMIO range {address:#x} + {length:#x}: addresses have 64 bits")
        for region in self.memory.regions:
            if address < region.gpa + region.size and region.gpa < address + length:
                what = "RAM" if region in self.memory.ram else "the swap disk's memory"
                raise ConfigError(
                    f"MMIO range {address:#x} + {length:#x} overlaps {what} at {region.gpa:#x}; "
                    "accesses to it do not exit"
                )
        self._hook(self._mmio, address, length, handler, f"MMIO range {address:#x} + {length:#x}")

    def on_msr(self, index: int, handler: Handler, count: int = 1) -> None:
        """Calls `handler` for RDMSR and WRMSR of `count` MSRs from `index` on.

        The handler may raise `GuestFault` to refuse. x2APIC MSRs (0x800 to 0x8ff) cannot be hooked (api.rst,
        KVM_X86_SET_MSR_FILTER).
        """
        if not (index >= 0 and count >= 1 and index + count <= 1 << 32):
            raise ConfigError(f"MSRs {index:#x} + {count} are out of range")
        if index < 0x900 and index + count > 0x800:
            raise ConfigError("x2APIC MSRs 0x800 to 0x8ff cannot be hooked")
        if len(self._msr_ranges) == MSR_RANGES:
            raise ConfigError(f"KVM filters at most {MSR_RANGES} ranges of MSRs, all are in use")
        self._hook(self._msr, index, count, handler, f"MSR {index:#x}")
        self.filter_msrs([(index, count)])

    def filter_msrs(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Makes accesses to these MSRs (first, count) exit to the VMM."""
        with self._change:
            if not self._msr_ranges:
                self.vm.enable_cap(kvm.KVM_CAP_X86_USER_SPACE_MSR, kvm.KVM_MSR_EXIT_REASON_FILTER)
            self._msr_ranges.extend(ranges)
            self.vm.set_msr_filter([kvm.MsrRange(first, n) for first, n in self._msr_ranges])

    def on_hypercall(self, number: int, handler: HypercallHandler) -> None:
        """Calls `handler` when the guest's kernel rings the doorbell with that number.

        Users' own numbers are 0x6000 to 0xffff. Raises ConfigError if it is taken, or if the machine is not symbiotic.
        """
        if self.symbiosis is None:
            raise ConfigError("hypercalls need a symbiotic machine")
        if not lib.HYPERCALL_FIRST <= number <= lib.HYPERCALL_LAST:
            raise ConfigError(f"hypercall {number:#x}: the numbers are 0x5000 to 0xffff")
        self._check_open()
        if self._claim(self.symbiosis.hypercalls, self.hypercall_hooks, number, 1, handler):
            raise ConfigError(f"hypercall {number:#x}: already taken")

    def _hook(self, handle: Handle, base: int, length: int, handler: Handler, what: str) -> None:
        self._check_open()
        error = self._claim(handle, self.hooks, base, length, handler)
        if error:
            raise ConfigError(
                f"{what}: {'already taken' if error == -errno.EEXIST else os.strerror(-error)}"
            )

    def _claim(self, handle: Handle, hooks: list[Any], base: int, length: int, hook: Any) -> int:
        """Gives the hook a range of the bus, which knows it by its place in the list: 0 or -errno. From any thread.

        Raises ConfigError for what cannot be called.
        """
        if not callable(hook):
            raise ConfigError(f"{hook!r} is no hook: it cannot be called")
        with self._change:
            hooks.append(hook)
            with handle as bus:
                error = int(lib.bus_add_hook(bus, base, length, len(hooks) - 1))
            if error:
                hooks.pop()
        return error

    # The life of a run.

    def set_state(self, state: CpuState) -> None:
        """Puts the first vCPU where the kernel begins; the others wait to be woken by it."""
        self.vcpus[0].set_state(state)

    def start(self) -> None:
        """Starts all vCPUs, each on a thread of its own.

        Raises HostError if the host gives no more threads; the machine has ended then.
        """
        with self._change:
            self._check_open()
            if self.state != "built":
                raise StateError(f"the machine is {self.state}; it starts once")
            self.state = "running"
            self._running = len(self.vcpus)
            self._started_at = time.monotonic()
        try:
            for vcpu in self.vcpus:
                vcpu.start()
        except BaseException as error:
            with self._change:
                self._finish(Result(results.STOPPED, detail=f"the start failed: {error}"))
                self._leave(sum(vcpu.call_off() for vcpu in self.vcpus))
            raise

    def wait(self, timeout: float | None = None) -> Result | None:
        """Waits for the end of the run; None if `timeout` seconds pass first.

        An exception raised by a hook ends the run and is raised here. Raises ConfigError for a time that cannot be,
        StateError in a hook, without which the run does not end.
        """
        if timeout is not None:
            timeout = check_seconds(timeout, "a timeout")
        if self._on_vcpu_thread():
            raise StateError("a hook cannot wait for the machine it runs in; call stop()")
        with self._change:
            if not self._change.wait_for(lambda: self.state in ("ended", "built"), timeout):
                return None
            if self.state == "built":
                raise StateError("the machine was not started")
            if self._error is not None:
                raise self._error
            return self._result

    def pause(self, question: Question | None = None) -> None:
        """Stops all vCPUs between two instructions and waits until they stand.

        From within a hook it only asks: the machine stands once the hook is over. With a `question` it waits as long as
        that has time: LimitError then, and the machine goes on.
        """
        with self._change:
            if self.state == "paused":
                return
            if self.state != "running":
                raise StateError(f"the machine is {self.state}; only a running one can be paused")
            self.state = "paused"
            self._request_all(lib.VCPU_REQUEST_PAUSE)
            if self._on_vcpu_thread():
                return
            try:
                while not self._change.wait_for(self._stands, LOOK_SECONDS):
                    if question is not None:
                        question.check()
            except LimitError:
                if self.state == "paused":
                    self.resume()
                raise

    def _stands(self) -> bool:
        """With the lock held: whether all vCPUs do, or the machine is not to be paused any more."""
        return self.state != "paused" or sum(v.parked for v in self.vcpus) == self._running

    def resume(self) -> None:
        """Lets a paused machine go on."""
        with self._change:
            if self.state != "paused":
                raise StateError(f"the machine is {self.state}, not paused")
            self.state = "running"
            self._change.notify_all()

    def stop(self, result: Result | None = None) -> None:
        """Ends the run from any thread; without a result of its own it counts as "stopped"."""
        with self._change:
            if self.state in ("running", "paused"):
                self._finish(result or Result(results.STOPPED))

    def power_button(self) -> bool:
        """Presses the ACPI power button; False while the guest does not listen to it."""
        with self._platform as platform:
            return bool(lib.platform_power_button(platform) == 0)

    def _on_vcpu_thread(self) -> bool:
        return threading.current_thread() in [vcpu.thread for vcpu in self.vcpus]

    def _request_all(self, bits: int) -> None:
        for vcpu in self.vcpus:
            vcpu.request(bits)

    def _finish(self, result: Result) -> None:
        """With the lock held: the first end counts; every vCPU is told to leave."""
        if self._result is None:
            self._result = result
            self._ended_at = time.monotonic()
        self.state = "stopping"
        self._request_all(lib.VCPU_REQUEST_STOP)
        self._change.notify_all()

    def _park(self, vcpu: Vcpu) -> bool:
        """On the vCPU's thread: waits while the machine is paused, but for symcalls. False when the run is over."""
        while True:
            with self._change:
                vcpu.parked = True
                self._change.notify_all()
                self._change.wait_for(lambda: self.state != "paused" or vcpu.is_called())
                vcpu.parked = False
                if self.state != "paused":
                    return self.state == "running"
            if not vcpu.serve_symcalls():
                return False

    # Symcalls.

    def symcall(
        self,
        cpu: int,
        call: int | str,
        *args: Any,
        data: bytes = b"",
        want: int = 0,
        question: Question | None = None,
    ) -> Any:
        """Calls into the guest kernel on a vCPU, from any thread, also while the machine is paused.

        Raises what `Vcpu.symcall` does, StateError if the machine neither runs nor is paused, ConfigError for a vCPU
        that does not exist, LimitError once the `question` has no time left.
        """
        raw = self.raw(cpu, question)
        if isinstance(call, str):
            return call_typed(call, raw, args)
        return raw(call, *args, data=data, want=want)

    def raw(self, cpu: int, question: Question | None = None) -> Raw:
        """The function that makes calls by number on a vCPU, for those who make several, in a question's time."""
        if not 0 <= cpu < len(self.vcpus):
            raise ConfigError(f"vCPU {cpu}: there are 0 to {len(self.vcpus) - 1}")
        vcpu = self.vcpus[cpu]
        if threading.current_thread() is vcpu.thread:
            return vcpu.raw

        def raw(number: int, *args: int, data: bytes = b"", want: int = 0) -> Results:
            return self._call(vcpu, number, args, data, want, question)

        raw.patient = not self._on_vcpu_thread()  # type: ignore[attr-defined]
        return raw

    def _call(
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
        with self._change:
            self._check_open()
            if self.state not in ("running", "paused"):
                raise StateError(f"the machine is {self.state}; a running one takes symcalls")
        # Two hooks that call each other's vCPU would wait for ever.
        patience = self.symcall_deadline if self._on_vcpu_thread() else SYMCALL_PATIENCE
        with vcpu._handle as c, vcpu.calls or vcpu._handle:
            return make(c, number, args, data, want, self._notify, patience, question)

    def _notify(self) -> None:
        """A vCPU that is parked looks whether it is called."""
        with self._change:
            self._change.notify_all()

    @property
    def symcalls(self) -> dict[str, int]:
        """Counters of the symbiotic interface over all vCPUs; empty if the machine is not symbiotic."""
        return self.symbiosis.counters() if self.symbiosis is not None else {}

    def _ended(self, vcpu: Vcpu, result: Result) -> None:
        """On the vCPU's thread: the guest, or KVM, ended the run."""
        if result.reason not in results.CLEAN:
            result.dump = self._dump(vcpu)
        with self._change:
            if self.state in ("running", "paused"):
                self._finish(result)

    def _dump(self, vcpu: Vcpu) -> str:
        from pyvmm.machine import crash

        try:
            return crash.dump(vcpu.kvm, self.memory)
        except Exception as error:
            return f"no dump: {error}"

    def _failed(self, vcpu: Vcpu, error: BaseException) -> None:
        """On the vCPU's thread: a hook raised."""
        with self._change:
            if self._error is None:
                self._error = error
            if self.state in ("running", "paused"):
                self._finish(Result(results.STOPPED, vcpu=vcpu.index, detail=str(error)))

    def _left(self, vcpu: Vcpu) -> None:
        """On the vCPU's thread, last of all."""
        with self._change:
            self._leave(1)

    def _leave(self, vcpus: int) -> None:
        """With the lock held: so many fewer run."""
        self._running -= vcpus
        if not self._running:
            self._complete_result()
            self.state = "ended"
        self._change.notify_all()

    def _complete_result(self) -> None:
        result = self._result
        assert result is not None
        result.seconds = self._ended_at - self._started_at
        status = int(self.platform.status)
        result.status = status if status >= 0 else None
        if self.platform.mark_ns:
            result.boot_seconds = self.platform.mark_ns / 1e9 - self._started_at
        result.exits = self.exits()
        result.unclaimed = sum(vcpu.unclaimed for vcpu in self.vcpus)

    def exits(self) -> dict[str, int]:
        """Exits of all vCPUs so far, by kind."""
        total: dict[str, int] = {}
        for vcpu in self.vcpus:
            for name, count in vcpu.exits().items():
                total[name] = total.get(name, 0) + count
        return total

    def _check_open(self) -> None:
        if self.closed:
            raise StateError("the machine is closed")

    def close(self) -> None:
        """Ends the run if there is one and gives everything back. May be called twice, not from a hook.

        Raises HostError (ETIMEDOUT) where a vCPU or a device's thread does not stop, because the host holds it up or a
        hook does not come back. What they use is kept then, and a further call goes on from there.
        """
        if getattr(self, "vcpus", None) and self._on_vcpu_thread():
            raise StateError("a hook cannot close the machine it runs in; call stop()")
        self.closed = True
        if getattr(self, "vcpus", None) and self.state != "built":
            self._end_run()
        self._give_back()

    def _end_run(self) -> None:
        self.stop()
        with self._change:
            if not self._change.wait_for(lambda: self.state == "ended", STOP_SECONDS):
                raise HostError(
                    errno.ETIMEDOUT,
                    f"a vCPU did not stop in {STOP_SECONDS:.0f} s; its memory is kept, close() may be called again",
                )
        for vcpu in self.vcpus:
            if vcpu.thread is not None:
                vcpu.thread.join()

    def _give_back(self) -> None:
        """Undoes what was done, the last thing first; one that fails does not keep the others."""
        failed: Exception | None = None
        while self._undo:
            step = self._undo.pop()
            try:
                step()
            except Exception as error:
                if getattr(error, "errno", None) == errno.ETIMEDOUT:
                    self._undo.append(step)
                    raise
                failed = failed or error
            except BaseException:
                if hasattr(step, "__self__"):  # an interrupt: what may be called twice is
                    self._undo.append(step)
                raise
        if failed is not None:
            raise failed

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def check(result: int, what: str) -> None:
    """Turns a negative errno from the C side into a HostError that says what failed."""
    if result < 0:
        raise HostError(-result, f"{what}: {os.strerror(-result)}")
