# SPDX-License-Identifier: Apache-2.0
"""The shape of a suite: a file that is found by its folder, and what a run of it leaves."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bench import options, suites
from bench.report import record
from bench.report.aims import Aim
from bench.suite import Subjects, Suite
from bench.suites import disk
from pyvmm.launch.parser import Parser

FOLDER = Path(suites.__file__).parent


def test_each_file_is_a_suite_and_those_for_any_kvm_come_first() -> None:
    found = suites.every()
    assert set(found) == {path.stem for path in FOLDER.glob("*.py")} - {"__init__"}
    kinds = [suite.linux for suite in found.values()]
    assert kinds == sorted(kinds)
    assert set(kinds) == {False, True}


@pytest.mark.parametrize("name", suites.every())
def test_options_are_those_of_all_suites_and_its_own(name: str) -> None:
    parser = Parser()
    suite = suites.every()[name]
    suite.add_options(parser)
    args = vars(parser.parse_args(["--quick", "--rounds", "3", "--json", "x"]))
    assert (args["quick"], args["rounds"], args["json"]) == (True, 3, "x")
    assert ("linux" in args) == suite.linux


def test_the_disk_s_figures_are_the_program_s() -> None:
    said = "".join(f"@@{name} 2.0 {1 << 20}\n" for name in ("warm-up", *disk.FIGURES))
    assert disk.parse(said) == dict.fromkeys(disk.FIGURES, 2.0)
    source = (FOLDER.parent / "loads" / "diskload.c").read_text()
    assert all(f'run("{name}"' in source for name in disk.FIGURES)


# A run


@contextmanager
def subjects(args: argparse.Namespace) -> Iterator[Subjects]:
    def broken() -> dict[str, float]:
        if args.broken:
            raise RuntimeError("no more")
        return {"exit": 2e-6}

    yield Subjects(
        {"base": lambda: {"exit": 1e-6}, "ours": broken},
        "base",
        [Aim("ours", "exit", "base", 1.5)],
        "what it is",
        {"size": 7},
        lambda plan: {"later": plan.rounds},
    )


def tell(found: Mapping[str, Any]) -> str:
    return f"later: {found['later']}"


MADE = Suite("a text", subjects, unit="us", scale=1e6, rounds=4, quick=2, tell=tell)


def arguments(folder: Path, *words: str, broken: bool = False) -> argparse.Namespace:
    parser = Parser()
    options.add(parser)
    args = parser.parse_args(["--json", str(folder / "made.json"), *words])
    args.broken = broken
    return args


def test_a_run_leaves_a_record_a_table_and_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "made.png"
    MADE.run("made", arguments(tmp_path, "--quick", "--plot", str(picture)))
    found = record.load(tmp_path / "made.json")
    assert (found["suite"], found["base"], found["size"], found["later"]) == ("made", "base", 7, 2)
    assert found["samples"]["ours"]["exit"] == [2e-6, 2e-6]
    assert [aim["word"] for aim in found["aims"]] == ["missed"]
    said = capsys.readouterr().out
    assert all(text in said for text in ("what it is", "later: 2", "2.000", "missed", str(picture)))
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_what_there_is_outlasts_a_run_that_is_cut_short(tmp_path: Path) -> None:
    args = arguments(tmp_path)
    rounds = iter([False, False, True])

    class Breaking(argparse.Namespace):
        @property
        def broken(self) -> bool:
            return next(rounds)

    del args.broken
    with pytest.raises(RuntimeError, match="no more"):
        MADE.run("made", Breaking(**vars(args)))
    assert record.load(tmp_path / "made.json")["samples"]["base"]["exit"] == [1e-6, 1e-6]
