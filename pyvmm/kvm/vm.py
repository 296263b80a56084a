# SPDX-License-Identifier: Apache-2.0
"""A VM descriptor: memory slots, capabilities, clocks, and the vCPUs it makes."""

from __future__ import annotations

from errno import EBUSY, EEXIST, EINVAL

from pyvmm.errors import ConfigError
from pyvmm.kvm._kvm import ffi, lib
from pyvmm.kvm.descriptor import capability_name, checked
from pyvmm.kvm.errors import KvmCapabilityMissing, error_of
from pyvmm.kvm.interrupts import Interrupts
from pyvmm.kvm.vcpu import PAGE, Vcpu

TYPE_CHECKING = False  # what type checkers take for true; spares an import of typing
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any, TypeVar

    from pyvmm.kvm.msr import MsrRange

    AnyVcpu = TypeVar("AnyVcpu", bound=Vcpu)


def dirty_pages(bitmap: bytes) -> Iterator[int]:
    """Yield the page numbers, from the start of the slot, whose bits are set."""
    for at, byte in enumerate(bitmap):
        while byte:
            low = byte & -byte
            yield at * 8 + low.bit_length() - 1
            byte ^= low


class Vm(Interrupts):
    """A virtual machine in the kernel; made by Kvm.create_vm. api.rst, "VM ioctls".

    Each method raises KvmError where KVM refuses. Addresses and sizes are in bytes.

    The kernel keeps the machine until its vCPUs are closed as well.
    """

    def __init__(self, fd: int, run_size: int) -> None:
        super().__init__(fd)
        self._run_size = run_size
        self._slots: dict[int, int] = {}  # slot -> bytes; sizes the bitmaps of the dirty log
        self.dirty_ring_size = 0  # bytes a vCPU, once enabled

    def create_vcpu(self, id: int, kind: type[AnyVcpu] = Vcpu) -> AnyVcpu:  # type: ignore[assignment]
        """Return a new vCPU; `id` is its local APIC id (KVM_CREATE_VCPU), `kind` a class of the
        caller's for it.
        """
        fd = checked(lib.kvm_create_vcpu(self.fd, id), "KVM_CREATE_VCPU", f"vCPU {id}")
        return kind(self, fd, id, self._run_size)

    def set_boot_cpu_id(self, id: int) -> None:
        """Set which vCPU starts by itself; the others wait for INIT and SIPI. Default 0; before the
        first vCPU (KVM_SET_BOOT_CPU_ID).
        """
        checked(lib.kvm_set_boot_cpu_id(self.fd, id), "KVM_SET_BOOT_CPU_ID", f"vCPU {id}")

    # Memory

    def set_memory_region(
        self,
        slot: int,
        gpa: int,
        size: int,
        hva: int,
        *,
        readonly: bool = False,
        log_dirty: bool = False,
    ) -> None:
        """Back `size` bytes of guest memory at `gpa` with this process's memory at `hva`; size 0
        deletes (KVM_SET_USER_MEMORY_REGION).

        All three are whole pages. The memory must stay mapped as long as the slot exists. With
        `readonly`, a guest write exits as MMIO.
        """
        region = ffi.new("struct kvm_userspace_memory_region *")
        region.slot = slot
        region.guest_phys_addr = gpa
        region.memory_size = size
        region.userspace_addr = hva
        if readonly:
            region.flags |= lib.KVM_MEM_READONLY
        if log_dirty:
            region.flags |= lib.KVM_MEM_LOG_DIRTY_PAGES
        result = lib.kvm_set_user_memory_region(self.fd, region)
        if result < 0 and readonly:
            self.require(lib.KVM_CAP_READONLY_MEM, "read-only memory")
        checked(
            result, "KVM_SET_USER_MEMORY_REGION", f"slot {slot}, {size:#x} bytes at guest {gpa:#x}"
        )
        if size:
            self._slots[slot] = size
        else:
            self._slots.pop(slot, None)

    def delete_memory_region(self, slot: int) -> None:
        """Take a slot out of the guest. Raise KvmError for one that does not exist."""
        self.set_memory_region(slot, 0, 0, 0)

    def set_tss_addr(self, gpa: int) -> None:
        """Name three pages below 4 GiB that KVM may use for real mode on Intel; unused by the
        guest (KVM_SET_TSS_ADDR).
        """
        checked(lib.kvm_set_tss_addr(self.fd, gpa), "KVM_SET_TSS_ADDR", f"{gpa:#x}")

    def set_identity_map_addr(self, gpa: int) -> None:
        """Name one page below 4 GiB for KVM's identity page table on Intel, before the first
        vCPU (KVM_SET_IDENTITY_MAP_ADDR).
        """
        address = ffi.new("__u64 *", gpa)
        checked(
            lib.kvm_set_identity_map_addr(self.fd, address),
            "KVM_SET_IDENTITY_MAP_ADDR",
            f"{gpa:#x}",
        )

    def coalesce(self, addr: int, size: int, *, pio: bool = False, remove: bool = False) -> None:
        """Batch writes to an MMIO (or port) range instead of exiting; Vcpu.take_coalesced() gives
        them (KVM_REGISTER_COALESCED_MMIO, or its counterpart to `remove` the range).
        """
        zone = ffi.new("struct kvm_coalesced_mmio_zone *", {"addr": addr, "size": size})
        zone.pio = pio
        request = lib.kvm_unregister_coalesced_mmio if remove else lib.kvm_register_coalesced_mmio
        name = f"KVM_{'UN' if remove else ''}REGISTER_COALESCED_MMIO"
        capability = lib.KVM_CAP_COALESCED_PIO if pio else lib.KVM_CAP_COALESCED_MMIO
        self._offered(request(self.fd, zone), name, capability, "coalesced writes")

    # Dirty pages

    def _slot_pages(self, slot: int) -> int:
        if slot not in self._slots:
            raise ConfigError(f"memory slot {slot} is not set: set_memory_region first")
        return self._slots[slot] // PAGE

    def get_dirty_log(self, slot: int) -> bytes:
        """Return a bitmap, one bit a page written since the last call, lowest bit first; see
        `dirty_pages`.

        Also resets the log, unless KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 is enabled
        (KVM_GET_DIRTY_LOG).
        """
        size = (self._slot_pages(slot) + 63) // 64 * 8
        bitmap = ffi.new("__u8[]", size)
        log = ffi.new("struct kvm_dirty_log *", {"slot": slot})
        log.dirty_bitmap = bitmap
        checked(lib.kvm_get_dirty_log(self.fd, log), "KVM_GET_DIRTY_LOG", f"slot {slot}")
        return bytes(ffi.buffer(bitmap))

    def clear_dirty_log(self, slot: int, bitmap: bytes, first_page: int = 0) -> None:
        """Re-arm the pages whose bits are set: for KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, when
        get_dirty_log does not.

        `first_page` is a multiple of 64; the bitmap covers whole groups of 64 pages or reaches the
        slot's end (KVM_CLEAR_DIRTY_LOG).
        """
        total = self._slot_pages(slot)
        pages = min(len(bitmap) * 8, total - first_page)
        if first_page < 0 or first_page % 64 or pages <= 0:
            raise ConfigError(
                f"the dirty log of slot {slot} ({total} pages) is cleared from a multiple of 64 on, "
                f"not from page {first_page} with {len(bitmap)} bytes of bitmap"
            )
        held = ffi.from_buffer(bitmap + bytes(-len(bitmap) % 8))
        log = ffi.new("struct kvm_clear_dirty_log *", {"slot": slot, "num_pages": pages})
        log.first_page = first_page
        log.dirty_bitmap = held
        self._offered(
            lib.kvm_clear_dirty_log(self.fd, log),
            "KVM_CLEAR_DIRTY_LOG",
            lib.KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
            "clearing the dirty log by hand",
        )

    def enable_dirty_ring(self, size: int) -> None:
        """Log dirty pages in a ring of `size` bytes a vCPU instead of bitmaps.

        Before the first vCPU.

        `size` is a power of two, at least a page. Raise KvmCapabilityMissing where there are no
        rings.
        """
        ordered = self.check_extension(lib.KVM_CAP_DIRTY_LOG_RING_ACQ_REL)
        capability = lib.KVM_CAP_DIRTY_LOG_RING_ACQ_REL if ordered else lib.KVM_CAP_DIRTY_LOG_RING
        most = self.require(capability, "dirty rings")
        if size < PAGE or size & (size - 1) or size > most:
            raise ConfigError(
                f"a dirty ring has a power of two of bytes from {PAGE} to {most}, not {size}"
            )
        self.enable_cap(capability, size)
        self.dirty_ring_size = size

    def reset_dirty_rings(self) -> int:
        """Write-protect again what Vcpu.take_dirty() gave.

        Return the number of pages (KVM_RESET_DIRTY_RINGS). Stop logging first.
        """
        return self._offered(
            lib.kvm_reset_dirty_rings(self.fd),
            "KVM_RESET_DIRTY_RINGS",
            lib.KVM_CAP_DIRTY_LOG_RING,
            "dirty rings",
        )

    # Capabilities

    def enable_cap(self, capability: int, *args: int, flags: int = 0) -> int:
        """Enable a capability (KVM_ENABLE_CAP) with up to four arguments.

        Raise KvmCapabilityMissing for one that is not offered.
        """
        request = ffi.new("struct kvm_enable_cap *", {"cap": capability, "flags": flags})
        for i, value in enumerate(args):
            request.args[i] = value
        result = lib.kvm_enable_cap(self.fd, request)
        if result >= 0:
            return result
        name = capability_name(capability)
        if self.check_extension(capability) <= 0:
            raise KvmCapabilityMissing(name)
        error = error_of("KVM_ENABLE_CAP", -result, f"{name}{tuple(args)}")
        if -result in (EINVAL, EBUSY, EEXIST):
            error.remedy = "The arguments are not acceptable, or it is too late: many must precede the first vCPU."
        raise error

    def enable_split_irqchip(self, pins: int = 24) -> None:
        """Make local APICs in the kernel; I/O APIC (of so many pins) and PIC are in user space.

        Before the first vCPU.
        """
        self.enable_cap(lib.KVM_CAP_SPLIT_IRQCHIP, pins)

    def set_msr_filter(self, ranges: Sequence[MsrRange] = (), default_allow: bool = True) -> None:
        """Set which MSR accesses KVM handles (KVM_X86_SET_MSR_FILTER); no ranges and True removes
        the filter.

        Combine with enable_cap(KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_FILTER) to get the
        denied ones as exits. x2APIC registers (0x800 to 0x8FF) are never filtered.
        """
        if len(ranges) > lib.KVM_MSR_FILTER_MAX_RANGES:
            raise ConfigError(
                f"an MSR filter has at most {lib.KVM_MSR_FILTER_MAX_RANGES} ranges, not {len(ranges)}"
            )
        table = ffi.new("struct kvm_msr_filter *")
        if not default_allow:
            table.flags = lib.KVM_MSR_FILTER_DEFAULT_DENY
        held = [each.fill(table.ranges[i]) for i, each in enumerate(ranges)]
        result = lib.kvm_x86_set_msr_filter(self.fd, table)
        del held
        capability = lib.KVM_CAP_X86_MSR_FILTER
        self._offered(result, "KVM_X86_SET_MSR_FILTER", capability, "filtering MSRs")

    # Clocks

    def get_clock(self) -> Any:
        """Return a `struct kvm_clock_data *` of the paravirtual clock, in nanoseconds
        (KVM_GET_CLOCK).
        """
        clock = ffi.new("struct kvm_clock_data *")
        checked(lib.kvm_get_clock(self.fd, clock), "KVM_GET_CLOCK")
        return clock

    def set_clock(self, clock: Any) -> None:
        """Write a `struct kvm_clock_data *` (KVM_SET_CLOCK); of its flags only KVM_CLOCK_REALTIME may
        be set.
        """
        checked(lib.kvm_set_clock(self.fd, clock), "KVM_SET_CLOCK")

    def get_tsc_khz(self) -> int:
        """Return the TSC rate that new vCPUs get, in kHz (KVM_GET_TSC_KHZ)."""
        return checked(lib.kvm_get_tsc_khz(self.fd), "KVM_GET_TSC_KHZ")

    def set_tsc_khz(self, khz: int) -> None:
        """Give new vCPUs this TSC rate, in kHz (KVM_SET_TSC_KHZ). Before the first vCPU.

        Without KVM_CAP_TSC_CONTROL the number is kept, and a vCPU's counter may still run at the
        host's rate.
        """
        checked(lib.kvm_set_tsc_khz(self.fd, khz), "KVM_SET_TSC_KHZ", f"{khz} kHz")

    def stats_fd(self) -> int:
        """Return a new descriptor of the VM's binary statistics; the caller closes it
        (KVM_GET_STATS_FD).
        """
        return self._offered(
            lib.kvm_get_stats_fd(self.fd),
            "KVM_GET_STATS_FD",
            lib.KVM_CAP_BINARY_STATS_FD,
            "statistics",
        )
