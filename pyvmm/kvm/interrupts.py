# SPDX-License-Identifier: Apache-2.0
"""The part of a VM that deals with interrupts: controllers in the kernel, routing, eventfds."""

from __future__ import annotations

from pyvmm.errors import ConfigError
from pyvmm.kvm._kvm import ffi, lib
from pyvmm.kvm.descriptor import Descriptor, checked

TYPE_CHECKING = False  # what type checkers take for true; spares an import of typing
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


def irqchip_route(gsi: int, chip: int, pin: int) -> dict[str, Any]:
    """Return a route of a GSI to a pin of KVM_IRQCHIP_PIC_MASTER, _PIC_SLAVE or _IOAPIC."""
    return {
        "gsi": gsi,
        "type": lib.KVM_IRQ_ROUTING_IRQCHIP,
        "u": {"irqchip": {"irqchip": chip, "pin": pin}},
    }


def msi_route(gsi: int, address: int, data: int) -> dict[str, Any]:
    """Return a route of a GSI to a message: the 64-bit address and 32-bit data of a
    message-signalled interrupt.
    """
    msi = {"address_lo": address & 0xFFFFFFFF, "address_hi": address >> 32, "data": data}
    return {"gsi": gsi, "type": lib.KVM_IRQ_ROUTING_MSI, "u": {"msi": msi}}


class Interrupts(Descriptor):
    """The interrupt ioctls of a VM descriptor.

    Each raises KvmError where KVM refuses. api.rst, "VM ioctls", has a section of each name.
    """

    def create_irqchip(self) -> None:
        """Make PICs, I/O APIC and local APICs in the kernel (KVM_CREATE_IRQCHIP), before the first
        vCPU.
        """
        checked(lib.kvm_create_irqchip(self.fd), "KVM_CREATE_IRQCHIP")

    def get_irqchip(self, chip: int) -> Any:
        """Return a `struct kvm_irqchip *` of one controller, KVM_IRQCHIP_PIC_MASTER, _PIC_SLAVE or
        _IOAPIC (KVM_GET_IRQCHIP).
        """
        state = ffi.new("struct kvm_irqchip *", {"chip_id": chip})
        checked(lib.kvm_get_irqchip(self.fd, state), "KVM_GET_IRQCHIP")
        return state

    def set_irqchip(self, state: Any) -> None:
        """Write a `struct kvm_irqchip *`; its `chip_id` says which controller (KVM_SET_IRQCHIP)."""
        checked(lib.kvm_set_irqchip(self.fd, state), "KVM_SET_IRQCHIP")

    def create_pit2(self, flags: int = 0) -> None:
        """Make the i8254 timer in the kernel (KVM_CREATE_PIT2).

        KVM_PIT_SPEAKER_DUMMY adds a stub of the speaker port 0x61.
        """
        config = ffi.new("struct kvm_pit_config *", {"flags": flags})
        checked(lib.kvm_create_pit2(self.fd, config), "KVM_CREATE_PIT2")

    def get_pit2(self) -> Any:
        """Return a `struct kvm_pit_state2 *` of the timer (KVM_GET_PIT2)."""
        state = ffi.new("struct kvm_pit_state2 *")
        checked(lib.kvm_get_pit2(self.fd, state), "KVM_GET_PIT2")
        return state

    def set_pit2(self, state: Any) -> None:
        """Write a `struct kvm_pit_state2 *` (KVM_SET_PIT2)."""
        checked(lib.kvm_set_pit2(self.fd, state), "KVM_SET_PIT2")

    def set_pit_reinjection(self, on: bool) -> None:
        """Set whether timer ticks that the guest missed are made up for (KVM_REINJECT_CONTROL)."""
        control = ffi.new("struct kvm_reinject_control *", {"pit_reinject": on})
        checked(lib.kvm_reinject_control(self.fd, control), "KVM_REINJECT_CONTROL")

    def set_gsi_routing(self, routes: Sequence[Any]) -> None:
        """Replace the whole table: what `irqchip_route` and `msi_route` give, one GSI may have
        several.
        """
        table = ffi.new("struct kvm_irq_routing *", {"nr": len(routes), "entries": list(routes)})
        checked(lib.kvm_set_gsi_routing(self.fd, table), "KVM_SET_GSI_ROUTING")

    def irq_line(self, gsi: int, level: int | bool) -> None:
        """Set the level of an interrupt line (KVM_IRQ_LINE): an edge-triggered one needs 1, then 0."""
        line = ffi.new("struct kvm_irq_level *", {"irq": gsi, "level": int(level)})
        checked(lib.kvm_irq_line(self.fd, line), "KVM_IRQ_LINE", f"GSI {gsi}")

    def irq_line_status(self, gsi: int, level: int | bool) -> int:
        """Set a line as irq_line does (KVM_IRQ_LINE_STATUS).

        Return the number of vCPUs that it went to, 0 for coalesced, -1 for masked.
        """
        line = ffi.new("struct kvm_irq_level *", {"irq": gsi, "level": int(level)})
        checked(lib.kvm_irq_line_status(self.fd, line), "KVM_IRQ_LINE_STATUS", f"GSI {gsi}")
        return int(line.status)

    def signal_msi(self, address: int, data: int, devid: int | None = None) -> bool:
        """Deliver one message-signalled interrupt (KVM_SIGNAL_MSI).

        `address` has 64 bits, `data` 32. Return False when the guest has it blocked.
        """
        msi = ffi.new(
            "struct kvm_msi *",
            {"address_lo": address & 0xFFFFFFFF, "address_hi": address >> 32, "data": data},
        )
        if devid is not None:
            msi.flags = lib.KVM_MSI_VALID_DEVID
            msi.devid = devid
        result = lib.kvm_signal_msi(self.fd, msi)
        return self._offered(result, "KVM_SIGNAL_MSI", lib.KVM_CAP_SIGNAL_MSI, "MSI") > 0

    def irqfd(
        self, fd: int, gsi: int, resample: int | None = None, *, deassign: bool = False
    ) -> None:
        """Tie an eventfd to a GSI: a write raises it (KVM_IRQFD).

        `resample` is signalled when a level-triggered one is acked.
        """
        request = ffi.new("struct kvm_irqfd *", {"fd": fd, "gsi": gsi})
        if deassign:
            request.flags |= lib.KVM_IRQFD_FLAG_DEASSIGN
        if resample is not None:
            request.flags |= lib.KVM_IRQFD_FLAG_RESAMPLE
            request.resamplefd = resample
        detail = f"descriptor {fd}, GSI {gsi}"
        checked(lib.kvm_irqfd_assign(self.fd, request), "KVM_IRQFD", detail)

    def ioeventfd(
        self,
        fd: int,
        addr: int,
        length: int,
        datamatch: int | None = None,
        *,
        pio: bool = False,
        deassign: bool = False,
    ) -> None:
        """Signal an eventfd instead of exiting when the guest writes `length` bytes (0: any) at
        `addr`.

        `datamatch` restricts it to one value; `pio` means a port. Deassign with the same arguments
        (KVM_IOEVENTFD).
        """
        if length not in (0, 1, 2, 4, 8):
            raise ConfigError(
                f"an ioeventfd watches 1, 2, 4 or 8 bytes, or 0 for any, not {length}"
            )
        request = ffi.new("struct kvm_ioeventfd *", {"fd": fd, "addr": addr, "len": length})
        if datamatch is not None:
            request.datamatch = datamatch
            request.flags |= lib.KVM_IOEVENTFD_FLAG_DATAMATCH
        if pio:
            request.flags |= lib.KVM_IOEVENTFD_FLAG_PIO
        if deassign:
            request.flags |= lib.KVM_IOEVENTFD_FLAG_DEASSIGN
        detail = f"{'port' if pio else 'address'} {addr:#x}, {length} bytes"
        checked(lib.kvm_ioeventfd_assign(self.fd, request), "KVM_IOEVENTFD", detail)
