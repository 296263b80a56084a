# SPDX-License-Identifier: Apache-2.0
"""The board: buses, interrupt lines, memory slots, and which of them are taken.

Devices are made on it, and get their addresses, lines and eventfds from it.
"""

from __future__ import annotations

import os

from pyvmm import kvm
from pyvmm._core import ffi, lib
from pyvmm.errors import ConfigError, HostError
from pyvmm.machine.handle import Handle
from pyvmm.machine.memory import File

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyvmm.machine.memory import GuestMemory, Mapping
    from pyvmm.machine.part import Owner

#: Pages that KVM needs on Intel CPUs without unrestricted guests, both below 4 GiB.
IDENTITY_MAP = 0xFFFBC000
TSS = 0xFFFBD000

#: Where the registers of virtio device n lie, and its interrupt line.
VIRTIO_BASE = 0xD0000000
VIRTIO_STRIDE = 0x1000
VIRTIO_GSIS = (*range(16, 24), 5, 6, 7, 10, 11, 12, 13, 14, 15)


class Board:
    """The buses, the chipset and the interrupt controllers of a machine.

    `owner` closes what is made here. Without `irqchip` there are no interrupt controllers: a
    device's eventfd then raises no interrupt.
    """

    def __init__(self, owner: Owner, vm: kvm.Vm, memory: GuestMemory, irqchip: bool) -> None:
        self._owner = owner
        self._vm = vm
        self._memory = memory
        self.irqchip = irqchip
        self._slots = 0
        self._virtio_count = 0
        for gpa, size, address in memory.slots():
            vm.set_memory_region(self.next_slot(), gpa, size, address)
        self._pio, self._mmio, self._msr = (
            self._own(lib.bus_create(), lib.bus_destroy, f"the bus of {what}")
            for what in ("ports", "MMIO", "MSRs")
        )
        self._platform = self._own(lib.platform_create(vm.fd), lib.platform_destroy, "the platform")
        check(lib.platform_attach(self.platform, self.pio), "claiming the chipset's ports")
        self._create_controllers()

    def _own(self, pointer: Any, destroy: Callable[[Any], object], what: str) -> Handle:
        handle = Handle(pointer, destroy, what)
        self._owner.later(handle.release)
        return handle

    def _create_controllers(self) -> None:
        # Intel CPUs without unrestricted guests need both (api.rst, KVM_SET_TSS_ADDR).
        for setter, address in (
            (self._vm.set_identity_map_addr, IDENTITY_MAP),
            (self._vm.set_tss_addr, TSS),
        ):
            try:
                setter(address)
            except kvm.KvmError as error:
                if not isinstance(error, kvm.KvmCapabilityMissing):
                    raise
        if self.irqchip:
            self._vm.create_irqchip()
            self._vm.create_pit2(kvm.KVM_PIT_SPEAKER_DUMMY)

    # The buses and the platform in C, for those who make devices. StateError once the machine is closed.

    @property
    def pio(self) -> Any:
        """The bus of I/O ports."""
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

    def bus(self, name: str) -> Handle:
        """Return the bus "pio", "mmio" or "msr", for use from any thread."""
        return {"pio": self._pio, "mmio": self._mmio, "msr": self._msr}[name]

    # Memory slots.

    def next_slot(self) -> int:
        """Return the number of a KVM memory slot that nobody uses yet."""
        self._slots += 1
        return self._slots - 1

    def add_window(self, gpa: int, size: int, what: int | File | Mapping | None = None) -> None:
        """Add memory of the guest that is not RAM, as `GuestMemory.add_window`, in a KVM slot of
        its own.
        """
        address = self._memory.add_window(gpa, size, what)
        if isinstance(what, (int, File)):
            with self._mmio as bus:
                lib.bus_add(bus, gpa, size, ffi.addressof(lib, "vcpu_memory_gone"), ffi.NULL)
        self._vm.set_memory_region(self.next_slot(), gpa, size, address)

    # Interrupt lines and kicks.

    def irqfd(self, gsi: int) -> int:
        """Return a new eventfd; each signal of it is one edge on the interrupt line `gsi`.

        Closed with the machine.
        """
        fd = self._eventfd()
        if self.irqchip:
            self._vm.irqfd(fd, gsi)
        return fd

    def ioeventfd(self, address: int, length: int, datamatch: int | None = None) -> int:
        """Return a new eventfd, signalled by KVM itself when the guest writes there.

        Closed with the machine.

        Where the back end has no ioeventfd the write reaches the device's handler instead, which
        signals it as well.
        """
        fd = self._eventfd()
        try:
            self._vm.ioeventfd(fd, address, length, datamatch)
        except kvm.KvmCapabilityMissing:
            pass
        return fd

    def ready_fd(self) -> int:
        """Return the eventfd that is signalled when the guest says, by a mark, that it takes input.

        Closed with the machine.
        """
        with self._platform as platform:
            if platform.ready_fd < 0:
                platform.ready_fd = self._eventfd()
            return int(platform.ready_fd)

    def _eventfd(self) -> int:
        self._owner.check_open()
        fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._owner.later(lambda: os.close(fd))
        return fd

    # Virtio devices.

    def allocate_virtio(self) -> tuple[int, int]:
        """Return the address of the registers and the interrupt line of the next virtio device.

        Raise ConfigError if there are no more.
        """
        if self._virtio_count == len(VIRTIO_GSIS):
            raise ConfigError(f"more than {len(VIRTIO_GSIS)} virtio devices")
        number = self._virtio_count
        self._virtio_count += 1
        return VIRTIO_BASE + number * VIRTIO_STRIDE, VIRTIO_GSIS[number]

    def virtio_devices(self) -> list[tuple[int, int]]:
        """Return (address, interrupt line) of each virtio device, for the firmware tables."""
        return [
            (VIRTIO_BASE + n * VIRTIO_STRIDE, VIRTIO_GSIS[n]) for n in range(self._virtio_count)
        ]

    # The chipset.

    def end_at_status(self) -> None:
        """Have the guest's report of its status end the run, as a power-off. Before the start."""
        with self._platform as platform:
            platform.debug_exit = 1

    def power_button(self) -> bool:
        """Press the ACPI power button; False while the guest does not listen to it."""
        with self._platform as platform:
            return bool(lib.platform_power_button(platform) == 0)


def check(result: int, what: str) -> None:
    """Turn a negative errno from C into a HostError that says what failed."""
    if result < 0:
        raise HostError(-result, f"{what}: {os.strerror(-result)}")
