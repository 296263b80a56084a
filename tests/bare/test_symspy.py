# SPDX-License-Identifier: Apache-2.0
"""Discovery and SymSpy: what a guest finds, registers, moves, withdraws, and is refused."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from pyvmm._core import lib
from pyvmm.config import MachineConfig
from pyvmm.errors import ConfigError
from pyvmm.machine.machine import Machine
from tests.support import remote
from tests.support.remote import Remote

pytestmark = pytest.mark.host("linux", "vmx", "shadow")

ELSEWHERE = 0x400000
MEMORY = 16 << 20


#: In either page.
EXTENSION = 0x100


@pytest.fixture
def guest() -> Iterator[Remote]:
    with Remote() as made:
        yield made.start()


def text(words: list[int]) -> bytes:
    return b"".join(word.to_bytes(4, "little") for word in words)


def page(guest: Remote, address: int) -> bytes:
    return guest.machine.memory.read(address, lib.SYMBIOTIC_PAGE_SIZE)


def word(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "little")


def test_the_cpuid_leaf(guest: Remote) -> None:
    guest.do(remote.CPUID, 1, 0)
    assert guest.result(2) >> 31, "no hypervisor bit"
    guest.do(remote.CPUID, lib.SYMBIOTIC_CPUID_LEAF, 0)
    eax, ebx, ecx, edx = (guest.result(i) for i in range(4))
    assert eax == lib.SYMBIOTIC_CPUID_SIGNATURE
    assert text([eax]) == b"V3V\0"
    assert text([ebx]) in (b"SVM\0", b"VMX\0", b"KVM\0")
    assert ecx == lib.SYMBIOTIC_VERSION
    assert edx == lib.SYMBIOTIC_FEATURE_SYMSPY | lib.SYMBIOTIC_FEATURE_SYMCALL


def test_the_pages(guest: Remote) -> None:
    vm, vcpu = (page(guest, guest.address(name)) for name in ("vm_page", "vcpu_page"))
    assert vm[:8] == b"V3V".ljust(8, b"\0")
    assert vcpu[:8] == b"V3V.0".ljust(8, b"\0")
    assert word(vcpu, lib.SYMBIOTIC_FLAGS_OFFSET) == lib.SYMBIOTIC_VCPU_ENABLED
    assert [word(vcpu, EXTENSION + at) for at in (0, 4, 8, 12)] == [
        *(16, 1, lib.SYMBIOTIC_DATA_OFFSET, lib.SYMBIOTIC_DATA_SIZE)
    ]
    assert word(vm, lib.SYMBIOTIC_FLAGS_OFFSET) == 0
    assert vm[0xC:0x8C] == bytes(128)
    assert word(vm, EXTENSION) >= 52
    assert word(vm, EXTENSION + 4) == 1
    assert vm[EXTENSION + 8 : EXTENSION + 52] == bytes(44)
    assert guest.rdmsr(lib.MSR_SYMBIOTIC_VM_PAGE) == guest.address("vm_page")
    assert guest.rdmsr(lib.MSR_SYMBIOTIC_VCPU_PAGE) == guest.address("vcpu_page")


@pytest.mark.parametrize("index", [lib.MSR_SYMBIOTIC_VM_PAGE, lib.MSR_SYMBIOTIC_VCPU_PAGE])
def test_a_page_moves_and_is_withdrawn(guest: Remote, index: int) -> None:
    old = guest.rdmsr(index)
    assert old
    guest.machine.memory.write(ELSEWHERE, bytes(lib.SYMBIOTIC_PAGE_SIZE))
    assert guest.wrmsr(index, ELSEWHERE)
    assert guest.rdmsr(index) == ELSEWHERE
    assert page(guest, ELSEWHERE)[:3] == b"V3V"
    # The old page is the guest's own again: nobody writes there.
    guest.machine.memory.write(old, b"\xa5" * lib.SYMBIOTIC_PAGE_SIZE)
    guest.machine.memory.write(ELSEWHERE + lib.SYMBIOTIC_FLAGS_OFFSET, b"\2\0\0\0")
    assert guest.works() or index == lib.MSR_SYMBIOTIC_VM_PAGE
    assert page(guest, old) == b"\xa5" * lib.SYMBIOTIC_PAGE_SIZE
    assert guest.wrmsr(index, 0)
    assert guest.rdmsr(index) == 0
    guest.machine.memory.write(ELSEWHERE, b"\x5a" * lib.SYMBIOTIC_PAGE_SIZE)
    if index == lib.MSR_SYMBIOTIC_VCPU_PAGE:
        assert guest.refusal(lib.SYMCALL_TEST).reason == "disabled"
    assert page(guest, ELSEWHERE) == b"\x5a" * lib.SYMBIOTIC_PAGE_SIZE
    guest.do(remote.REGISTER)
    assert guest.works()


def test_data_passes_through_the_page(guest: Remote) -> None:
    sent = bytes(range(256)) * 12
    assert len(sent) == lib.SYMBIOTIC_DATA_SIZE
    answer = guest.symcall(lib.SYMCALL_TEST, data=sent, want=len(sent))
    assert answer.data == sent
    assert page(guest, guest.address("vcpu_page"))[lib.SYMBIOTIC_DATA_OFFSET :] == sent
    assert guest.symcall(lib.SYMCALL_TEST, data=b"abc", want=3).data == b"abc"
    assert guest.symcall(lib.SYMCALL_TEST, want=5).data == b"abc" + sent[3:5]
    with pytest.raises(ConfigError):
        guest.symcall(lib.SYMCALL_TEST, data=sent + b"\0")
    with pytest.raises(ConfigError):
        guest.symcall(lib.SYMCALL_TEST, want=len(sent) + 1)
    assert guest.works()


NO_PAGES = {
    "the firmware tables": 0xE0000,
    "the end of the firmware tables": 0xFF000,
    "unaligned": ELSEWHERE + 8,
    "half a page": ELSEWHERE + 0x800,
    "after the end of memory": MEMORY,
    "far away": 1 << 40,
    "a device": 0xD0000000,
    "the local APIC": 0xFEE00000,
    "the last page of all": (1 << 64) - 0x1000,
    "not canonical": 1 << 63,
}


@pytest.mark.parametrize(
    "index", [lib.MSR_SYMBIOTIC_VM_PAGE, lib.MSR_SYMBIOTIC_VCPU_PAGE], ids=["vm", "vcpu"]
)
@pytest.mark.parametrize("name", NO_PAGES)
def test_no_page(guest: Remote, index: int, name: str) -> None:
    before = guest.rdmsr(index)
    assert not guest.wrmsr(index, NO_PAGES[name])
    assert guest.rdmsr(index) == before
    assert guest.counters() == {"pages_refused": 1}
    assert guest.works()


def test_pages_that_would_overlap(guest: Remote) -> None:
    vm, vcpu = guest.address("vm_page"), guest.address("vcpu_page")
    assert not guest.wrmsr(lib.MSR_SYMBIOTIC_VM_PAGE, vcpu)
    assert not guest.wrmsr(lib.MSR_SYMBIOTIC_VCPU_PAGE, vm)
    assert guest.counters() == {"pages_refused": 2}
    assert guest.wrmsr(lib.MSR_SYMBIOTIC_VM_PAGE, vm), "to where it is already"
    assert guest.wrmsr(lib.MSR_SYMBIOTIC_VM_PAGE, 0)
    assert guest.wrmsr(lib.MSR_SYMBIOTIC_VCPU_PAGE, vm), "free after the withdrawal"
    assert guest.wrmsr(lib.MSR_SYMBIOTIC_VCPU_PAGE, 0)
    guest.do(remote.REGISTER)
    assert guest.works()


def test_the_last_page_of_memory(guest: Remote) -> None:
    assert guest.wrmsr(lib.MSR_SYMBIOTIC_VCPU_PAGE, MEMORY - lib.SYMBIOTIC_PAGE_SIZE)
    guest.machine.memory.write(
        MEMORY - lib.SYMBIOTIC_PAGE_SIZE + lib.SYMBIOTIC_FLAGS_OFFSET, b"\2\0\0\0"
    )
    sent = b"\xff" * lib.SYMBIOTIC_DATA_SIZE
    assert guest.symcall(lib.SYMCALL_TEST, data=sent, want=len(sent)).data == sent


def test_each_vcpu_has_its_page() -> None:
    with Remote(cpus=2) as guest:
        guest.prepare_second()
        guest.start()
        guest.await_second()
        assert page(guest, guest.address("vcpu_page"))[:6] == b"V3V.0\0"
        assert page(guest, guest.address("other_page"))[:6] == b"V3V.1\0"
        assert not guest.wrmsr(lib.MSR_SYMBIOTIC_VCPU_PAGE, guest.address("other_page"))
        assert guest.machine.symbiosis is not None
        assert guest.machine.symbiosis.page(1) == guest.address("other_page")
        assert guest.works()


def test_a_machine_that_shows_nothing() -> None:
    """The guest registers all the same: its first WRMSR is a #GP, which it does not expect, and it gets no further."""
    with Remote(symbiotic=False) as guest:
        guest.machine.start()
        deadline = time.monotonic() + remote.PATIENCE
        while not guest.value("trapped") and time.monotonic() < deadline:
            time.sleep(0.001)
        assert guest.value("trapped")
        assert guest.turns() == 0
        assert guest.machine.symcalls == {}
        assert guest.refusal(lib.SYMCALL_TEST).reason == "absent"


def test_the_leaf_is_hidden() -> None:
    with Machine(MachineConfig(1 << 20, symbiotic=False)) as machine:
        table = machine.vcpus[0].kvm.get_cpuid2()
        assert lib.SYMBIOTIC_CPUID_LEAF not in {
            table.entries[i].function for i in range(table.nent)
        }
