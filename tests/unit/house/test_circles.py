# SPDX-License-Identifier: Apache-2.0
"""No file imports one that imports it, by however many others; imports for type checkers do not count."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.support.tree import ROOT

FOLDERS = ("pyvmm", "bench")
PROGRAMS = {"pyvmm.__main__", "pyvmm.lab.__main__"}


def modules(root: Path) -> dict[str, Path]:
    """The file of each module, by its dotted name."""
    paths = [path for folder in FOLDERS for path in sorted((root / folder).rglob("*.py"))]
    names = [".".join(path.relative_to(root).with_suffix("").parts) for path in paths]
    return {name.removesuffix(".__init__"): path for name, path in zip(names, paths, strict=True)}


def run_time_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those that only a type checker sees."""
    if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
        for child in node.orelse:
            yield from run_time_nodes(child)
        return
    yield node
    for child in ast.iter_child_nodes(node):
        yield from run_time_nodes(child)


def imported(path: Path, known: Mapping[str, Path]) -> set[str]:
    """The modules, of those that are known, that a file imports at the top or in a function."""
    found = set()
    for node in run_time_nodes(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in known else str(node.module) for name in names}
    return found & set(known)


def reachable(start: str, graph: Mapping[str, set[str]]) -> set[str]:
    """The modules that one imports, and that those import, and so on."""
    seen: set[str] = set()
    left = [*graph[start]]
    while left:
        name = left.pop()
        if name not in seen:
            seen.add(name)
            left += graph[name]
    return seen


def circles(root: Path) -> set[tuple[str, ...]]:
    """The groups of modules of which each can be reached from each."""
    known = modules(root)
    graph = {name: imported(path, known) - {name} for name, path in known.items()}
    reach = {name: reachable(name, graph) for name in graph}
    return {
        tuple(sorted(other for other in reach[name] if name in reach[other]))
        for name in graph
        if name in reach[name]
    }


def test_no_file_is_in_a_circle() -> None:
    assert circles(ROOT) == set()


def test_the_check_sees_a_circle(tmp_path: Path) -> None:
    folder = tmp_path / "pyvmm"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "one.py").write_text("from pyvmm import two\n")
    (folder / "two.py").write_text("def f():\n    import pyvmm.three\n")
    (folder / "three.py").write_text("from pyvmm.one import name\n")
    (folder / "four.py").write_text("if TYPE_CHECKING:\n    import pyvmm.five\n")
    (folder / "five.py").write_text("import pyvmm.four\n")
    assert circles(tmp_path) == {("pyvmm.one", "pyvmm.three", "pyvmm.two")}


def test_nothing_imports_the_command_line() -> None:
    """Only the programs do."""
    known = modules(ROOT)
    users = {
        name
        for name, path in known.items()
        if any(f"{module}.".startswith("pyvmm.cli.") for module in imported(path, known))
    }
    assert {name for name in users if not name.startswith("pyvmm.cli.")} <= PROGRAMS
