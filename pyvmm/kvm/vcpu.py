# SPDX-License-Identifier: Apache-2.0
"""A vCPU descriptor: running it, the structure it shares with the kernel, its rings."""

from __future__ import annotations

from errno import EAGAIN, EINTR

from pyvmm.errors import ConfigError, StateError
from pyvmm.kvm._kvm import ffi, lib
from pyvmm.kvm.descriptor import capability_name, checked
from pyvmm.kvm.errors import KvmCapabilityMissing, error_of
from pyvmm.kvm.state import State

TYPE_CHECKING = False  # what type checkers take for true; spares an import of typing
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from pyvmm.kvm.vm import Vm

PAGE = 4096
BATCH = 256  # ring entries taken a call


def _unmapper(size: int) -> Callable[[Any], None]:
    unmap = lib.kvm_unmap  # held here: the module may be gone when the interpreter ends

    def drop(mapping: Any) -> None:
        unmap(mapping, size)

    return drop


def _mapped(fd: int, offset: int, size: int, kind: str) -> Any:
    """Map a part of the descriptor. The mapping goes when the last reference to the result does."""
    address = ffi.new("void **")
    checked(
        lib.kvm_map(fd, offset, size, address), "mmap", f"{size} bytes of a vCPU at {offset:#x}"
    )
    return ffi.gc(ffi.cast(kind, address[0]), _unmapper(size), size)


class Vcpu(State):
    """One virtual processor; made by Vm.create_vcpu. api.rst, "vcpu ioctls".

    `run` is a `struct kvm_run *` of `run_size` bytes, shared with the kernel. It stays mapped after
    close() for as long as someone holds the pointer itself; a nested structure taken from it
    (`run.io`) does not count. The kernel expects all calls of a vCPU from the thread that runs it,
    or while it does not run.
    """

    def __init__(self, vm: Vm, fd: int, id: int, run_size: int) -> None:
        super().__init__(fd)
        self.vm = vm
        self.id = id
        self.run_size = run_size
        self._run: Any = None
        self._ring: Any = None
        self._ring_entries = 0
        self._ring_next: Any = None
        try:
            self._run = _mapped(fd, 0, run_size, "struct kvm_run *")
            if vm.dirty_ring_size:
                self._map_ring(vm.dirty_ring_size)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the descriptor and let go of the mappings.

        It must not be running in another thread.
        """
        self._run = None
        self._ring = None
        super().close()

    def check_extension(self, capability: int) -> int:
        """Ask Vm.check_extension, as KVM answers KVM_CHECK_EXTENSION for no vCPU descriptor."""
        return self.vm.check_extension(capability)

    def enable_cap(self, capability: int, *args: int) -> None:
        """Enable one of the few capabilities that are a vCPU's own (KVM_ENABLE_CAP): Hyper-V, PV
        CPUID, ...
        """
        request = ffi.new("struct kvm_enable_cap *", {"cap": capability})
        for i, value in enumerate(args):
            request.args[i] = value
        result = lib.kvm_enable_cap(self.fd, request)
        if result < 0 and self.check_extension(capability) <= 0:
            raise KvmCapabilityMissing(capability_name(capability))
        checked(result, "KVM_ENABLE_CAP", f"{capability_name(capability)}{tuple(args)}")

    # Running

    @property
    def run(self) -> Any:
        """The shared `struct kvm_run *`. Raise StateError after close()."""
        if self._run is None:
            raise StateError(f"vCPU {self.id} is closed: its shared area is gone")
        return self._run

    @property
    def run_address(self) -> int:
        """The address of `run` as a number, for C code of another extension module."""
        return int(ffi.cast("uintptr_t", self.run))

    def enter(self) -> int:
        """Run the guest until an exit (KVM_RUN), without the GIL.

        Return 0 when `run.exit_reason` tells why it came back, EINTR for a signal or
        `immediate_exit`, EAGAIN for a vCPU that was waiting for INIT and now is to be entered
        again.
        """
        result = lib.kvm_enter(self.fd)
        if result >= 0:
            return 0
        if result in (-EINTR, -EAGAIN):
            return -int(result)
        raise error_of("KVM_RUN", -result, f"vCPU {self.id}")

    @property
    def immediate_exit(self) -> bool:
        """True if the next enter() completes pending work and comes back with EINTR before any
        guest code.
        """
        return bool(self.run.immediate_exit)

    @immediate_exit.setter
    def immediate_exit(self, on: bool) -> None:
        self.run.immediate_exit = on

    def io_data(self) -> memoryview:
        """Return the data of a KVM_EXIT_IO, writable for an input: `size` times `count` bytes of
        the shared area.

        Raise StateError after any other exit.
        """
        run = self.run
        offset, length = run.io.data_offset, run.io.size * run.io.count
        if run.exit_reason != lib.KVM_EXIT_IO or offset + length > self.run_size:
            raise StateError(f"vCPU {self.id}: the last exit was not a port access")
        return memoryview(ffi.buffer(run, self.run_size))[offset : offset + length]

    def set_signal_mask(self, blocked: Iterable[int] | None) -> None:
        """Set the signals blocked while the guest runs (KVM_SET_SIGNAL_MASK); None: as the thread
        has it.
        """
        if blocked is None:
            checked(lib.kvm_set_signal_mask(self.fd, ffi.NULL), "KVM_SET_SIGNAL_MASK")
            return
        bits = 0
        for number in blocked:
            if not 1 <= number <= 64:
                raise ConfigError(f"there is no signal {number}: they are 1 to 64")
            bits |= 1 << (number - 1)
        mask = ffi.new("struct kvm_signal_mask *", {"sigset": list(bits.to_bytes(8, "little"))})
        mask.len = 8
        checked(lib.kvm_set_signal_mask(self.fd, mask), "KVM_SET_SIGNAL_MASK")

    # Registers shared through `run`

    @property
    def sync_valid(self) -> int:
        """KVM_SYNC_X86_ bits of what KVM stores in `sync_regs` at each exit."""
        return int(self.run.kvm_valid_regs)

    @sync_valid.setter
    def sync_valid(self, fields: int) -> None:
        offered = self.check_extension(lib.KVM_CAP_SYNC_REGS)
        if fields & ~offered:
            raise KvmCapabilityMissing("KVM_CAP_SYNC_REGS", f"sharing registers {fields:#x}")
        self.run.kvm_valid_regs = fields

    @property
    def sync_dirty(self) -> int:
        """KVM_SYNC_X86_ bits of what the next enter() takes from `sync_regs`; KVM clears them."""
        return int(self.run.kvm_dirty_regs)

    @sync_dirty.setter
    def sync_dirty(self, fields: int) -> None:
        self.run.kvm_dirty_regs = fields

    @property
    def sync_regs(self) -> Any:
        """The shared `struct kvm_sync_regs`: regs, sregs, events.

        Valid as long as the vCPU is open.
        """
        return self.run.s.regs

    # Rings

    def _map_ring(self, size: int) -> None:
        offset = lib.KVM_DIRTY_LOG_PAGE_OFFSET * PAGE
        self._ring = _mapped(self.fd, offset, size, "struct kvm_dirty_gfn *")
        self._ring_entries = size // ffi.sizeof("struct kvm_dirty_gfn")
        self._ring_next = ffi.new("unsigned int *")

    def take_dirty(self) -> list[tuple[int, int]]:
        """Empty the dirty ring: (slot, page number in the slot), oldest first.

        See Vm.enable_dirty_ring; api.rst, KVM_CAP_DIRTY_LOG_RING.
        """
        if self._ring is None:
            raise StateError("there is no dirty ring: Vm.enable_dirty_ring before making the vCPU")
        out = ffi.new("struct kvm_dirty_gfn[]", BATCH)
        pages: list[tuple[int, int]] = []
        while True:
            taken = lib.kvm_dirty_ring_take(
                self._ring, self._ring_entries, self._ring_next, out, BATCH
            )
            pages += [(out[i].slot, out[i].offset) for i in range(taken)]
            if taken < BATCH:
                return pages

    def take_coalesced(self) -> list[tuple[int, bytes, bool]]:
        """Empty the VM's ring of batched writes: (address, data, is a port), oldest first.

        See Vm.coalesce; api.rst, KVM_REGISTER_COALESCED_MMIO.
        """
        offset = lib.KVM_COALESCED_MMIO_PAGE_OFFSET * PAGE
        if offset + PAGE > self.run_size:
            raise KvmCapabilityMissing("KVM_CAP_COALESCED_MMIO", "coalesced writes")
        base = ffi.cast("char *", self.run) + offset
        ring = ffi.cast("struct kvm_coalesced_mmio_ring *", base)
        out = ffi.new("struct kvm_coalesced_mmio[]", BATCH)
        taken = lib.kvm_coalesced_take(ring, PAGE, out, BATCH)
        return [
            (row.phys_addr, bytes(ffi.buffer(row.data))[: row.len], bool(row.pio))
            for row in (out[i] for i in range(taken))
        ]

    # The rest

    @property
    def nested_state_size(self) -> int:
        """Bytes of the largest nested state, 0 where this KVM runs no guest hypervisors."""
        return self.check_extension(lib.KVM_CAP_NESTED_STATE)

    def get_nested_state(self) -> bytes:
        """Return the state of a guest hypervisor, opaque (KVM_GET_NESTED_STATE).

        Raise KvmCapabilityMissing where there is none.
        """
        size = self.vm.require(lib.KVM_CAP_NESTED_STATE, "nested virtualisation")
        room = ffi.new("__u64[]", (size + 7) // 8)
        state = ffi.cast("struct kvm_nested_state *", room)
        state.size = size
        checked(lib.kvm_get_nested_state(self.fd, state), "KVM_GET_NESTED_STATE")
        return bytes(ffi.buffer(room, state.size))

    def set_nested_state(self, state: bytes) -> None:
        """Write what get_nested_state gave (KVM_SET_NESTED_STATE)."""
        self.vm.require(lib.KVM_CAP_NESTED_STATE, "nested virtualisation")
        if len(state) < ffi.sizeof("struct kvm_nested_state"):
            raise ConfigError(f"{len(state)} bytes are too few for a nested state")
        room = ffi.new("__u64[]", (len(state) + 7) // 8)
        ffi.memmove(room, state, len(state))
        request = ffi.cast("struct kvm_nested_state *", room)
        if request.size > len(state):
            raise ConfigError(f"the nested state says {request.size} bytes and has {len(state)}")
        checked(lib.kvm_set_nested_state(self.fd, request), "KVM_SET_NESTED_STATE")

    def stats_fd(self) -> int:
        """Return a new descriptor of the vCPU's binary statistics; the caller closes it
        (KVM_GET_STATS_FD).
        """
        result = lib.kvm_get_stats_fd(self.fd)
        return self._offered(result, "KVM_GET_STATS_FD", lib.KVM_CAP_BINARY_STATS_FD, "statistics")
