# SPDX-License-Identifier: Apache-2.0
"""The hosts that tests run on: `pytest --host NAME` chooses the tests of one.

A test's own host follows from its folder. The mark `host` names further ones, and says whether the
test is of the rest there; for its own host it says that too:

    @pytest.mark.host("vmx", "shadow")      # once more on VT-x, with EPT and without
    @pytest.mark.host("vmx", rest=True)     # once more on VT-x, of the rest there

Without `--host` every test is chosen, whatever its mark.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pytest

#: This machine's KVM, whatever kind that is.
HERE = "here"
#: A KVM that boots Linux.
LINUX = "linux"
#: kvm_intel; the second is without EPT, so that KVM shadows the guest's page tables.
VMX, SHADOW = "vmx", "shadow"
HOSTS = (HERE, LINUX, VMX, SHADOW)
#: Own hosts, by the folder of tests. That of others is HERE.
OWN = {"linux": LINUX}
#: The mark of tests that are only of the rest.
REST = "rest"
EPT = Path("/sys/module/kvm_intel/parameters/ept")


def choose(items: Sequence[pytest.Item], host: str) -> list[pytest.Item]:
    """Returns the tests of a host, with the mark of the rest where they are of it there."""
    return [item for item in items if is_of(item, host)]


def is_of(item: pytest.Item, host: str) -> bool:
    """Whether a test runs on a host. Marks it if it is of the rest there, as all of SHADOW are."""
    named = next((mark for mark in item.iter_markers("host") if host in mark.args), None)
    if host == SHADOW or (named and named.kwargs.get("rest")):
        item.add_marker(REST)
    return named is not None or OWN.get(folder_of(item), HERE) == host


def folder_of(item: pytest.Item) -> str:
    """The folder of tests that a test lies in: "linux" of tests/linux/test_boot.py."""
    return item.nodeid.split("/")[1]


def missing(host: str) -> str:
    """What this machine lacks of VT-x for a host, or nothing."""
    if host not in (VMX, SHADOW):
        return ""
    if not EPT.exists():
        return "no kvm_intel here"
    if host == SHADOW and EPT.read_text().strip() != "N":
        return "kvm_intel has EPT here"
    return ""
