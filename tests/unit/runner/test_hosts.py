# SPDX-License-Identifier: Apache-2.0
"""Which tests run on which host, and whether they are of the rest there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support import hosts
from tests.support.hosts import HERE, HOSTS, LINUX, REST, SHADOW, VMX

if TYPE_CHECKING:
    from pathlib import Path


class Item:
    """A test of a folder, and its `host` marks, the closest first."""

    def __init__(self, folder: str, *marks: pytest.MarkDecorator) -> None:
        self.nodeid = f"tests/{folder}/test_it.py::test_it"
        self.marks = [mark.mark for mark in marks]
        self.added: list[str] = []

    def iter_markers(self, name: str) -> list[pytest.Mark]:
        return [mark for mark in self.marks if mark.name == name]

    def add_marker(self, name: str) -> None:
        self.added.append(name)


def where(folder: str, *marks: pytest.MarkDecorator) -> dict[str, bool]:
    """The hosts of a test, and whether it is of the rest on each."""
    found = {}
    for host in HOSTS:
        item: Any = Item(folder, *marks)
        if hosts.choose([item], host):
            found[host] = REST in item.added
    return found


def test_a_folder_has_its_host() -> None:
    assert where("bare") == {HERE: False}
    assert where("unit/boot") == {HERE: False}
    assert where("linux") == {LINUX: False}


def test_a_mark_names_further_ones() -> None:
    """Without EPT all are of the rest."""
    mark = pytest.mark.host
    assert where("bare", mark(VMX, SHADOW)) == {HERE: False, VMX: False, SHADOW: True}
    assert where("bare", mark(VMX, rest=True), mark(LINUX)) == {
        HERE: False,
        VMX: True,
        LINUX: False,
    }
    assert where("linux", mark(LINUX, rest=True), mark(VMX)) == {LINUX: True, VMX: False}


def test_the_closest_mark_counts() -> None:
    mark = pytest.mark.host
    assert where("linux", mark(VMX), mark(VMX, rest=True)) == {LINUX: False, VMX: False}


@pytest.mark.parametrize(
    ("host", "ept", "lacking"),
    [
        (None, None, ""),
        (LINUX, None, ""),
        (VMX, None, "no kvm_intel here"),
        (VMX, "Y", ""),
        (VMX, "N", ""),
        (SHADOW, "Y", "kvm_intel has EPT here"),
        (SHADOW, "N", ""),
    ],
)
def test_what_is_lacking_is_said(
    host: str, ept: str | None, lacking: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameter = tmp_path / "ept"
    monkeypatch.setattr(hosts, "EPT", parameter)
    if ept:
        parameter.write_text(f"{ept}\n")
    assert hosts.missing(host) == lacking
