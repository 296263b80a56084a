# SPDX-License-Identifier: Apache-2.0
"""The runner of the fuzz targets: what it makes of libFuzzer's output, and where inputs come from. No search."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from tests.fuzz import __main__ as fuzz
from tests.fuzz import corpus
from tests.fuzz.compile import CSRC, HERE
from tests.fuzz.targets import TARGETS, Target

if TYPE_CHECKING:
    from pathlib import Path

QUIET = """\
INFO: Loaded 1 modules   (1200 inline 8-bit counters): 1200 [0x1, 0x2),
#2\tINITED cov: 10 ft: 11 corp: 1/1b exec/s: 0 rss: 30Mb
#4096\tpulse  cov: 300 ft: 800 corp: 40/2Kb lim: 512 exec/s: 2048 rss: 40Mb
#9000\tDONE   cov: 310 ft: 810 corp: 41/2Kb lim: 512 exec/s: 3000 rss: 40Mb
stat::number_of_executed_units: 9000
"""
#: What a program says that found something.
LOUD = """\
#512\tNEW    cov: 20 ft: 30 corp: 2/2b lim: 4 exec/s: 0 rss: 30Mb L: 1/1 MS: 1 ChangeBit-
csrc/symbiotic/replay.c:32:24: runtime error: addition of unsigned offset overflowed
artifact_prefix='./'; Test unit written to /somewhere/crash-1
stat::number_of_executed_units: 600
"""


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Target:
    """One whose files are all in a folder of this test's."""
    monkeypatch.setenv("PYVMM_CACHE", str(tmp_path / "cache"))
    for module in (fuzz.compiling, corpus):
        monkeypatch.setattr(module, "OUT", tmp_path / "out")
    return Target("loop", "")


def saying(text: str, status: int) -> list[str]:
    """A program that says that."""
    return [sys.executable, "-c", f"import sys; print({text!r}); sys.exit({status})"]


def test_a_search_without_a_finding(
    target: Target, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fuzz, "command", lambda _: saying(QUIET, 0))
    outcome = fuzz.search(target, 1)
    assert outcome[2:] == (9000, 310, 1200, 41, "", 0)
    assert "310 edges " in capsys.readouterr().out


def test_a_finding_is_shown_with_the_way_to_have_it_again(
    target: Target, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fuzz, "command", lambda _: saying(LOUD, 77))
    outcome = fuzz.search(target, 1)
    assert (outcome.status, outcome.finding, outcome.executions) == (77, "/somewhere/crash-1", 600)
    said = capsys.readouterr().out
    assert "runtime error: addition" in said
    assert "python -m tests.fuzz loop --input /somewhere/crash-1" in said


def test_a_program_that_dies_without_a_word_is_a_finding(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzz, "command", lambda _: saying("", 3))
    assert fuzz.search(target, 1).status == 3


def test_the_status_is_that_of_the_findings(
    target: Target, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    texts = {"loop": LOUD, "serial": QUIET}
    monkeypatch.setattr(fuzz, "command", lambda each: saying(texts[each.name], each.name == "loop"))
    for names, status in ((["serial"], 0), (["loop", "serial"], 1)):
        monkeypatch.setattr(sys, "argv", ["fuzz", *names, "--json", str(tmp_path / "json")])
        assert fuzz.main() == status


def test_seeds_come_out_as_they_went_in(
    target: Target, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(corpus, "HERE", tmp_path)
    inputs = {b"", b"\0", b"abc" * 100}
    (tmp_path / "small").mkdir()
    for number, content in enumerate(inputs):
        (tmp_path / "small" / str(number)).write_bytes(content)
    first = corpus.pack("loop", tmp_path / "small")
    assert {path.read_bytes() for path in corpus.seeds("loop").iterdir()} == inputs
    assert corpus.pack("loop", corpus.seeds("loop")) == first


def test_every_target_is_there() -> None:
    for target in TARGETS.values():
        sources = [CSRC / f"{part}.c" for part in target.parts]
        sources += [HERE / f"{part}.c" for part in target.harness]
        sources += [] if target.is_c else [HERE / f"{target.name}_target.py"]
        assert [path for path in sources if not path.exists()] == []
        for name, large, _ in target.smaller:
            assert large in (CSRC / name).read_text()
    assert {path.name for path in (HERE / "found").iterdir()} <= set(TARGETS)
