# SPDX-License-Identifier: Apache-2.0
"""The CPUID table a guest sees: what KVM supports, with the topology of this machine put in.

Sources: Intel SDM volume 2A (CPUID), AMD APM volume 3 appendix E,
Documentation/virt/kvm/x86/cpuid.rst.
"""

from __future__ import annotations

from collections.abc import Sequence

from pyvmm import kvm

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

HYPERVISOR = 1 << 31  # leaf 1 ECX
TSC_DEADLINE = 1 << 24  # leaf 1 ECX
VMX = 1 << 5  # leaf 1 ECX
HTT = 1 << 28  # leaf 1 EDX
X2APIC = 1 << 21  # leaf 1 ECX
SVM = 1 << 2  # leaf 0x8000_0001 ECX
CMP_LEGACY = 1 << 1  # leaf 0x8000_0001 ECX
GIB_PAGES = 1 << 26  # leaf 0x8000_0001 EDX

TOPOLOGY, TOPOLOGY_V2 = 0xB, 0x1F  # leaves of threads and cores by APIC id
LEVEL_SMT = 1
LEVEL_CORE = 2


def apic_id_bits(cpus: int) -> int:
    """Return how many bits of the APIC id tell `cpus` single-threaded cores of one package apart."""
    return max(cpus - 1, 0).bit_length()


def _leaf_1(entry: Any, apic_id: int, cpus: int, deadline: bool, nested: bool) -> None:
    logical = min(1 << apic_id_bits(cpus), 255)
    entry.ebx = (entry.ebx & 0xFFFF) | logical << 16 | (apic_id & 0xFF) << 24
    entry.ecx |= HYPERVISOR | X2APIC
    if deadline:
        entry.ecx |= TSC_DEADLINE
    if not nested:
        entry.ecx &= ~VMX & 0xFFFFFFFF
    entry.edx = entry.edx | HTT if cpus > 1 else entry.edx & ~HTT


def _sharing(level: int, cpus: int) -> int:
    """Return how many logical CPUs, less one, share a cache: each core has its own, the last level
    is everybody's.
    """
    return min((1 << apic_id_bits(cpus)) - 1, 0xFFF) if level >= 3 else 0


def _leaf_4(entry: Any, cpus: int) -> None:
    """Fill Intel's cache leaf, which also counts the cores."""
    if not entry.eax & 0x1F:
        return
    cores = min((1 << apic_id_bits(cpus)) - 1, 0x3F)
    entry.eax = (entry.eax & 0x3FFF) | _sharing(entry.eax >> 5 & 7, cpus) << 14 | cores << 26


def _leaf_8000001d(entry: Any, cpus: int) -> None:
    """Fill AMD's cache leaf."""
    if entry.eax & 0x1F:
        entry.eax = (entry.eax & ~0x3FFC000) | _sharing(entry.eax >> 5 & 7, cpus) << 14


def _topology(entry: Any, apic_id: int, cpus: int) -> None:
    """Fill leaves 0xB and 0x1F: one thread a core, all cores in one package."""
    levels = {0: (0, 1, LEVEL_SMT), 1: (apic_id_bits(cpus), cpus, LEVEL_CORE)}
    shift, count, kind = levels.get(entry.index, (0, 0, 0))
    entry.eax, entry.ebx = shift, count
    entry.ecx = entry.index | kind << 8
    entry.edx = apic_id


def _amd(entry: Any, apic_id: int, cpus: int, nested: bool) -> None:
    if entry.function == 0x80000001:
        if not nested:
            entry.ecx &= ~SVM & 0xFFFFFFFF
        entry.ecx = entry.ecx | CMP_LEGACY if cpus > 1 else entry.ecx & ~CMP_LEGACY & 0xFFFFFFFF
    elif entry.function == 0x80000008:
        entry.ecx = (entry.ecx & ~0xF0FF) | min(cpus - 1, 0xFF) | apic_id_bits(cpus) << 12
    elif entry.function == 0x8000000A and not nested:
        entry.eax = entry.ebx = entry.ecx = entry.edx = 0
    elif entry.function == 0x8000001D:
        _leaf_8000001d(entry, cpus)
    elif entry.function == 0x8000001E:
        entry.eax = apic_id
        entry.ebx = apic_id & 0xFF  # core id, one thread a core
        entry.ecx = 0


def address_bits(table: Any) -> int:
    """Return the physical address width that a table (a `struct kvm_cpuid2 *`) gives the guest.

    Leaf 0x80000008: EAX bits 7 to 0, and 23 to 16 where KVM says there that it maps less (api.rst,
    KVM_GET_SUPPORTED_CPUID); 36 without the leaf (SDM volume 3A, 4.1.4).
    """
    for i in range(table.nent):
        entry = table.entries[i]
        if entry.function == 0x80000008:
            width, mapped = int(entry.eax) & 0xFF, int(entry.eax) >> 16 & 0xFF
            return min(width, mapped or width)
    return 36


def adjust(
    entries: Any, count: int, *, apic_id: int, cpus: int, deadline: bool, nested: bool = False
) -> None:
    """Fit KVM's supported CPUID (an array of struct kvm_cpuid_entry2) to one vCPU, in place.

    VMX and SVM are hidden unless `nested`. `deadline`: KVM emulates the TSC-deadline timer, which
    KVM_GET_SUPPORTED_CPUID does not say by itself (api.rst, KVM_CAP_TSC_DEADLINE_TIMER).
    """
    for i in range(count):
        entry = entries[i]
        function = entry.function
        if function == 1:
            _leaf_1(entry, apic_id, cpus, deadline, nested)
        elif function == 4:
            _leaf_4(entry, cpus)
        elif function in (TOPOLOGY, TOPOLOGY_V2):
            _topology(entry, apic_id, cpus)
        elif 0x80000001 <= function <= 0x8000001E:
            _amd(entry, apic_id, cpus, nested)


def table(
    supported: Any,
    apic_id: int,
    cpus: int,
    *,
    deadline: bool,
    nested: bool = False,
    more: Sequence[tuple[int, int, int, int, int]] = (),
) -> Any:
    """Return a fresh `struct kvm_cpuid2 *` for one vCPU, made from KVM's supported one.

    The topology leaves are written anew, because KVM lists at most their first sub-leaf. Leaf 0xB
    is there even where KVM's own table ends before it: each vCPU has an x2APIC, and a processor
    with one has that leaf (SDM volume 3A, "CPUID Extensions And Topology Enumeration"). `more` are
    further leaves, each its number and EAX to EDX.
    """
    kept = [
        supported.entries[i]
        for i in range(supported.nent)
        if supported.entries[i].function not in (TOPOLOGY, TOPOLOGY_V2)
    ]
    highest = max(next((entry.eax for entry in kept if entry.function == 0), 0), TOPOLOGY)
    topology = [leaf for leaf in (TOPOLOGY, TOPOLOGY_V2) if leaf <= highest]
    count = len(kept) + 3 * len(topology) + len(more)
    result = kvm.ffi.new("struct kvm_cpuid2 *", {"nent": count, "entries": count})
    for i, entry in enumerate(kept):
        result.entries[i] = entry
        if entry.function == 0:
            result.entries[i].eax = highest
    at = len(kept)
    for leaf in topology:
        for index in range(3):
            entry = result.entries[at]
            entry.function, entry.index, entry.flags = (
                leaf,
                index,
                kvm.KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
            )
            at += 1
    for number, *registers in more:
        entry = result.entries[at]
        entry.function = number
        entry.eax, entry.ebx, entry.ecx, entry.edx = registers
        at += 1
    adjust(result.entries, count, apic_id=apic_id, cpus=cpus, deadline=deadline, nested=nested)
    return result
