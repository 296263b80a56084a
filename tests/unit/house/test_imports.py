# SPDX-License-Identifier: Apache-2.0
"""Imports point one way: a layer may use those below it, never its neighbours or those above."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.support.diagram import levels
from tests.support.tree import ROOT

PACKAGE = ROOT / "pyvmm"

# The lower the number the lower the layer; parts of the same layer do not import each other.
LAYERS = {
    "errors": 0,
    "record": 0,
    "_core": 0,
    "config": 1,
    "kvm": 1,
    "outfile": 1,
    "logbars": 1,
    "quantity": 1,
    "cachefolder": 1,
    "machine": 2,
    "debian": 2,
    "boot": 3,
    "devices": 3,
    "symbiotic": 3,
    "control": 3,
    "swap": 4,
    "testdev": 4,
    "vm": 5,
    "guest": 5,
    "probe": 5,
    "drgn": 6,
    "lab": 7,
    "launch": 7,
    "demo": 7,
    "cli": 8,
}
#: The same of the benchmarks.
BENCH_LAYERS = {
    "loads": 0,
    "report": 1,
    "rounds": 2,
    "options": 3,
    "peers": 3,
    "suite": 4,
    "suites": 5,
    "run": 6,
    "sweep": 7,
    "command": 8,
}
# What a part may use of its own layer or without one.
ALSO: dict[str, set[str]] = {}


def part_of(module: str) -> str:
    """The part of the package a dotted name belongs to: pyvmm.boot.elf -> boot."""
    names = module.split(".")
    return names[1] if len(names) > 1 else "__init__"


def part_of_file(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


def imported_modules(path: Path, package: str = "pyvmm") -> list[tuple[int, str]]:
    """(line, module) for each import of the package in a file, those for type checkers too."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            module = node.module or ""
            names = [f"{module}.{alias.name}" for alias in node.names]
            found += [(node.lineno, name) for name in (names if module == package else [module])]
    return [(line, name) for line, name in found if name.split(".")[0] == package]


def violations(path: Path) -> list[str]:
    importer = part_of_file(path)
    if importer == "__init__" or path.name == "__main__.py":  # a program may use all there is
        return []
    result = []
    for line, module in imported_modules(path):
        imported = part_of(module)
        if imported in ("__init__", "__version__"):
            continue
        if imported == importer or imported in ALSO.get(importer, ()):
            continue
        if LAYERS[imported] >= LAYERS[importer]:
            result.append(f"{path.relative_to(ROOT)}:{line}: {importer} imports {imported}")
    return result


def test_every_part_has_a_layer() -> None:
    parts = {part_of_file(path) for path in PACKAGE.rglob("*.py")} - {"__init__", "__main__"}
    assert parts <= set(LAYERS), f"give these a layer: {sorted(parts - set(LAYERS))}"


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_imports_point_down(path: Path) -> None:
    assert violations(path) == []


def test_what_is_measured_needs_no_test() -> None:
    """Neither the product nor a benchmark imports the tests."""
    paths = [*PACKAGE.rglob("*.py"), *(ROOT / "bench").rglob("*.py")]
    assert [f"{path}:{line}" for path in paths for line, _ in imported_modules(path, "tests")] == []


@pytest.mark.parametrize("path", sorted((ROOT / "bench").rglob("*.py")), ids=lambda path: path.stem)
def test_imports_of_benchmarks_point_down(path: Path) -> None:
    """A suite imports no other one either."""
    importer = path.relative_to(ROOT / "bench").parts[0].removesuffix(".py")
    for line, module in imported_modules(path, "bench"):
        imported = part_of(module)
        if importer.startswith("__") or (imported == importer != "suites"):
            continue
        assert BENCH_LAYERS[imported] < BENCH_LAYERS[importer], f"{path}:{line}: {module}"


def test_the_check_sees_an_upward_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "machine"
    folder.mkdir()
    bad = folder / "bad.py"
    bad.write_text("def f():\n    from pyvmm.devices import serial\n")
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    assert violations(bad) == ["machine/bad.py:2: machine imports devices"]


def test_bindings_import_nothing_of_the_machine() -> None:
    """`pyvmm.kvm` is usable alone and quick to import."""
    import subprocess
    import sys

    code = (
        "import sys, pyvmm.kvm; "
        "print([m for m in sys.modules if m.startswith('pyvmm.') and not m.startswith('pyvmm.kvm')])"
    )
    output = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True)
    assert output.strip() == "['pyvmm.errors']"


# The tests.


def imported_tests(path: Path) -> list[str]:
    """Each import of tests that stand elsewhere: what two of them share lies in tests/support."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        of_tests = [name.split(".") for name in names if name.startswith("tests.")]
        found += [
            f"{path}:{node.lineno}: {'.'.join(parts)}"
            for parts in of_tests
            if any(part == "conftest" or part.startswith("test_") for part in parts)
        ]
    return found


def test_no_test_imports_another() -> None:
    paths = [*ROOT.glob("tests/**/*.py"), *ROOT.glob("bench/**/*.py")]
    assert [each for path in paths for each in imported_tests(path)] == []


@pytest.mark.parametrize(
    "line",
    [
        "from tests.bare.test_bus import Model",
        "from tests.bare import conftest",
        "from tests.bare import remote, test_bus",
        "import tests.bare.test_bus",
        "def f():\n    from tests.bare.test_bus import *",
    ],
)
def test_the_check_sees_an_import_of_a_test(line: str, tmp_path: Path) -> None:
    bad = tmp_path / "test_bad.py"
    bad.write_text(line)
    assert len(imported_tests(bad)) == 1


def test_the_diagram_of_layers_is_this_one() -> None:
    drawn = [level.python for level in levels()]
    held = [{name for name, at in LAYERS.items() if at == level} for level in range(len(drawn))]
    assert drawn == [names - {"_core"} for names in held]
    assert max(LAYERS.values()) == len(drawn) - 1
