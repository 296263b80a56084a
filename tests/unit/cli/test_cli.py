# SPDX-License-Identifier: Apache-2.0
"""The command line without a KVM: what it makes of arguments, what it says, how it ends."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pyvmm
from pyvmm import errors
from pyvmm.cli import doctor, lab
from pyvmm.cli.main import COMMANDS, main, overview
from pyvmm.cli.parser import CommandParser
from pyvmm.errors import ConfigError
from pyvmm.launch import status
from tests.support.tree import ROOT

# The program.


@pytest.mark.parametrize("word", ["-h", "--help", "help"])
def test_help(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word]) == status.OK
    assert capsys.readouterr().out == overview() + "\n"


def test_no_arguments_is_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == status.USAGE
    assert "usage: pyvmm" in capsys.readouterr().out


def test_overview_names_every_command_and_status() -> None:
    text = overview()
    for word in [*COMMANDS, *map(str, status.MEANINGS)]:
        assert f"  {word} " in text or f" {word} " in text


@pytest.mark.parametrize("word", ["-V", "--version"])
def test_version(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word]) == status.OK
    assert capsys.readouterr().out == f"pyvmm {pyvmm.__version__}\n"


def test_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fly"]) == status.USAGE
    assert "no command 'fly'" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert "options:" in text
    assert "SUPPRESS" not in text


@pytest.mark.parametrize(
    "words",
    [["run", "--fly"], ["run", "-c", "two"], ["run", "--flat", "x86"], ["guest"], ["doctor", "x"]],
)
def test_bad_arguments(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == status.USAGE
    assert "pyvmm: " in capsys.readouterr().err


def parsers_of(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """The parser and those of its subcommands."""
    subs = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return [parser, *(p for sub in subs for one in sub.choices.values() for p in parsers_of(one))]


@pytest.mark.parametrize("name", COMMANDS)
def test_no_option_may_be_abbreviated(name: str) -> None:
    parser = CommandParser()
    importlib.import_module(f"pyvmm.cli.{name}").add_parser(parser.add_subparsers())
    assert not any(one.allow_abbrev for one in parsers_of(parser))


def test_every_parser_of_the_tree_is_one_that_takes_no_abbreviations() -> None:
    plain = re.compile(r"argparse\.ArgumentParser\((?!Parser)")
    folders = [ROOT / name for name in ("pyvmm", "bench", "tests", ".ci", "csrc", "docs")]
    found = {
        str(path.relative_to(ROOT))
        for folder in folders
        for path in folder.rglob("*.py")
        if "tests/unit" not in str(path) and plain.search(path.read_text())
    }
    assert found == {"bench/sweep/matrix.py"}  # it only asks a parser for its options


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--share", ".", "--", "true"], "there is no option --share"),
        (["--mem", "1G"], "there is no option --mem"),
        (["--mem=1G", "--", "true"], "there is no option --mem=1G"),
        (["uname", "-a"], "comes after --, as in: pyvmm run -- uname -a"),
        (["-m", "1G", "sh", "-c", "exit 3"], "as in: pyvmm run -- sh -c 'exit 3'"),
        (["true"], "as in: pyvmm run -- true"),
        (["-v", "a", "--", "b"], "as in: pyvmm run -- a"),
    ],
)
def test_a_command_comes_after_two_dashes(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["run", *words])
    assert end.value.code == status.USAGE
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ConfigError("x"), status.USAGE),
        (errors.ImageError("x"), status.USAGE),
        (errors.HostError(1, "x"), status.HOST),
        (errors.StateError("x"), status.VMM),
        (errors.Error("x"), status.VMM),
        (KeyboardInterrupt(), status.INTERRUPTED),
    ],
)
def test_errors_become_statuses(
    error: BaseException,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(args: object) -> int:
        raise error

    monkeypatch.setattr(doctor, "main", fail)
    assert main(["doctor"]) == code
    said = capsys.readouterr().err
    assert said.startswith("pyvmm: ") == isinstance(error, errors.Error)


PROGRAM = (sys.executable, "-m", "pyvmm")


def run_with(
    descriptor: int, output: str, words: str, unbuffered: str = ""
) -> subprocess.CompletedProcess[str]:
    """Has the program run with that descriptor a full disk, closed, or a pipe without a reader."""
    env = os.environ | {"PYTHONUNBUFFERED": unbuffered, "PYTHONPATH": str(ROOT)}
    command = [*PROGRAM, *words.split()]
    if output == "closed":
        close = f"import os, sys; os.close({descriptor}); os.execv(sys.argv[1], sys.argv[1:])"
        command = [sys.executable, "-c", close, *command]
    reader, pipe = os.pipe()
    os.close(reader)
    with open(pipe, "w") as left, open("/dev/full", "w") as full:
        streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        if output != "closed":
            streams[("stdout", "stderr")[descriptor - 1]] = {"left": left, "full": full}[output]
        return subprocess.run(command, env=env, text=True, check=False, **streams)


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("words", "code"),
    [
        *(("--help", 0), ("run --help", 0), ("doctor --kvm /nowhere", status.HOST)),
        ("doctor --json --kvm /nowhere", status.HOST),
    ],
)
@pytest.mark.parametrize(
    ("output", "lost", "said"),
    [
        ("full", status.HOST, "standard output: No space left on device"),
        ("closed", status.HOST, "standard output: Bad file descriptor"),
        ("left", status.BROKEN_PIPE, ""),
    ],
)
def test_output_that_is_lost_is_no_success(
    words: str, code: int, output: str, lost: int, said: str, unbuffered: str
) -> None:
    done = run_with(1, output, words, unbuffered)
    # A report that is not buffered ends where its reader is missed, before there is a verdict.
    assert done.returncode in ({lost, code or lost} if output == "left" else {code or lost})
    assert said in done.stderr
    assert done.stderr.count("standard output") == bool(said)
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


@pytest.mark.parametrize("errors", ["full", "closed", "left"])
def test_nobody_hears_an_error_and_its_status_stays(errors: str) -> None:
    assert run_with(2, errors, "run --no-such-option").returncode == status.USAGE


def test_names_that_standard_output_has_no_letters_for(tmp_path: Path) -> None:
    name = b"\xff\xc3\xa9\xd0\x96"
    code = f"import sys, os; from pyvmm.cli import stdio; stdio.prepare(); print(os.fsdecode({name!r}))"
    for encoding, shown in (("ascii", b"\xff\\xe9\\u0416\n"), ("utf-8", name + b"\n")):
        env = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONPATH": str(ROOT)}
        assert subprocess.check_output([sys.executable, "-c", code], env=env) == shown


def test_importing_the_program_loads_nothing_heavy() -> None:
    heavy = (
        "argparse json subprocess tempfile pathlib dataclasses inspect asyncio pyvmm.vm pyvmm.lab"
    )
    code = (
        "import sys, pyvmm.cli.main; "
        f"print([name for name in {heavy.split()} if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"


def test_variables_for_the_lab(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "yes")
    monkeypatch.delenv("GONE", raising=False)
    assert lab.variables(["A=1", "HERE", "GONE"]) == {"A": "1", "HERE": "yes"}
    with pytest.raises(ConfigError, match="names no variable"):
        lab.variables(["=x"])


def test_the_lab_wants_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lab", "--"]) == status.USAGE
    assert "no command" in capsys.readouterr().err
