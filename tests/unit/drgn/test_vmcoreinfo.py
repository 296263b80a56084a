# SPDX-License-Identifier: Apache-2.0
"""The note of a kernel: where it lies, what it says, notes that cannot be."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.drgn import vmcoreinfo
from pyvmm.errors import GuestDataError
from tests.support.madeup_kernel import (
    BUILD_ID,
    MIB,
    NOTE,
    ROOT,
    TABLE,
    Memory,
    facts,
    guest,
    note,
    text,
)


def test_note_where_the_kernel_says():
    info = vmcoreinfo.of_guest(guest(), facts())
    assert (info.release, info.build_id, info.root_gpa) == ("6.12.117-made-up", BUILD_ID, ROOT)
    assert info.text == text()


def test_text_without_a_note():
    memory = guest()
    memory.write(NOTE, text().ljust(4096, b"\0"))
    assert vmcoreinfo.of_guest(memory, facts()).text == text()


@pytest.mark.parametrize("known", [None, facts(vmcoreinfo_gpa=None)])
def test_note_is_looked_for(known):
    assert vmcoreinfo.of_guest(guest(), known).text == text()


def test_note_in_the_last_page_of_ram():
    assert vmcoreinfo.search(guest(where=(4 << 30) + MIB - 4096)).text == text()


def test_note_that_is_another_kernels_is_passed_over():
    memory = guest(where=0x90000)
    memory.write(0x20000, note(text(**{"NUMBER(phys_base)": "0"})))
    memory.write(0x30000, note(b"VMCOREINFO\0"))
    memory.write(0x40008, note(text(OSRELEASE="not at a page")))
    assert vmcoreinfo.search(memory).text == text()


def test_no_note():
    with pytest.raises(GuestDataError, match="CONFIG_VMCORE_INFO"):
        vmcoreinfo.search(Memory())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vmcoreinfo_size": 0}, "0 bytes"),
        ({"vmcoreinfo_size": 1 << 20}, "1048576 bytes"),
        ({"vmcoreinfo_gpa": 3 << 30}, "0xc0000000"),
        ({"vmcoreinfo_gpa": (1 << 64) - 8}, "0xfffffffffffffff8"),
        ({"vmcoreinfo_gpa": 0x50000}, "names no kernel release"),
        ({"kaslr_offset": 0}, "contradicts itself: KASLR offset"),
        ({"kernel_pgd_gpa": 0x8000}, "contradicts itself: page table"),
        ({"release": "5.0"}, "contradicts itself: release"),
    ],
)
def test_facts_that_cannot_be(changes, message):
    with pytest.raises(GuestDataError, match=message):
        vmcoreinfo.of_guest(guest(), facts(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"OSRELEASE": None}, "names no kernel release"),
        ({"SYMBOL(swapper_pg_dir)": None}, "where the kernel's page table is"),
        ({"SYMBOL(swapper_pg_dir)": "no number"}, "where the kernel's page table is"),
        ({"NUMBER(phys_base)": None}, "where the kernel's page table is"),
        ({"NUMBER(phys_base)": "0"}, "not the kernel's: the PML4 entry"),
        ({"SYMBOL(swapper_pg_dir)": f"{TABLE + 0x1000:x}"}, "not the kernel's"),
        ({"SYMBOL(swapper_pg_dir)": f"{1 << 63:x}"}, "not canonical"),
        ({"NUMBER(pgtable_l5_enabled)": "1"}, "not the kernel's: the PML4 entry"),
    ],
)
def test_note_that_cannot_be(changes, message):
    with pytest.raises(GuestDataError, match=message):
        vmcoreinfo.of_guest(guest(text(**changes)), facts())


def test_note_that_maps_to_another_place():
    memory = guest()
    memory.write(0x6000 + (TABLE >> 12 & 511) * 8, struct.pack("<Q", 0x9000 | 3))
    with pytest.raises(GuestDataError, match="they map it to 0x9000"):
        vmcoreinfo.of_guest(memory, facts())


@pytest.mark.parametrize("size", [4073, 1 << 31])
def test_note_that_is_longer_than_its_place(size):
    memory = guest()
    memory.write(NOTE + 4, struct.pack("<I", size))
    with pytest.raises(GuestDataError, match=f"a note of {size} bytes in 4096"):
        vmcoreinfo.of_guest(memory, facts())


def test_what_the_note_says_can_be_printed():
    info = vmcoreinfo.parse(text(OSRELEASE="6.12\x1b[2J"))
    assert info.release == "6.12\\x1b[2J"


@given(st.binary(max_size=200), st.sampled_from([b"", note(b"")[:24], b"OSRELEASE=1\n"]))
def test_noise_is_a_note_or_an_error_of_ours(noise, start):
    try:
        info = vmcoreinfo.parse(start + noise)
    except GuestDataError:
        return
    assert info.release
    _ = info.root_gpa, info.build_id, info.five_levels


def test_memory_full_of_notes_is_given_up(monkeypatch):
    """A guest can write the head of the note into each page."""
    monkeypatch.setattr(vmcoreinfo, "_candidates", lambda memory: iter(range(1 << 30)))
    monkeypatch.setattr(vmcoreinfo, "load", lambda *args: vmcoreinfo.parse(b""))
    with pytest.raises(GuestDataError, match="1024 pages of the guest's memory look like it"):
        vmcoreinfo.search(None)
