# SPDX-License-Identifier: Apache-2.0
"""The CPUID table of a guest: topology as the processors' manuals define it, and what is hidden."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm import kvm
from pyvmm.machine import cpuid

INTEL = [
    {"function": 0, "eax": 0x1F, "ebx": 0x756E6547},
    {"function": 1, "eax": 0x50654, "ebx": 0x12345678, "ecx": 1 << 5 | 1 << 30, "edx": 0x0F8BFBFF},
    {"function": 4, "index": 0, "flags": 1, "eax": 0xFFFFC121},
    {"function": 4, "index": 1, "flags": 1, "eax": 0xFFFFC143},
    {"function": 4, "index": 2, "flags": 1, "eax": 0xFFFFC163},
    {"function": 4, "index": 3, "flags": 1, "eax": 0},
    {"function": 0xB, "index": 0, "flags": 1, "eax": 99, "ebx": 99, "ecx": 99, "edx": 99},
    {"function": 0x80000000, "eax": 0x80000008},
    {"function": 0x80000001, "ecx": 1, "edx": 1 << 29},
]
AMD = [
    {"function": 0, "eax": 0xD, "ebx": 0x68747541},
    {"function": 1, "eax": 0x800F12, "edx": 0x178BFBFF},
    {"function": 0x80000001, "ecx": 0x4003F7, "edx": 1 << 29},
    {"function": 0x80000008, "eax": 0x3030, "ecx": 0xABCDF3FF},
    {"function": 0x8000000A, "eax": 1, "ebx": 16, "edx": 0xFF},
    {"function": 0x8000001E, "eax": 77, "ebx": 77, "ecx": 77},
]
cpus_and_id = st.integers(1, 300).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n - 1)))


def table(rows: list[dict[str, int]], apic_id: int = 0, cpus: int = 1, **options: Any) -> Any:
    options.setdefault("deadline", True)
    return cpuid.table(kvm.new_cpuid(rows), apic_id, cpus, **options)


def leaf(made: Any, function: int, index: int = 0) -> Any:
    entry = kvm.find_cpuid(made, function, index)
    assert entry is not None, f"no leaf {function:#x}.{index}"
    return entry


@given(st.integers(1, 5000))
def test_apic_id_bits_are_enough_and_no_more(cpus: int) -> None:
    bits = cpuid.apic_id_bits(cpus)
    assert cpus <= 1 << bits
    assert bits == 0 or cpus > 1 << bits - 1


@given(cpus_and_id)
def test_leaf_1(case: tuple[int, int]) -> None:
    cpus, apic_id = case
    entry = leaf(table(INTEL, apic_id, cpus), 1)
    assert entry.ebx & 0xFFFF == 0x5678  # brand and CLFLUSH size stay
    assert entry.ebx >> 24 == apic_id & 0xFF
    assert entry.ebx >> 16 & 0xFF >= min(cpus, 255)
    assert bool(entry.edx & cpuid.HTT) == (cpus > 1)
    assert entry.edx & ~cpuid.HTT == 0x0F8BFBFF & ~cpuid.HTT


@given(cpus_and_id, st.sampled_from([0xB, 0x1F]))
def test_topology_leaves(case: tuple[int, int], function: int) -> None:
    """SDM 2A, CPUID leaf 0BH: shifting the x2APIC id right by EAX gives the id of the next level."""
    cpus, apic_id = case
    made = table(INTEL, apic_id, cpus)
    thread, core, end = (leaf(made, function, index) for index in range(3))
    assert (thread.eax, thread.ebx, thread.ecx) == (0, 1, 0 | cpuid.LEVEL_SMT << 8)
    assert (core.ebx, core.ecx) == (cpus, 1 | cpuid.LEVEL_CORE << 8)
    assert apic_id >> core.eax == 0  # one package
    assert (end.eax, end.ebx, end.ecx) == (0, 0, 2)
    assert {thread.edx, core.edx, end.edx} == {apic_id}


def test_topology_leaves_only_where_the_table_reaches_so_far() -> None:
    made = table(AMD, 0, 2)
    assert kvm.find_cpuid(made, 0xB) is not None
    assert kvm.find_cpuid(made, 0x1F) is None


def test_an_x2apic_has_its_leaf_though_the_table_of_kvm_is_shorter() -> None:
    short = [{"function": 0, "eax": 7, "ebx": 0x68747541}, *AMD[1:]]
    made = table(short, 1, 2)
    assert leaf(made, 0).eax == 0xB
    assert leaf(made, 0).ebx == 0x68747541
    assert leaf(made, 0xB, 1).edx == 1
    assert kvm.find_cpuid(made, 0x1F) is None


@pytest.mark.parametrize(("index", "sharing"), [(0, 0), (1, 0), (2, 7)])
def test_caches(index: int, sharing: int) -> None:
    """The first two levels belong to a core, the third to all eight places of the package."""
    entry = leaf(table(INTEL, 0, 5), 4, index)
    assert entry.eax >> 14 & 0xFFF == sharing
    assert entry.eax >> 26 == 7
    assert entry.eax & 0x3FFF == INTEL[2 + index]["eax"] & 0x3FFF


def test_the_end_of_the_caches_stays_the_end() -> None:
    assert leaf(table(INTEL, 0, 5), 4, 3).eax == 0


@given(cpus_and_id)
def test_amd_sizes(case: tuple[int, int]) -> None:
    """APM volume 3, Fn8000_0008 ECX: cores less one, and the bits of the APIC id."""
    cpus, apic_id = case
    made = table(AMD, apic_id, cpus)
    ecx = leaf(made, 0x80000008).ecx
    assert ecx & 0xFF == min(cpus - 1, 0xFF)
    assert 1 << (ecx >> 12 & 0xF) >= cpus
    assert ecx & ~0xF0FF == 0xABCDF3FF & ~0xF0FF
    identity = leaf(made, 0x8000001E)
    assert (identity.eax, identity.ebx, identity.ecx) == (apic_id, apic_id & 0xFF, 0)
    assert bool(leaf(made, 0x80000001).ecx & cpuid.CMP_LEGACY) == (cpus > 1)


def test_vmx_is_shown_to_those_who_ask() -> None:
    assert not leaf(table(INTEL), 1).ecx & cpuid.VMX
    assert leaf(table(INTEL, nested=True), 1).ecx & cpuid.VMX


def test_svm_is_shown_to_those_who_ask() -> None:
    hidden, shown = table(AMD), table(AMD, nested=True)
    assert not leaf(hidden, 0x80000001).ecx & cpuid.SVM
    svm = leaf(hidden, 0x8000000A)
    assert (svm.eax, svm.ebx, svm.ecx, svm.edx) == (0, 0, 0, 0)
    assert leaf(shown, 0x80000001).ecx & cpuid.SVM
    assert leaf(shown, 0x8000000A).edx == 0xFF


@pytest.mark.parametrize("deadline", [True, False])
def test_timer_and_hypervisor(deadline: bool) -> None:
    ecx = leaf(table(INTEL, deadline=deadline), 1).ecx
    assert bool(ecx & cpuid.TSC_DEADLINE) == deadline
    assert ecx & cpuid.HYPERVISOR
    assert ecx & cpuid.X2APIC


def test_what_kvm_said_is_not_written_to() -> None:
    supported = kvm.new_cpuid(INTEL)
    before = bytes(kvm.ffi.buffer(supported))
    cpuid.table(supported, 3, 4, deadline=True)
    assert bytes(kvm.ffi.buffer(supported)) == before


@given(cpus_and_id, st.sampled_from([INTEL, AMD]), st.booleans())
def test_no_leaf_twice(case: tuple[int, int], rows: list[dict[str, int]], nested: bool) -> None:
    made = table(rows, case[1], case[0], nested=nested)
    names = [(made.entries[i].function, made.entries[i].index) for i in range(made.nent)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(("cpus", "level", "sharing"), [(1, 3, 0), (4, 1, 0), (4, 3, 3), (3, 3, 3)])
def test_amd_cache_leaf_shares_the_last_level_alone(cpus: int, level: int, sharing: int) -> None:
    entry = kvm.ffi.new("struct kvm_cpuid_entry2 *")
    entry.function, entry.eax = 0x8000001D, 1 | level << 5 | 15 << 14
    cpuid.adjust(entry, 1, apic_id=0, cpus=cpus, deadline=False)
    assert entry.eax == 1 | level << 5 | sharing << 14


@pytest.mark.parametrize(
    ("rows", "bits"),
    [
        (AMD, 48),
        (INTEL, 36),
        ([{"function": 0x80000008, "eax": 0x302E}], 46),
        ([{"function": 0x80000008, "eax": 0x303034}], 48),
        ([{"function": 0x80000008, "eax": 0x34302E}], 46),
    ],
)
def test_physical_address_width(rows: list[dict[str, int]], bits: int) -> None:
    """Of the processor, or what KVM can map of it if that is less."""
    assert cpuid.address_bits(table(rows)) == bits
