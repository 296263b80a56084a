# SPDX-License-Identifier: Apache-2.0
"""The patch series by their text: listed, numbered, signed, alike for each kernel, and of one mind with the VMM."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pyvmm.guest import cache, source
from pyvmm.symbiotic import abi, facts, memory, swapstats, task
from tests.support.tree import ROOT

HEADER = "include/uapi/linux/symbiotic.h"
NUMBERED = re.compile(r"(\d{4})-[\w-]+\.patch")

#: The guest's name for each of the VMM's numbers.
NAMES = {
    "SYMBIOTIC_CPUID_LEAF": abi.CPUID_LEAF,
    "SYMBIOTIC_CPUID_SIGNATURE": int.from_bytes(abi.CPUID_SIGNATURE, "little"),
    "SYMBIOTIC_VERSION": abi.INTERFACE_VERSION,
    "SYMBIOTIC_FEATURE_SYMSPY": abi.FEATURE_SYMSPY,
    "SYMBIOTIC_FEATURE_SYMCALL": abi.FEATURE_SYMCALL,
    "MSR_SYMBIOTIC_VM_PAGE": abi.MSR_VM_PAGE,
    "MSR_SYMBIOTIC_VCPU_PAGE": abi.MSR_VCPU_PAGE,
    "MSR_SYMBIOTIC_RIP": abi.MSR_ENTRY_RIP,
    "MSR_SYMBIOTIC_RSP": abi.MSR_ENTRY_RSP,
    "MSR_SYMBIOTIC_CS": abi.MSR_ENTRY_CS,
    "MSR_SYMBIOTIC_GS_BASE": abi.MSR_ENTRY_GS,
    "MSR_SYMBIOTIC_FS_BASE": abi.MSR_ENTRY_FS,
    "MSR_SYMBIOTIC_CR3_CLEAR": abi.MSR_ENTRY_CR3_CLEAR,
    "MSR_SYMBIOTIC_PROMISES": abi.MSR_ENTRY_PROMISES,
    "SYMBIOTIC_PROMISE_NO_FPU": abi.PROMISE_STATE_KEPT,
    "SYMBIOTIC_PORT": abi.DOORBELL_PORT,
    "SYMBIOTIC_RETURN": abi.HYPERCALL_RETURN,
    "SYMBIOTIC_ERROR": abi.HYPERCALL_ERROR,
    "SYMBIOTIC_HYPERCALL_FIRST": abi.HYPERCALL_FIRST,
    "SYMBIOTIC_HYPERCALL_DONE": abi.HYPERCALL_DONE,
    "SYMBIOTIC_HYPERCALL_UNKNOWN": abi.HYPERCALL_UNKNOWN,
    "SYMBIOTIC_HYPERCALL_REFUSED": abi.HYPERCALL_REFUSED,
    "SYMBIOTIC_PAGE_SIZE": abi.PAGE_SIZE,
    "SYMBIOTIC_DATA_OFFSET": abi.PAGE_DATA,
    "SYMBIOTIC_DATA_SIZE": abi.PAGE_DATA_SIZE,
    "SYMBIOTIC_VCPU_ACTIVE": abi.VCPU_ACTIVE,
    "SYMBIOTIC_VCPU_ENABLED": abi.VCPU_ENABLED,
    "SYMCALL_TEST": abi.SYMCALL_TEST,
    "SYMCALL_MEM_LOOKUP": abi.SYMCALL_MEM_LOOKUP,
    "SYMCALL_KERNEL_FACTS": abi.SYMCALL_FACTS,
    "SYMCALL_CURRENT_TASK": abi.SYMCALL_CURRENT,
    "SYMCALL_TASKS": abi.SYMCALL_TASKS,
    "SYMCALL_MEMORY": abi.SYMCALL_MEMORY,
    "SYMCALL_READ": abi.SYMCALL_READ,
    "SYMCALL_SWAP_STATS": abi.SYMCALL_SWAP_STATS,
    "SYMCALL_SWAP_EVICT": abi.SYMCALL_SWAP_EVICT,
    "SYMBIOTIC_FEATURE_SWAPBYPASS": abi.FEATURE_SWAP_BYPASS,
    "SYMBIOTIC_SWAP_ATTACH": abi.HYPERCALL_SWAP_ATTACH,
    "SYMBIOTIC_SWAP_DETACH": abi.HYPERCALL_SWAP_DETACH,
    "SYMBIOTIC_SWAP_MAP": abi.HYPERCALL_SWAP_MAP,
    "SYMCALL_USER_FIRST": abi.SYMCALL_FIRST_USER,
    "SYMBIOTIC_ACCESS_READ": abi.ACCESS_READ,
    "SYMBIOTIC_ACCESS_WRITE": abi.ACCESS_WRITE,
    "SYMBIOTIC_ACCESS_EXECUTE": abi.ACCESS_EXECUTE,
}


def patches(linux: str) -> dict[str, str]:
    """The series of a version: names and texts, in order."""
    return {patch.name.split("/")[1]: patch.text.decode() for patch in source.read_series(linux)}


def added_lines(series: dict[str, str], path: str) -> str:
    """All that the patches add to a file, in whatever patch."""
    pieces = []
    for text in series.values():
        for part in text.split("\ndiff --git ")[1:]:
            if part.startswith(f"a/{path} "):
                lines = part.split("\n@@ ", 1)[1].splitlines()
                pieces += [line[1:] for line in lines if line.startswith("+")]
    return "\n".join(pieces) + "\n"


@pytest.fixture(params=cache.VERSIONS)
def linux(request: pytest.FixtureRequest) -> str:
    version: str = request.param
    return version


def test_every_patch_is_listed_and_numbered(linux: str) -> None:
    names = list(patches(linux))
    folder = Path(cache.patch_tree()) / f"series-{linux}"
    assert sorted(names) == sorted(path.name for path in folder.glob("*.patch"))
    matches = [NUMBERED.fullmatch(name) for name in names]
    assert [int(match[1]) for match in matches if match] == list(range(1, len(names) + 1))


def test_every_patch_has_a_message_and_a_signature(linux: str) -> None:
    series = patches(linux)
    for number, text in enumerate(series.values(), 1):
        head, _, _ = text.partition("\n---\n")
        place = f"{number:0{len(str(len(series)))}}/{len(series)}"
        assert re.search(rf"^Subject: \[PATCH {place}\] \w[\w/]*: ", head, re.M)
        author = re.search(r"^From: (.*(?:\n .*)*)", head.partition("\n")[2], re.M)
        assert author
        signed = " ".join(author[1].split())
        assert head.rstrip().endswith(f"\nSigned-off-by: {signed}")
        message = head.partition("\n\n")[2]
        assert len(message.splitlines()) > 3
        assert max(map(len, message.splitlines()[:-1])) <= 75


def test_series_say_the_same(linux: str) -> None:
    """Only the code differs from kernel to kernel, and little of that."""

    def messages(version: str) -> list[str]:
        return [text.partition("\n---\n")[0] for text in patches(version).values()]

    assert messages(linux) == messages(cache.VERSIONS[0])
    mine, first = (added_lines(patches(v), HEADER) for v in (linux, cache.VERSIONS[0]))
    assert mine == first


def test_numbers_are_those_of_the_vmm(linux: str) -> None:
    header = added_lines(patches(linux), HEADER)
    defined = dict(re.findall(r"^#define (\w+)\s+([^/\n]+?)\s*(?:/\*.*)?$", header, re.M))
    values = {name: eval(defined[name], {}) for name in NAMES}
    assert values == NAMES
    numbers = {name for name in defined if name.startswith(("MSR_", "SYMCALL_"))}
    assert numbers - set(NAMES) == {"SYMCALL_USER_LAST"}


def test_layouts_are_those_of_the_vmm(linux: str) -> None:
    """The sizes that the driver's assertions have."""
    asserted: dict[str, int] = {}
    for text in patches(linux).values():
        found = re.findall(r"^\+static_assert\(sizeof\(struct (\w+)\) == (\d+)\);", text, re.M)
        asserted |= {name: int(size) for name, size in found}
    assert asserted == {
        "symbiotic_facts": facts.LAYOUT.size,
        "symbiotic_task": task.RECORD.size,
        "symbiotic_memory": memory.LAYOUT.size,
        "symbiotic_swap_stats": swapstats.SIZE,
    }


def test_debug_guest_has_the_driver_too() -> None:
    text = (ROOT / "guest-linux-patch" / "config" / "base.config").read_text()
    assert "\nCONFIG_SYMBIOTIC=y\n" in text
