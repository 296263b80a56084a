# SPDX-License-Identifier: Apache-2.0
"""The public face: a virtual machine put together from memory, a kernel and devices, and run."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence

from pyvmm.boot import acpi, load
from pyvmm.config import (
    FUNCTION,
    SWAP_SERIAL,
    SYMCALL_DEADLINE,
    BootConfig,
    MachineConfig,
    SwapConfig,
    VMConfig,
    kind_of,
)
from pyvmm.devices.serial import Serial
from pyvmm.errors import ConfigError, StateError
from pyvmm.machine import result as results
from pyvmm.machine import symcall as symcalls
from pyvmm.machine.machine import Machine
from pyvmm.machine.result import Result
from pyvmm.quantity import check_seconds, parse_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self, TypeVar

    from pyvmm.config import CpuState, DeviceConfig
    from pyvmm.control.server import Server
    from pyvmm.devices.virtio_blk import VirtioBlk
    from pyvmm.devices.virtio_console import VirtioConsole
    from pyvmm.devices.virtio_net import VirtioNet
    from pyvmm.devices.virtio_rng import VirtioRng
    from pyvmm.machine.device import Device
    from pyvmm.machine.question import Question
    from pyvmm.machine.vcpu import Vcpu
    from pyvmm.swap.disk import Policy, Swap
    from pyvmm.symbiotic.calls import Facts, Task

    F = TypeVar("F", bound=Callable[..., Any])


#: How long the output of a guest that ended, and of one that was ended, may take to be written, seconds.
DRAIN_SECONDS = 10.0
DRAIN_SECONDS_FORCED = 1.0

#: One file, or several (paths, or bytes of further archives) that the kernel unpacks one after the other.
Initrd = str | bytes | Sequence[str | bytes]


class VM:
    """A virtual machine.

    `memory` is in bytes, or text such as "256M"; `cpus` the number of vCPUs. `kernel` is a bzImage,
    an ELF vmlinux with a PVH entry, a kernel with a Multiboot header, or a flat binary (`flat` says
    how that starts: "real", "protected" or "long"); without one, give `load_state` the registers
    yourself. `initrd` is a file or several parts. `shared=True` puts RAM into a memfd, `hugepages`
    ("2M" or "1G") into one from the hugetlb pool. `irqchip=False` is for bare programs that end
    with HLT. `nested=True` shows VMX or SVM to the guest. `symbiotic` shows it the interface for
    symcalls (None: where this KVM can), each of which may take `symcall_deadline` seconds.

    Raises `ConfigError` for options that cannot work, `ImageError` (at `start`) for images, and
    `pyvmm.kvm` errors when the host refuses. A context manager; `close` gives everything back.
    """

    def __init__(
        self,
        memory: str | int = "256M",
        cpus: int = 1,
        *,
        kernel: str | os.PathLike[str] | None = None,
        initrd: Initrd | None = None,
        cmdline: str = "",
        flat: str | None = None,
        shared: bool = False,
        hugepages: str | None = None,
        irqchip: bool = True,
        nested: bool = False,
        symbiotic: bool | None = None,
        symcall_deadline: float = SYMCALL_DEADLINE,
        kvm_path: str = "/dev/kvm",
    ) -> None:
        self.kernel = os.fspath(kernel) if kernel is not None else None
        self.initrd = _parts(initrd)
        self.cmdline = cmdline
        self.flat = flat
        self.serial: Serial | None = None
        self.swap: Swap | None = None
        self._server: Server | None = None
        self._state: CpuState | None = None
        self._loaded = False
        self.machine = Machine(
            MachineConfig(
                parse_size(memory, "memory"),
                cpus,
                shared=shared,
                hugepages=hugepages,
                irqchip=irqchip,
                nested=nested,
                symbiotic=symbiotic,
                symcall_deadline=symcall_deadline,
                kvm_path=kvm_path,
            )
        )

    @classmethod
    def of(cls, config: VMConfig) -> Self:
        """Make the VM that a record describes.

        Its serial port and consoles are connected to nothing.

        Raise ConfigError for what is no such record, and what the constructor and `add` raise.
        """
        if not isinstance(config, VMConfig):
            raise ConfigError(
                f"{type(config).__name__} is no record of a VM; that is a pyvmm.config.VMConfig"
            )
        machine, boot = config.machine._asdict(), config.boot
        ends = machine.pop("end_at_status")
        vm = cls(
            **machine,
            kernel=boot.kernel,
            initrd=boot.initrd,
            cmdline=boot.cmdline,
            flat=boot.flat,
        )
        try:
            if ends:
                vm.end_at_status()
            if boot.state is not None:
                vm.load_state(boot.state)
            for device in config.devices:
                vm.add(device)
        except BaseException:
            vm.close()
            raise
        return vm

    @property
    def config(self) -> VMConfig:
        """The record of this VM, from which `of` makes another like it.

        Hooks and the descriptors of consoles are not in it. Raise ConfigError if a device has no
        record, as a disk over memory of this process.
        """
        boot = BootConfig(self.kernel, tuple(self.initrd), self.cmdline, self.flat, self._state)
        devices = tuple(device.config for device in self.machine.devices)
        return VMConfig(self.machine.config, boot, devices)

    @property
    def memory(self) -> Any:
        """The guest's RAM, a `pyvmm.machine.memory.GuestMemory`, by guest-physical addresses."""
        return self.machine.memory

    @property
    def vcpus(self) -> list[Vcpu]:
        """The vCPUs, by index."""
        return self.machine.vcpus

    @property
    def state(self) -> str:
        """One of built, running, paused, stopping, ended, closed."""
        return "closed" if self.machine.closed else self.machine.state

    # Devices: all before `start`.

    def add(self, device: DeviceConfig, **wires: Any) -> Any:
        """Add the device that a record describes, and return what its own `add_` method does.

        `wires` are further arguments of that: the descriptors of a serial port or a console.
        """
        add: dict[str, Callable[..., Any]] = {
            "serial": self.add_serial,
            "virtio-console": self.add_console,
            "virtio-blk": self._add_disk,
            "virtio-net": self.add_net,
            "virtio-rng": self.add_rng,
            "swap": self.add_swap,
            "testdev": self._add_testdev,
        }
        return add[kind_of(device)](**device._asdict(), **wires)

    def _add_disk(self, file: str | int, **options: Any) -> VirtioBlk:
        return self.add_disk(file, **options)

    def _add_testdev(self) -> Device:
        from pyvmm.testdev import TestDevice

        self._before_start("the test device")
        return TestDevice(self)

    def add_serial(self, output_fd: int = -1, input_fd: int = -1, **options: Any) -> Serial:
        """Add COM1 on file descriptors that stay the caller's; -1 for none.

        `options` are those of `Serial`. The last 64 KiB of output are always kept. Raise ConfigError
        if there is one already, HostError for a descriptor that is not open, StateError after the
        start.
        """
        self._before_start("a serial port")
        if self.serial is not None:
            raise ConfigError("there is one serial port, and it was added already")
        self.serial = Serial(self.machine, output_fd, input_fd, **options)
        return self.serial

    def add_disk(
        self,
        disk: str | os.PathLike[str] | int,
        *,
        readonly: bool = False,
        serial: str = "",
        format: str | None = None,
    ) -> VirtioBlk:
        """Add a virtio disk (virtio 1.2, 5.2) over a raw file, a block device or a descriptor such as
        a memfd.

        Its serial number may not be that of the swap disk, which is how a guest finds that one. A
        file that begins as an image of another format is refused unless `format` is "raw".

        Raise ConfigError for a serial number that cannot be, ImageError for what is no disk,
        HostError for a file that is missing or in use, StateError after the start.
        """
        from pyvmm.devices.virtio_blk import VirtioBlk

        self._before_start("a disk")
        if self.swap is not None and serial == self.swap.serial:
            raise ConfigError(f"disk serial number {serial!r}: the swap disk has it")
        where = disk if isinstance(disk, int) else os.fspath(disk)
        return VirtioBlk(self.machine, where, readonly=readonly, serial=serial, format=format)

    def add_swap(
        self,
        size: str | int,
        bypass: str = "off",
        *,
        serial: str = SWAP_SERIAL,
        backing: str | os.PathLike[str] | None = None,
        policy: Policy = "pressure",
        quota: str | int | None = None,
    ) -> Swap:
        """Add a swap disk of `size` bytes (or text such as "1G"; a multiple of 2 MiB) in host
        memory; one a VM.

        `bypass` says how a symbiotic guest may use pages where they lie in it: "off", "symcall" or
        "direct"; it can be changed while the guest runs. `serial` is the disk's serial number.
        `backing` names a file, absent or empty, that holds the pages instead of host memory.
        `policy` decides whether the guest may: "pressure" (always, but the store grows by small
        pages while the host is short of memory), "quota" (while the store takes no more than
        `quota` bytes, or text), "always", "never", or a function that is asked about each fault.
        Raise ConfigError for what cannot be, HostError if the host refuses.
        """
        from pyvmm.swap.disk import Swap

        self._before_start("a swap disk")
        if self.swap is not None:
            raise ConfigError("there is one swap disk, and it was added already")
        if serial in [getattr(device, "serial", None) for device in self.machine.devices]:
            raise ConfigError(f"disk serial number {serial!r}: another disk has it")
        decide = policy if callable(policy) else None
        config = SwapConfig(
            parse_size(size, "swap size"),
            bypass,
            serial,
            None if backing is None else os.fspath(backing),
            FUNCTION if callable(policy) else policy,
            None if quota is None else parse_size(quota, "swap quota"),
        )
        self.swap = Swap(self.machine, config, decide)
        return self.swap

    def add_console(
        self, input_fd: int | None = None, output_fd: int | None = None, **options: Any
    ) -> VirtioConsole:
        """Add a virtio console (hvc0 in Linux; virtio 1.2, 5.3) on file descriptors that stay the
        caller's.

        `options` are those of `VirtioConsole`. Raise HostError for a descriptor that is not open,
        StateError after the start.
        """
        from pyvmm.devices.virtio_console import VirtioConsole

        self._before_start("a console")
        return VirtioConsole(self.machine, input_fd, output_fd, **options)

    def add_rng(self) -> VirtioRng:
        """Add a virtio entropy source (virtio 1.2, 5.4) fed by the host's getrandom(2).

        Raise HostError when the host has no thread or descriptor left, StateError after the start.
        """
        from pyvmm.devices.virtio_rng import VirtioRng

        self._before_start("an entropy source")
        return VirtioRng(self.machine)

    def add_net(self, tap: Any, mac: str | None = None) -> VirtioNet:
        """Add a virtio network card (virtio 1.2, 5.1) on a tap: the name of one, or a
        `pyvmm.devices.tap.Tap`.

        `mac` is text such as "02:00:00:12:34:56"; None is a random address. Raise ConfigError for
        another, HostError for a tap that cannot be used, StateError after the start.
        """
        from pyvmm.devices.tap import Tap
        from pyvmm.devices.virtio_net import VirtioNet

        self._before_start("a network card")
        if isinstance(tap, str):
            tap = self.machine.own(Tap(tap))
        return VirtioNet(self.machine, tap, mac=mac)

    def end_at_status(self) -> None:
        """Have a write to the status port, 0xf4, end the run: a "poweroff" with that byte as
        `Result.status`.

        QEMU's isa-debug-exit is such a port, by which kernels without power management end. Where
        QEMU's own exit status is (byte << 1) | 1, this is the byte.
        """
        self._before_start("the end at a status")
        self.machine.end_at_status()

    # Hooks: with a handler, or as decorators.

    def on_port(self, port: int, count: int = 1) -> Callable[[F], F]:
        """Decorate a function that is called with an `Exit` for accesses to `count` ports from
        `port` on.

        For a read the function returns the value, or sets `exit.value`. Raise ConfigError where a
        device sits.
        """
        return self._decorator(lambda handler: self.machine.on_port(port, handler, count))

    def on_mmio(self, address: int, length: int) -> Callable[[F], F]:
        """Decorate a function as `on_port` does, for `length` bytes from the guest-physical
        `address` on.

        Raise ConfigError where RAM or a device lies.
        """
        return self._decorator(lambda handler: self.machine.on_mmio(address, length, handler))

    def on_msr(self, index: int, count: int = 1) -> Callable[[F], F]:
        """Decorate a function as `on_port` does, for RDMSR and WRMSR of `count` MSRs from `index` on.

        The function raises `GuestFault` to give the guest #GP. Raise ConfigError where another hook
        is, and for the x2APIC's MSRs, 0x800 to 0x8ff (api.rst, KVM_X86_SET_MSR_FILTER).
        """
        return self._decorator(lambda handler: self.machine.on_msr(index, handler, count))

    def on_hypercall(self, number: int) -> Callable[[F], F]:
        """Decorate a function that is called with a `Hypercall` when the guest's kernel rings the
        doorbell with that number.

        What it returns, up to five numbers, goes back to the guest. Users' own numbers are 0x6000
        to 0xffff.
        """
        return self._decorator(lambda handler: self.machine.on_hypercall(number, handler))

    @staticmethod
    def _decorator(register: Callable[[Any], None]) -> Callable[[F], F]:
        def decorate(function: F) -> F:
            register(function)
            return function

        return decorate

    # Calls into the guest kernel.

    def symcall(
        self,
        cpu: int,
        call: int | str,
        *args: Any,
        data: bytes = b"",
        want: int = 0,
        question: Question | None = None,
    ) -> Any:
        """Call into the guest kernel on a vCPU, from any thread: by number, or by name ("current",
        "facts", ...).

        A number gives `Results`, a name what its function returns. Raise SymcallError if the call
        does not come to its end or the guest says no, GuestDataError if the answer to a name cannot
        be true, StateError if the machine neither runs nor is paused, ConfigError for a vCPU, a
        name or arguments that cannot be, LimitError for an answer that takes too long: `question`,
        a `pyvmm.machine.question.Question`, says how long it may take.
        """
        return self.machine.symcall(cpu, call, *args, data=data, want=want, question=question)

    def tasks(self, threads: bool = False, cpu: int = 0) -> Iterator[Task]:
        """Yield the guest's processes, with `threads` each thread of them, as its kernel knows
        them: a call on vCPU `cpu` for every 32.

        Raise ConfigError if there is no such vCPU; as it goes on, what `symcall` does, and
        LimitError after 65536 tasks, or 10 s of calls.
        """
        from pyvmm.symbiotic.task import tasks

        return tasks(self.machine.raw(cpu), threads)

    def facts(self, cpu: int = 0) -> Facts:
        """Ask the guest's kernel for its release and its place in memory, on vCPU `cpu`.

        Raise what `symcall` does.
        """
        found: Facts = self.symcall(cpu, "facts")
        return found

    @property
    def symcalls(self) -> dict[str, int]:
        """Counts of symcalls, doorbells and refused registrations, by name (docs/symcall.md)."""
        return self.machine.symcalls

    # The life of a run.

    def load_state(self, state: CpuState) -> None:
        """Start the first vCPU with these registers instead of a kernel's.

        Raise StateError after `load` or `start`.
        """
        self._before_start("a start state")
        self._state = state

    def load(self) -> None:
        """Load the kernel, which `start` does if nobody did: what is wrong with it shows before
        anything has run.

        Raise ImageError for an image that cannot be booted (boot.rst, the PVH note, Multiboot),
        ConfigError for what does not fit the guest, HostError for a file that cannot be read,
        StateError after `load` or `start`.
        """
        self._before_start("loading a kernel")
        if self.serial is None:
            self.add_serial()
        self.machine.set_state(self._state or self._load())
        self._loaded = True

    def start(self) -> None:
        """Load the kernel and start the vCPUs, a thread each; return at once.

        Raise what `load` raises, and StateError for a machine that was started.
        """
        if not self._loaded:
            self.load()
        self.machine.start()

    def _load(self) -> CpuState:
        if self.kernel is None:
            raise ConfigError("no kernel: give kernel=PATH, or registers with load_state()")
        rsdp = acpi.install(
            self.memory, len(self.vcpus), self.machine.board.virtio_devices(), serial=True
        )
        return load.load_kernel(
            self.kernel,
            self.memory,
            cmdline=self.cmdline,
            initrd=self.initrd,
            rsdp=rsdp,
            reserved=self.machine.memory.reserved,
            flat=self.flat,
        )

    def wait(self, timeout: float | None = None) -> Result | None:
        """Return the result once the run is over, or None after `timeout` seconds.

        Raise what a hook raised.

        A Linux kernel that panicked and restarted, for want of a pvpanic driver, ends by "panic":
        its log says so.
        """
        result = self.machine.wait(timeout)
        if result is not None and result.reason in results.AFTER_PANIC and not self.machine.closed:
            from pyvmm.machine import kernellog

            kernellog.judge(result, self.console_log())
        return result

    def run(self, timeout: float | None = None) -> Result:
        """Start it, unless it was started, wait, and return how it ended; after `timeout` seconds
        as "timeout".

        An interrupt (ctrl-c) stops the guest and is raised again. Raise ConfigError, before the
        start, for a time that cannot be.
        """
        if timeout is not None:
            timeout = check_seconds(timeout, "a timeout")
        if self.state == "built":
            self.start()
        try:
            result = self.wait(timeout)
        except BaseException:
            self.stop()
            raise
        if result is None:
            detail = f"the guest was still running after {timeout:g} s"
            self.machine.stop(Result(results.TIMEOUT, detail=detail))
            result = self.wait()
        assert result is not None
        forced = result.reason in (results.TIMEOUT, results.STOPPED)
        self._drain(DRAIN_SECONDS_FORCED if forced else DRAIN_SECONDS)
        return result

    def _drain(self, seconds: float) -> None:
        """Let the devices write out what the guest has queued, all of them in so much time."""
        until = time.monotonic() + seconds
        for device in self.machine.devices:
            device.drain(max(0.0, until - time.monotonic()))

    def pause(self, question: Question | None = None) -> None:
        """Stop every vCPU between two instructions, and wait for it (from a hook: only ask for it).

        With a `question` as long as that has time: LimitError then, and the machine goes on.
        """
        self.machine.pause(question)

    def resume(self) -> None:
        """Let a paused machine go on. Raise StateError for one that is not paused."""
        self.machine.resume()

    def stop(self) -> None:
        """End the run, from any thread. The result is "stopped" unless the run has ended already."""
        self.machine.stop()

    def power_button(self) -> bool:
        """Ask the guest to shut down, by the power button (ACPI 6.3, 4.8.2.2.1).

        Return False while it does not listen to that.
        """
        return self.machine.board.power_button()

    def serve(self, name: str | None = None) -> str:
        """Make it known as `name`, else vm-PID, to `pyvmm list` and its kin until `close`; return
        the socket's path.

        Best after `start`: the guest boots meanwhile. Raise ConfigError for a name that another VM
        has or none can have, HostError if the user's runtime directory is not safe, StateError if
        it is served already or closed.
        """
        from pyvmm.control.runtime_dir import default_name
        from pyvmm.control.server import Server

        if self.state == "closed":
            raise StateError("this VM is closed")
        if self._server is not None:
            raise StateError(f"this VM is served already, as {self._server.name}")
        self._server = Server(self, name if name is not None else default_name())
        return self._server.path

    def console_log(self) -> bytes:
        """Return the last output of the serial port, at most 64 KiB, as the bytes that they were."""
        return self.serial.tail() if self.serial is not None else b""

    def _before_start(self, what: str) -> None:
        if self.state != "built" or self._loaded:
            state = self.state if self.state != "built" else "loaded"
            raise StateError(f"{what} comes before the start; this machine is {state}")

    def close(self) -> None:
        """End a run that is still on and give everything back.

        May be called twice, and by two threads at a time.
        """
        if self.machine.run.on_vcpu_thread():
            self.machine.close()  # a hook, which is refused
        with self.machine.closing:
            if self._server is not None and not self.machine.closed:
                self._server.close()
                self.machine.stop()  # a client may be waiting for the guest
                self._server.join()
            self.machine.close()

    def __enter__(self) -> VM:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _load_typed() -> None:
    """Make the named symcalls known, when the first is made: not every launch needs them."""
    import pyvmm.symbiotic.calls  # noqa: F401


symcalls.load = _load_typed


def _parts(initrd: Initrd | None) -> list[str | bytes]:
    if initrd is None:
        return []
    if isinstance(initrd, (str, bytes)):
        return [initrd]
    return [part if isinstance(part, bytes) else os.fspath(part) for part in initrd]
