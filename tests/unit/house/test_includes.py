# SPDX-License-Identifier: Apache-2.0
"""Includes of csrc/ point one way: a wing uses those below it, and no two files use each other.

A file is a source with its header. A function that another file calls is declared in the header of
its own file, and is so called by way of an include: files that call each other show as a circle.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import pytest

from tests.support.diagram import levels
from tests.support.tree import ROOT

CSRC = ROOT / "csrc"
#: The wings that each may use, beside itself. kvm is another module: declarations of ioctls.
BELOW: dict[str, set[str]] = {
    "host": set(),
    "kvm": set(),
    "machine": {"host"},
    "virtio": {"machine", "host"},
    "serial": {"machine", "host"},
    "symbiotic": {"machine", "host"},
    "swap": {"symbiotic", "machine", "host"},
}
INCLUDE = re.compile(r'^\s*#\s*include\s+"(.+)"', re.MULTILINE)
#: A definition of a function as clang-format writes one: its brace stands alone, at the margin.
FUNCTION = re.compile(r"^(\w[\w \t*]*?)\b(\w+)\(([^;{}]*)\)\n\{", re.MULTILINE)


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*.[ch]"))


def names(folder: Path) -> list[str]:
    """WING/NAME of all files, for the tests' names."""
    return [str(path.relative_to(folder)) for path in files(folder)]


def wing_of(name: str) -> str:
    return name.partition("/")[0]


def upward(folder: Path, name: str) -> list[str]:
    """What is wrong with the includes of a file."""
    wing = wing_of(name)
    found = []
    for included in INCLUDE.findall((folder / name).read_text()):
        if not (folder / included).is_file():
            found.append(f"{name}: {included} is not written as WING/NAME.h")
        elif wing_of(included) not in {wing, *BELOW[wing]}:
            found.append(f"{name}: {wing} includes {included}")
    return found


def circle(uses: dict[str, set[str]]) -> list[str]:
    """The files of a circle in order, the first one again at its end; nothing where there is none."""
    done: set[str] = set()

    def visit(name: str, way: list[str]) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name in done:
            return []
        for used in sorted(uses[name]):
            if found := visit(used, [*way, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(uses) if (found := visit(name, []))), [])


def uses_of(folder: Path) -> dict[str, set[str]]:
    """For each file, without its ending, those that it includes."""
    uses: dict[str, set[str]] = defaultdict(set)
    for path in files(folder):
        name = str(path.relative_to(folder).with_suffix(""))
        included = {found.removesuffix(".h") for found in INCLUDE.findall(path.read_text())}
        uses[name] |= included - {name}
    return defaultdict(set, uses)


def undeclared(source: Path) -> list[str]:
    """Functions of a C file that others could call without an include of its header."""
    header = source.with_suffix(".h")
    declared = header.read_text() if header.exists() else ""
    return [
        name
        for before, name, _ in FUNCTION.findall(source.read_text())
        if "static" not in before.split() and not re.search(rf"\b{name}\(", declared)
    ]


def test_every_wing_has_its_place() -> None:
    assert {wing_of(name) for name in names(CSRC)} == set(BELOW)


@pytest.mark.parametrize("name", names(CSRC))
def test_includes_point_down(name: str) -> None:
    assert upward(CSRC, name) == []


def test_no_two_files_use_each_other() -> None:
    assert circle(uses_of(CSRC)) == []


@pytest.mark.parametrize("name", [name for name in names(CSRC) if name.endswith(".c")])
def test_functions_are_declared_where_they_are_defined(name: str) -> None:
    assert undeclared(CSRC / name) == []
    assert FUNCTION.search((CSRC / name).read_text()), "the pattern finds no function in it"


def test_the_check_sees_what_is_wrong(tmp_path: Path) -> None:
    for wing in ("host", "machine"):
        (tmp_path / wing).mkdir()
    (tmp_path / "host/low.h").write_text('#include "machine/high.h"\n')
    (tmp_path / "host/low.c").write_text('#include "low.h"\nint low(int a,\n        int b)\n{\n}\n')
    (tmp_path / "machine/high.h").write_text("")
    (tmp_path / "machine/high.c").write_text('#include "host/low.h"\nstatic int high(void)\n{\n}\n')
    assert upward(tmp_path, "host/low.h") == ["host/low.h: host includes machine/high.h"]
    assert upward(tmp_path, "host/low.c") == ["host/low.c: low.h is not written as WING/NAME.h"]
    assert circle(uses_of(tmp_path)) == ["host/low", "machine/high", "host/low"]
    assert undeclared(tmp_path / "host/low.c") == ["low"]
    assert undeclared(tmp_path / "machine/high.c") == []


def test_the_diagram_of_layers_is_this_one() -> None:
    drawn = {wing: number for number, level in enumerate(levels()) for wing in level.c}
    assert set(drawn) == set(BELOW)
    for wing, below in BELOW.items():
        assert all(drawn[name] < drawn[wing] for name in below), wing
