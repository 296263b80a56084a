# SPDX-License-Identifier: Apache-2.0
"""The compiled module: layouts, constants, its stub, the cost of importing it, the rings' C code."""

from __future__ import annotations

import ast
import errno
import re
import subprocess
import sys
from typing import Any

import pytest

from pyvmm import kvm
from pyvmm.kvm import ffi, lib
from pyvmm.kvm.cpuid import read_cpuid
from tests.support.tree import ROOT

PAGE = 4096

# Sizes fixed by the kernel's ABI: the size is part of each ioctl's number.
SIZES = {
    "kvm_regs": 144,
    "kvm_sregs": 312,
    "kvm_sregs2": 320,
    "kvm_fpu": 416,
    "kvm_xsave": 4096,
    "kvm_xcrs": 392,
    "kvm_debugregs": 128,
    "kvm_vcpu_events": 64,
    "kvm_lapic_state": 1024,
    "kvm_irqchip": 520,
    "kvm_pit_state2": 112,
    "kvm_clock_data": 48,
    "kvm_userspace_memory_region": 32,
    "kvm_irqfd": 32,
    "kvm_ioeventfd": 64,
    "kvm_msi": 32,
    "kvm_irq_routing_entry": 48,
    "kvm_cpuid_entry2": 40,
    "kvm_enable_cap": 104,
    "kvm_guest_debug": 72,
    "kvm_dirty_gfn": 16,
}


def test_every_structure_fits_the_headers() -> None:
    # cffi compares a declaration with the compiler's layout when it is first used, and raises on a difference.
    _, structs, unions = ffi.list_types()
    names = [f"struct {name}" for name in structs] + [f"union {name}" for name in unions]
    assert len(names) > 50
    for name in names:
        assert ffi.sizeof(name) > 0


@pytest.mark.parametrize(("name", "size"), SIZES.items())
def test_size(name: str, size: int) -> None:
    assert ffi.sizeof(f"struct {name}") == size


def test_offsets_in_the_shared_area() -> None:
    assert ffi.offsetof("struct kvm_run", "immediate_exit") == 1
    assert ffi.offsetof("struct kvm_run", "exit_reason") == 8
    assert ffi.offsetof("struct kvm_run", "io") == 32
    assert ffi.offsetof("struct kvm_run", "mmio", "is_write") == 32 + 20
    assert ffi.offsetof("struct kvm_run", "msr", "data") == 32 + 16
    assert ffi.offsetof("struct kvm_run", "system_event", "data") == 32 + 8
    assert ffi.offsetof("struct kvm_run", "kvm_valid_regs") == 32 + 256
    assert ffi.offsetof("struct kvm_run", "s") == 32 + 256 + 16


def test_constants() -> None:
    assert kvm.KVM_EXIT_IO == 2
    assert kvm.KVM_CAP_SYNC_REGS == 74
    assert kvm.KVM_CAP_X86_USER_SPACE_MSR == 188
    assert kvm.KVM_EXIT_MEMORY_FAULT == 39
    assert kvm.PF_VECTOR == 14
    assert "KVM_EXIT_IO" in dir(kvm)
    with pytest.raises(AttributeError, match="KVM_CAP_NONSENSE"):
        kvm.KVM_CAP_NONSENSE  # noqa: B018
    with pytest.raises(AttributeError, match="nonsense"):
        kvm.nonsense  # noqa: B018


def test_every_public_name_exists() -> None:
    for name in kvm.__all__:
        assert hasattr(kvm, name)


def test_stub_lists_what_the_module_has() -> None:
    tree = ast.parse((ROOT / "pyvmm/kvm/_kvm.pyi").read_text())
    (body,) = (node.body for node in tree.body if isinstance(node, ast.ClassDef))
    listed = set()
    for node in body:
        if isinstance(node, ast.AnnAssign):
            assert isinstance(node.target, ast.Name)
            listed.add(node.target.id)
        else:
            assert isinstance(node, ast.FunctionDef)
            listed.add(node.name)
    assert listed == set(dir(lib))


def test_headers_are_all_in_the_order() -> None:
    folder = ROOT / "csrc/kvm"
    order = (folder / "ORDER").read_text().split()
    assert sorted(order) == sorted(path.name for path in folder.glob("*.h"))


HEAVY = {
    "argparse",
    "asyncio",
    "cffi",
    "ctypes",
    "dataclasses",
    "inspect",
    "json",
    "logging",
    "mmap",
    "pathlib",
    "subprocess",
    "tempfile",
    "threading",
}


def test_import_stays_cheap() -> None:
    """Start-up time is counted inside slow machines: the compiled bindings need their own backend, not cffi."""
    path = [str(ROOT), *(each for each in sys.path if each)]
    code = f"import sys; sys.path[:] = {path!r}; import pyvmm.kvm; print(*sys.modules)"
    shown = subprocess.run(
        [sys.executable, "-S", "-c", code], check=True, capture_output=True, text=True
    )
    assert "_cffi_backend" in shown.stdout.split()
    assert not HEAVY & set(shown.stdout.split())


# Helpers on tables


def test_dirty_pages() -> None:
    assert list(kvm.dirty_pages(bytes([0b101, 0, 0x80]))) == [0, 2, 23]
    assert list(kvm.dirty_pages(bytes(8))) == []


def test_cpuid_table() -> None:
    table = kvm.new_cpuid(
        [
            {"function": 0, "eax": 7},
            {"function": 7, "index": 0, "flags": 1, "ebx": 1},
            {"function": 7, "index": 1, "flags": 1, "ebx": 2},
        ]
    )
    assert table.nent == 3
    assert kvm.find_cpuid(table, 0, 5).eax == 7
    assert kvm.find_cpuid(table, 7, 1).ebx == 2
    assert kvm.find_cpuid(table, 7, 2) is None
    assert kvm.find_cpuid(table, 1) is None
    kvm.find_cpuid(table, 7).ebx = 9
    copy = kvm.new_cpuid(table.entries[i] for i in range(table.nent))
    assert [copy.entries[i].ebx for i in range(3)] == [0, 9, 2]


def test_cpuid_table_of_a_kernel_that_keeps_the_count() -> None:
    def get(fd: int, table: Any) -> int:
        if table.nent < 100:
            return -errno.E2BIG
        for i in range(100):
            table.entries[i] = {"function": i, "index": 0, "flags": 0}
        return 0

    table = read_cpuid(-1, get, "KVM_GET_CPUID2")
    assert table.nent == 100
    assert kvm.find_cpuid(table, 99) is not None
    assert kvm.find_cpuid(table, 0xFFFFFFFF) is None


def test_cpuid_table_that_never_fits() -> None:
    with pytest.raises(kvm.KvmError, match="KVM_GET_CPUID2 failed: E2BIG"):
        read_cpuid(-1, lambda fd, table: -errno.E2BIG, "KVM_GET_CPUID2")


def test_msr_range_fills_its_row() -> None:
    row = ffi.new("struct kvm_msr_filter_range *")
    held = kvm.MsrRange(0x534, 10, write=False).fill(row)
    assert (row.base, row.nmsrs, row.flags) == (0x534, 10, lib.KVM_MSR_FILTER_READ)
    assert bytes(held) == bytes(2)
    held = kvm.MsrRange(0x10, 8, allow=b"\x5a\xff").fill(row)
    assert bytes(held) == b"\x5a"


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ((0x10, 0), {}, "1 to 12288 MSRs, not 0"),
        ((0x10, -8), {}, "not -8"),
        ((0x10, 12289), {}, "not 12289"),
        ((0xFFFFFFFF, 2), {}, "32-bit"),
        ((-1, 2), {}, "32-bit"),
        ((0x10, 1), {"read": False, "write": False}, "neither"),
        ((0x10, 9), {"allow": b"\xff"}, "has 1 bytes, it needs 2"),
    ],
)
def test_msr_range_refuses(arguments: tuple[int, int], options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        kvm.MsrRange(*arguments, **options)


def test_routes() -> None:
    rows = [kvm.irqchip_route(4, lib.KVM_IRQCHIP_IOAPIC, 4), kvm.msi_route(24, 0x1_FEE00000, 0x41)]
    table = ffi.new("struct kvm_irq_routing *", {"nr": 2, "entries": rows})
    assert table.entries[0].u.irqchip.pin == 4
    msi = table.entries[1].u.msi
    assert (msi.address_hi, msi.address_lo, msi.data) == (1, 0xFEE00000, 0x41)


# Rings, on memory of our own


def test_dirty_ring_wraps_and_marks() -> None:
    ring = ffi.new("struct kvm_dirty_gfn[]", 4)
    position = ffi.new("unsigned int *", 0xFFFFFFFE)  # also across the counter's own wrap: entry 2
    out = ffi.new("struct kvm_dirty_gfn[]", 8)
    for at, offset in ((2, 20), (3, 30), (0, 40)):
        ring[at] = {"flags": lib.KVM_DIRTY_GFN_F_DIRTY, "slot": 1, "offset": offset}
    assert lib.kvm_dirty_ring_take(ring, 4, position, out, 8) == 3
    assert [out[i].offset for i in range(3)] == [20, 30, 40]
    assert position[0] == 1
    assert [ring[i].flags for i in (2, 3, 0, 1)] == [lib.KVM_DIRTY_GFN_F_RESET] * 3 + [0]
    assert lib.kvm_dirty_ring_take(ring, 4, position, out, 8) == 0


def test_dirty_ring_stops_at_the_limit() -> None:
    ring = ffi.new("struct kvm_dirty_gfn[]", 4)
    for i in range(4):
        ring[i].flags = lib.KVM_DIRTY_GFN_F_DIRTY
    position = ffi.new("unsigned int *")
    out = ffi.new("struct kvm_dirty_gfn[]", 2)
    assert lib.kvm_dirty_ring_take(ring, 4, position, out, 2) == 2
    assert lib.kvm_dirty_ring_take(ring, 4, position, out, 2) == 2
    assert lib.kvm_dirty_ring_take(ring, 4, position, out, 2) == 0


def coalesced_ring() -> tuple[Any, Any, int]:
    page = ffi.new("char[]", PAGE)
    ring = ffi.cast("struct kvm_coalesced_mmio_ring *", page)
    return page, ring, (PAGE - 8) // ffi.sizeof("struct kvm_coalesced_mmio")


def test_coalesced_ring_wraps() -> None:
    page, ring, size = coalesced_ring()
    out = ffi.new("struct kvm_coalesced_mmio[]", size)
    ring.first, ring.last = size - 1, 1
    ring.coalesced_mmio[size - 1].phys_addr = 0x1000
    ring.coalesced_mmio[0].phys_addr = 0x2000
    assert lib.kvm_coalesced_take(ring, PAGE, out, size) == 2
    assert [out[i].phys_addr for i in range(2)] == [0x1000, 0x2000]
    assert (ring.first, ring.last) == (1, 1)
    assert len(page) == PAGE


def test_coalesced_ring_reduces_wild_indices() -> None:
    page, ring, size = coalesced_ring()
    out = ffi.new("struct kvm_coalesced_mmio[]", 2 * size)
    ring.first, ring.last = 0xFFFFFFFF, 0xFFFFFFF0
    assert lib.kvm_coalesced_take(ring, PAGE, out, 2 * size) < size
    assert len(page) == PAGE
