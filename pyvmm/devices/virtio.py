# SPDX-License-Identifier: Apache-2.0
"""The Python side that all virtio devices share; the device itself is in csrc/virtio."""

from __future__ import annotations

import errno
import os

from pyvmm._core import ffi, lib
from pyvmm.errors import ConfigError, HostError
from pyvmm.kvm import KvmError
from pyvmm.machine.device import Device
from pyvmm.machine.handle import Handle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyvmm.machine.machine import Machine

#: Device status field, virtio 1.2 section 2.1.
NEEDS_RESET = 64
#: How long the host may take for a read or a write that a device's thread is at when it is closed, seconds.
STOP_SECONDS = 10


class VirtioDevice(Device):
    """A virtio device on the MMIO transport (virtio 1.2, section 4.2), with an I/O thread of its
    own.

    `base` is the guest-physical address of its registers, `gsi` its interrupt line, `kind` the name
    of the device. Made by the subclasses, before the machine starts; the machine closes it.
    """

    kind = "virtio"

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine)
        self._thread: Handle | None = None
        self._device: Handle | None = None
        self._attached = False
        self._slot = -1
        self.base = 0
        self.gsi = 0

    def _attach(self, create: Callable[[Any], Any]) -> None:
        """Make the C device with `create(wiring)`, a `struct virtio_wiring *`, and plug it into the
        machine.
        """
        machine, board = self._machine, self._machine.board
        self.base, self.gsi = board.allocate_virtio()
        irq_fd = board.irqfd(self.gsi)
        thread = lib.iothread_create(self.kind.encode())
        self._thread = Handle(thread, lib.iothread_destroy, f"the I/O thread of {self.kind}")
        transport = lib.virtio_mmio_transport()
        wiring = ffi.new(
            "struct virtio_wiring *", (machine.memory.pointer, thread, transport, irq_fd)
        )
        self._device = Handle(create(wiring), lib.virtio_destroy, f"the {self.kind} device")
        for queue in range(lib.virtio_queue_count(self._c)):
            kick = board.ioeventfd(self.base + lib.VIRTIO_MMIO_NOTIFY, 4, queue)
            lib.virtio_set_kick(self._c, queue, kick)
        self._save_exits()
        handler = ffi.addressof(lib, "virtio_mmio_access")
        error = lib.bus_add(board.mmio, self.base, lib.VIRTIO_MMIO_SIZE, handler, self._c)
        if error:
            reason = "already taken" if error == -errno.EEXIST else os.strerror(-error)
            raise ConfigError(f"{self.kind} at {self.base:#x}: the addresses are {reason}")
        self._attached = True
        machine.add_device(self)

    def _save_exits(self) -> None:
        """Let an interrupt be handled without an exit to the VMM, where KVM can do that.

        The guest reads InterruptStatus, like all registers, from a read-only page. Its
        acknowledgement of a used buffer, the value 1, ends in an eventfd that nobody reads, so that
        bit stays set until a reset. Interrupts are edges, and a driver that finds it set looks at
        its queues, which is what it is for.
        """
        machine = self._machine
        page = int(ffi.cast("uintptr_t", lib.virtio_mmio_page(self._c)))
        slot = machine.board.next_slot()
        try:
            machine.vm.set_memory_region(slot, self.base, lib.VIRTIO_MMIO_PAGE, page, readonly=True)
        except KvmError:
            return  # reads exit, and the handler answers them
        self._slot = slot
        machine.board.ioeventfd(self.base + lib.VIRTIO_MMIO_ACK, 4, 1)

    @property
    def handle(self) -> Handle:
        """The `struct virtio` of the device. Raise StateError once it is closed."""
        assert self._device is not None
        return self._device

    @property
    def _c(self) -> Any:
        return self.handle.pointer

    @property
    def needs_reset(self) -> bool:
        """True once the driver broke the rules: the device does nothing until the driver resets it
        (virtio 1.2, 2.1: DEVICE_NEEDS_RESET).
        """
        with self.handle as device:
            return bool(lib.virtio_status(device) & NEEDS_RESET)

    def stats(self) -> dict[str, int]:
        """Return the counters since the device was made; bytes are payload. `violations` are apart."""
        stats = self._count()
        return {name: int(getattr(stats, name)) for name, _ in _FIELDS if name != "violations"}

    @property
    def violations(self) -> dict[str, int]:
        """How often the driver broke each rule, by the rule's name; those that it kept are left
        out.
        """
        return {
            ffi.string(lib.virtqueue_violation_name(kind)).decode(): int(count)
            for kind, count in enumerate(self._count().violations)
            if count
        }

    def report(self) -> dict[str, Any]:
        """Report as `Device.report` does, with the `violations`."""
        return {**super().report(), "violations": self.violations}

    def _count(self) -> Any:
        stats = ffi.new("struct virtio_stats *")
        with self.handle as device:
            lib.virtio_stats(device, stats)
        return stats

    def close(self) -> None:
        """Close it as `Device.close` does.

        Raise HostError (ETIMEDOUT) where the host does not come to an end with what the thread
        asked it for, as with a disk on a server that is gone.
        """
        super().close()
        if self._attached:
            lib.bus_remove(self._machine.board.mmio, self.base)
            self._attached = False
        if self._slot >= 0:
            self._machine.vm.set_memory_region(self._slot, self.base, 0, 0)
            self._slot = -1
        if self._thread is not None and not self._thread.released:
            with self._thread as thread:
                stopped(lib.iothread_stop(thread, STOP_SECONDS * 1000), self.kind)
        for handle in (self._device, self._thread):
            if handle is not None:
                handle.release()


def stopped(result: int, kind: str) -> None:
    """Check the `result` of freeing a device of that `kind`: 0, or -errno.

    Raise HostError if its thread did not stop.
    """
    if result < 0:
        raise HostError(
            -result,
            f"{kind}: the host is still at a read or a write of it after {STOP_SECONDS} s; its memory is kept, "
            "close() may be called again",
        )


_FIELDS = ffi.typeof("struct virtio_stats").fields
