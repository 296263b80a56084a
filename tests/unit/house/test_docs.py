# SPDX-License-Identifier: Apache-2.0
"""The documents say what the program does: commands, options, links, statuses; and name nothing they should not."""

from __future__ import annotations

import argparse
import importlib
import re
import subprocess
from pathlib import Path

import pytest

from pyvmm.cli.main import COMMANDS
from pyvmm.launch import status
from tests.support.tree import ROOT, files

DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
by_document = pytest.mark.parametrize(
    "path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT))
)

CODE = re.compile(r"^```.*?^```$|(?:^ {4}[^\n]*\n)+|`[^`\n]+`", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def code_of(path: Path) -> str:
    """Everything in the document that is set as code."""
    return "\n".join(piece.strip("`") for piece in CODE.findall(path.read_text()))


def targets() -> set[str]:
    makefile = (ROOT / "Makefile").read_text()
    return set(re.findall(r"^([a-z][\w-]*):", makefile, re.MULTILINE))


def parser_of(command: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    sub = parser.add_subparsers()
    importlib.import_module(f"pyvmm.cli.{command}").add_parser(sub)
    return sub.choices[command]  # type: ignore[no-any-return]


def actions_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The subcommands of a subcommand."""
    return {
        name: child
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
        for name, child in action.choices.items()
    }


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    own = {text for action in parser._actions for text in action.option_strings}
    return own.union(*(options_of(child) for child in actions_of(parser).values()))


ALL_OPTIONS = {name: options_of(parser_of(name)) for name in COMMANDS}


# Links and make.


def anchors_of(path: Path) -> set[str]:
    """The names that a heading gets as the target of a link, as GitHub and GitLab make them."""
    prose = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings}


@by_document
def test_links_lead_somewhere(path: Path) -> None:
    for link in LINK.findall(path.read_text()):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target), link


@by_document
def test_tests_that_are_named_exist(path: Path) -> None:
    """Those on a line that names their file are in it, others anywhere."""
    for line in path.read_text().splitlines():
        for name in re.findall(r"`(test_\w+)`", line):
            assert f"def {name}(" in sources_of(line), name


def sources_of(line: str) -> str:
    """The source of the tests in the files that a line of a document names, in tests/bare where it does not say."""
    named = re.findall(r"`(tests/[\w/]+/test_\w+\.py)`", line)
    named += [f"tests/bare/{name}" for name in re.findall(r"`(test_\w+\.py)`", line)]
    paths = [ROOT / name for name in named] or ROOT.glob("tests/**/test_*.py")
    return "\n".join(path.read_text() for path in paths)


@by_document
def test_make_targets_exist(path: Path) -> None:
    for target in re.findall(r"(?:^|\s)make ([a-z][\w-]*)", code_of(path)):
        assert target in targets(), target


def test_help_of_make_names_targets_that_exist() -> None:
    done = subprocess.run(["make", "-s", "-C", ROOT], capture_output=True, text=True, check=True)
    named = re.findall(r"^make ([\w-]+)", done.stdout, re.MULTILINE)
    assert {"demo", "test", "check"} <= set(named) <= targets()


@pytest.mark.parametrize(
    ("words", "run"),
    [([], "pyvmm bench all --quick"), (["ARGS=swap --rounds 5"], "pyvmm bench swap --rounds 5")],
)
def test_make_bench_runs_the_command(words: list[str], run: str) -> None:
    command = ["make", "-n", "-C", str(ROOT), "bench", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run in done.stdout.splitlines()


def test_every_document_is_in_the_index() -> None:
    index = (ROOT / "docs/README.md").read_text()
    for path in ROOT.glob("docs/**/*.md"):
        name = path.relative_to(ROOT / "docs")
        assert path.name == "README.md" or f"({name})" in index, name


def ignored() -> list[str]:
    """Folders that the program writes and a fresh checkout does not have."""
    return [
        line.strip("/")
        for line in (ROOT / ".gitignore").read_text().splitlines()
        if line.endswith("/")
    ]


@by_document
def test_files_that_are_named_exist(path: Path) -> None:
    """Paths in code of the project's own folders; what has been written here by a run proves nothing."""
    folders = "pyvmm|csrc|tests|bench|docs|guest-linux-patch"
    for name in re.findall(rf"`((?:{folders})/[\w./-]+)`", path.read_text()):
        written = any(f"{name}/".startswith(f"{folder}/") for folder in ignored())
        assert written or (ROOT / name).exists(), name


@by_document
def test_lines_have_at_most_100_columns(path: Path) -> None:
    """Tables, code, and a link or a piece of code that cannot be broken apart."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    for line in text.splitlines():
        unbroken = re.fullmatch(r"\S*(\[[^\]]*\]\(\S*\)|`[^`]*`)\S*", line.strip())
        assert len(line) <= 100 or line.startswith(("|", "    ")) or unbroken, line


# The command line.


@by_document
def test_commands_exist(path: Path) -> None:
    named = re.findall(r"(?<!from )(?<![\w./])pyvmm ([a-z][\w-]*)", code_of(path))
    for name in named:
        assert name in COMMANDS, f"pyvmm {name}"
    for action in re.findall(r"\bpyvmm guest ([a-z][\w-]*)", code_of(path)):
        assert action in actions_of(parser_of("guest")), f"pyvmm guest {action}"


@by_document
def test_options_exist(path: Path) -> None:
    """Those that follow a command on its line, up to the next command or the bare --."""
    for name, rest in re.findall(r"\bpyvmm (\w+)([^\n|;&]*)", code_of(path)):
        if name not in COMMANDS:
            continue
        own = re.split(r"\s--(?:\s|$)|\bpyvmm\b", rest)[0]
        for option in re.findall(r"(?<!\S)(--[a-z][\w-]*|-[a-zA-Z])\b", own):
            assert option in ALL_OPTIONS[name] | {"--help"}, f"pyvmm {name} {option}"


def section(command: str) -> str:
    text = (ROOT / "docs/command-line.md").read_text()
    return re.split(r"^## ", text.partition(f"## pyvmm {command}")[2], flags=re.MULTILINE)[0]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_reference_has_every_option_and_no_other(command: str) -> None:
    mentioned = set(re.findall(r"`(--?[a-zA-Z][\w-]*)[ `,]", section(command)))
    mentioned |= set(re.findall(r"`-\w`, `(--[\w-]+)", section(command)))
    # Options of other programs and commands that the text refers to have no place there.
    assert mentioned <= ALL_OPTIONS[command], mentioned - ALL_OPTIONS[command]
    expected = {text for text in ALL_OPTIONS[command] if text.startswith("--")} - {"--help"}
    assert expected <= mentioned, expected - mentioned


# Exit statuses.


@pytest.mark.parametrize("name", ["README.md", "docs/command-line.md"])
def test_exit_statuses(name: str) -> None:
    text = re.split(r"^## Exit statuses", (ROOT / name).read_text(), flags=re.MULTILINE)[1]
    rows = re.findall(r"^\| ([\d.]+) \| (.*) \|$", text.partition("\n## ")[0], re.MULTILINE)
    assert rows == [(str(number), meaning) for number, meaning in status.MEANINGS.items()]


# What does not belong in the tree.

# Written in pieces, or this file would be found.
REGISTRIES = [
    *("pypi" + ".org", "pythonhosted" + ".org", "deb.debian" + ".org", "crates" + ".io"),
    *("registry" + ".npmjs", "proxy" + ".golang", "snapshot.debian" + ".org"),
]
FOLDERS = ["/wo" + "rk/", "/ho" + "me/"]
OF_ROOT = "/ro" + "ot/"  # a guest has one too, and tests put files there


def unwanted_in(path: Path) -> list[str]:
    in_tests = path.is_relative_to(ROOT / "tests")
    return [*REGISTRIES, *FOLDERS, *([] if in_tests else [OF_ROOT])]


def test_no_registry_and_no_path_of_a_machine() -> None:
    found = []
    for path in files():
        if not path.is_file():
            continue
        words, name = unwanted_in(path), path.relative_to(ROOT)
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            found += [f"{name}:{number}: {word}" for word in words if word in line]
    assert found == []
