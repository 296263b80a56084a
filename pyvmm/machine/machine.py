# SPDX-License-Identifier: Apache-2.0
"""The machine: a board, guest memory, vCPUs and their run, put together."""

from __future__ import annotations

import sys

from pyvmm import kvm
from pyvmm._core import lib
from pyvmm.errors import ConfigError, StateError
from pyvmm.machine import cpuid, symbiosis
from pyvmm.machine.board import Board, check
from pyvmm.machine.hooks import Hooks
from pyvmm.machine.memory import GuestMemory, check_memory
from pyvmm.machine.part import Owner, System, Vm
from pyvmm.machine.run import Run
from pyvmm.machine.symbiosis import Symbiosis
from pyvmm.machine.symcall import Symcalls
from pyvmm.machine.vcpu import Vcpu, check_cpus

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm.config import CpuState, MachineConfig
    from pyvmm.machine.device import Device
    from pyvmm.machine.hooks import Handler, HypercallHandler
    from pyvmm.machine.part import T
    from pyvmm.machine.question import Question
    from pyvmm.machine.result import Result
    from pyvmm.machine.symcall import Raw


class Machine:
    """A virtual machine without devices and without a kernel, made as its record says.

    Raises ConfigError for a record that cannot be had and, from the host, `pyvmm.kvm` errors.

    Life: built -> `start` -> running, paused -> ended -> `close`. One that is dropped without
    `close` is closed when it is collected, with a ResourceWarning; while it runs its threads hold
    it.

    `board` has the buses and interrupt lines, `hooks` the handlers in Python, `run` the state and
    the result.
    """

    def __init__(self, config: MachineConfig) -> None:
        self._owner = Owner()
        self.config = config
        self.devices: list[Device] = []
        self.vcpus: list[Vcpu] = []
        self.symbiosis: Symbiosis | None = None
        try:
            self._build()
            self._create_vcpus()
        except BaseException:
            self.close()
            raise

    def _build(self) -> None:
        config, own = self.config, self._owner.own
        check(lib.vcpu_setup_kick(), "sigaction for the kick signal")
        self.kvm = own(System(config.kvm_path))
        check_cpus(config.cpus, self.kvm.check_extension(kvm.KVM_CAP_MAX_VCPUS) or 4)
        self._supported = self.kvm.supported_cpuid()
        check_memory(config.memory, cpuid.address_bits(self._supported))
        self.vm = own(self.kvm.create_vm(kind=Vm))
        self.memory = own(
            GuestMemory(config.memory, shared=config.shared, hugepages=config.hugepages)
        )
        self.board = Board(self._owner, self.vm, self.memory, config.irqchip)
        self.hooks = Hooks(self._owner, self.board, self.vm, self.memory)
        self.run = Run(self._owner, self.board, self.memory, self.vcpus)
        if config.end_at_status:
            self.end_at_status()

    def _create_vcpus(self) -> None:
        config = self.config
        deadline = symbiosis.check_deadline(config.symcall_deadline)
        symbiotic = self._symbiotic()
        more = [symbiosis.leaf()] if symbiotic else []
        timer = config.irqchip and self.kvm.check_extension(kvm.KVM_CAP_TSC_DEADLINE_TIMER) > 0
        for index in range(config.cpus):
            vcpu = self.own(Vcpu(self, index))
            table = cpuid.table(
                self._supported,
                index,
                config.cpus,
                deadline=timer,
                nested=config.nested,
                more=more,
            )
            vcpu.set_cpuid(table)
            vcpu.set_msrs()
            self.vcpus.append(vcpu)
        self._calls = Symcalls(self.run, self.vcpus, deadline)
        if symbiotic:
            self.symbiosis = self.own(Symbiosis(self, deadline, config.nested))

    def _symbiotic(self) -> bool:
        """Return whether the guest gets the interface.

        Raise ConfigError where it is wanted and KVM cannot have it.
        """
        wanted = self.config.symbiotic
        lacking = symbiosis.missing(self.vm) if wanted is not False else []
        if lacking and wanted:
            raise ConfigError(f"symbiotic: this KVM lacks {', '.join(lacking)}")
        return wanted is not False and not lacking

    # The things that belong to it.

    def own(self, thing: T) -> T:
        """Take `thing` over and return it: its `close` is called by the machine's, before that of
        what came earlier.

        Of a `Part` nobody else may call it from now on. Raise StateError once the machine is
        closed.
        """
        return self._owner.own(thing)

    def add_device(self, device: Device) -> None:
        """Take a device over: the machine closes it, in reverse order of adding.

        Where its `close` raises HostError (ETIMEDOUT) it is called again when the machine's is.
        """
        self.own(device)
        self.devices.append(device)

    def end_at_status(self) -> None:
        """Have the guest's report of its status end the run, as a power-off. Before the start."""
        self.board.end_at_status()
        self.config = self.config._replace(end_at_status=True)

    # Hooks.

    def on_port(self, port: int, handler: Handler, count: int = 1) -> None:
        """Add a hook as `Hooks.on_port` does."""
        self.hooks.on_port(port, handler, count)

    def on_mmio(self, address: int, length: int, handler: Handler) -> None:
        """Add a hook as `Hooks.on_mmio` does."""
        self.hooks.on_mmio(address, length, handler)

    def on_msr(self, index: int, handler: Handler, count: int = 1) -> None:
        """Add a hook as `Hooks.on_msr` does."""
        self.hooks.on_msr(index, handler, count)

    def on_hypercall(self, number: int, handler: HypercallHandler) -> None:
        """Add a hook as `Hooks.on_hypercall` does."""
        self.hooks.on_hypercall(number, handler)

    # The life of a run.

    @property
    def state(self) -> str:
        """One of built, running, paused, stopping, ended."""
        return self.run.state

    def set_state(self, state: CpuState) -> None:
        """Put the first vCPU where the kernel begins; the others wait to be woken by it."""
        self.vcpus[0].set_state(state)

    def start(self) -> None:
        """Start as `Run.start` does."""
        self.run.start()

    def wait(self, timeout: float | None = None) -> Result | None:
        """Wait as `Run.wait` does."""
        return self.run.wait(timeout)

    def pause(self, question: Question | None = None) -> None:
        """Pause as `Run.pause` does."""
        self.run.pause(question)

    def resume(self) -> None:
        """Resume as `Run.resume` does."""
        self.run.resume()

    def look(self) -> None:
        """Look whether the guest hangs: a program that runs guests which should not calls it every
        few seconds.

        Once every vCPU was found halted with interrupts off, by two calls with no exit between, the
        run ends by "hang". A guest for which somebody outside has an NMI or a symcall may halt so.
        """
        self.run.look()

    def stop(self, result: Result | None = None) -> None:
        """Stop as `Run.stop` does."""
        self.run.stop(result)

    def exits(self) -> dict[str, int]:
        """Return the exits so far by their names, over all vCPUs: those of `Run.exits`."""
        return self.run.exits()

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
        """Call as `Symcalls.call` does."""
        return self._calls.call(cpu, call, *args, data=data, want=want, question=question)

    def raw(self, cpu: int, question: Question | None = None) -> Raw:
        """Return the function that makes calls by number on a vCPU: that of `Symcalls.raw`."""
        return self._calls.raw(cpu, question)

    @property
    def symcalls(self) -> dict[str, int]:
        """Counters of the symbiotic interface over all vCPUs; empty if the machine is not
        symbiotic.
        """
        return self.symbiosis.counters() if self.symbiosis is not None else {}

    # The end.

    @property
    def closed(self) -> bool:
        """True if `close` was called."""
        return self._owner.closed

    @property
    def closing(self) -> Any:
        """The lock of the thread that closes it."""
        return self._owner.closing

    def close(self) -> None:
        """End the run if there is one and give everything back.

        May be called twice, and by two threads at a time; not from a hook.

        Raise HostError (ETIMEDOUT) where a vCPU or a device's thread does not stop, because the
        host holds it up or a hook does not come back. What they use is kept then, and a further
        call goes on from there.
        """
        if self.vcpus and self.run.on_vcpu_thread():
            raise StateError("a hook cannot close the machine it runs in; call stop()")
        self._owner.closed = True
        with self.closing:
            if self.vcpus:
                self.run.finish()
            self._owner.give_back()

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        owner: Owner | None = getattr(self, "_owner", None)
        if owner is None or owner.closed or sys.is_finalizing():
            return
        from warnings import warn

        try:
            warn(
                "a machine was dropped without close()", ResourceWarning, stacklevel=2, source=self
            )
        finally:
            self.close()
