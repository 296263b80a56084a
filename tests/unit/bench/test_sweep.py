# SPDX-License-Identifier: Apache-2.0
"""Sweeps without a cluster: which cells there are, who gets them, which records are believed, how runs are pooled."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import command, run
from bench.report import page, points, record, stats
from bench.sweep import cell, dispatch, matrix, sweep
from bench.sweep.cell import TIMED_OUT, Outcome, Spec, kept
from bench.sweep.dispatch import TRIES, Dispatch, Ended, Lost, Worker
from bench.sweep.matrix import Cell
from pyvmm.cli import main as cli
from pyvmm.errors import ConfigError, HostError

# The matrix


def test_every_combination_is_a_cell_and_runs_come_in_turns() -> None:
    cells = matrix.cells(["swap"], {"linux": ["6.12", "6.1"], "memory": ["256", "400"]}, 2)
    assert [cell.name for cell in cells][:5] == [
        "swap-linux=6.12-memory=256-run1",
        "swap-linux=6.12-memory=400-run1",
        "swap-linux=6.1-memory=256-run1",
        "swap-linux=6.1-memory=400-run1",
        "swap-linux=6.12-memory=256-run2",
    ]
    assert len({cell.name for cell in cells}) == len(cells) == 8
    assert cells[0].words == ["--linux", "6.12", "--memory", "256"]
    assert cells[0].values == {"linux": "6.12", "memory": 256}
    assert [cell.name for cell in matrix.cells(["exits", "disk"], {})] == ["exits", "disk"]


@pytest.mark.parametrize(
    ("suites", "texts", "repeat", "said"),
    [
        (["swap"], ["memory"], 1, "as in --sweep memory=256,400"),
        (["swap"], ["memory="], 1, "as in --sweep"),
        (["swap"], ["memory=1,,2"], 1, "as in --sweep"),
        (["swap"], ["=1"], 1, "as in --sweep"),
        (["swap"], ["memory=256,256"], 1, "each value once"),
        (["swap"], ["memory=256", "memory=400"], 1, "is there twice"),
        (["swap"], ["memory=much"], 1, "swap wants int, not 'much'"),
        (["swap", "disk"], ["memory=256"], 1, "the suite disk has no such option.*scale"),
        (["swap"], ["json=a,b"], 1, "no such option"),
        (["swap"], ["quick=1"], 1, "no such option"),
        (["swap"], ["arm=RAM,direct"], 1, "no such option"),
        (["boot"], ["lkvm=/a,_a"], 1, "two cells would be called boot-lkvm=_a"),
        (["exits"], [], 0, "--repeat 0"),
    ],
)
def test_what_cannot_be_swept_is_named(
    suites: list[str], texts: list[str], repeat: int, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        matrix.cells(suites, matrix.axes(texts), repeat)


def test_the_command_refuses_before_it_measures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert cli.main(["bench", "exits", "--sweep", "exists=1,2", "--out", str(out)]) == 122
    assert "no such option" in capsys.readouterr().err
    assert not out.exists()


def test_without_dask_the_remedy_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    words = ["bench", "exits", "--scheduler", "tcp://127.0.0.1:1", "--out", str(tmp_path)]
    assert cli.main(words) == 122
    assert "pip install 'pyvmm-kvm[sweep]'" in capsys.readouterr().err


def test_words_of_a_cell_come_last() -> None:
    common = {**dict.fromkeys(command.COMMON), "linux": "6.1"}
    args = argparse.Namespace(**common, words=["--exits", "7"])
    assert run.command(args, "exits", Path("x"))[-2:] == ["--exits", "7"]
    assert run.command(args, "disk", Path("x"))[-4:] == ["--linux", "6.1", "--exits", "7"]


# Handing out

REVISION, SOURCES = "abc1234", "digest"
GOOD = Worker("h1", "m1", REVISION, SOURCES, "w1")


def specs(count: int) -> list[Spec]:
    return [Spec(Cell("exits", {"exits": str(n)}), {}, 60, REVISION, SOURCES) for n in range(count)]


class FakeJob:
    """Ends as it is told to, when it has been looked at three times: an outcome, an error, or never."""

    def __init__(self, end: Outcome | Exception | None, machine: str) -> None:
        self.end, self.machine = end, machine
        self.cancelled = False
        self.looks = 0

    def done(self) -> bool:
        self.looks += 1
        return self.over

    @property
    def over(self) -> bool:
        return self.cancelled or (self.end is not None and self.looks > 2)

    def outcome(self) -> Outcome:
        assert self.end is not None
        if isinstance(self.end, Exception):
            raise self.end
        return self.end

    def cancel(self) -> None:
        self.cancelled = True


class FakePool:
    """Workers that come and go by a script, one entry a look; the last one stays. `ends` are the jobs' by turns."""

    def __init__(self, script: list[dict[str, Worker]], ends: list[Any]) -> None:
        self.script, self.ends = script, ends
        self.begun: list[tuple[str, str]] = []
        self.jobs: list[FakeJob] = []
        self.most = 0

    def workers(self) -> dict[str, Worker]:
        return self.script.pop(0) if len(self.script) > 1 else self.script[0]

    def start(self, spec: Spec, address: str, worker: Worker) -> FakeJob:
        self.begun.append((spec.cell.name, address))
        end = self.ends.pop(0) if self.ends else Outcome(0, {}, "", worker.host)
        job = FakeJob(end, worker.machine)
        busy = [other.machine for other in self.jobs if not other.over]
        assert worker.machine not in busy
        self.most = max(self.most, len(busy) + 1)
        self.jobs.append(job)
        return job


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "LOOK", 0)


def dispatched(pool: FakePool, count: int) -> tuple[list[Ended], list[str]]:
    said: list[str] = []
    return list(Dispatch(pool, specs(count), said.append).run()), said


def test_each_cell_ends_once_whatever_its_machine() -> None:
    pool = FakePool([{"a": GOOD, "b": GOOD._replace(host="h2", machine="m2", identity="w2")}], [])
    ended, _ = dispatched(pool, 7)
    assert sorted(one.spec.cell.name for one in ended) == [f"exits-exits={n}" for n in range(7)]
    assert {address for _, address in pool.begun} == {"a", "b"}
    assert {(one.tries, one.failure) for one in ended} == {(1, "")}


def test_a_machine_has_one_cell_at_a_time() -> None:
    """Two workers are on m1, one on m2; FakePool.start looks."""
    third = GOOD._replace(host="h2", machine="m2", identity="w3")
    pool = FakePool([{"a": GOOD, "b": GOOD._replace(identity="w2"), "c": third}], [])
    dispatched(pool, 9)
    assert {address for _, address in pool.begun} == {"a", "b", "c"}
    assert pool.most == 2


def test_workers_of_a_machine_have_as_many_cells() -> None:
    pool = FakePool([{"a": GOOD, "b": GOOD._replace(identity="w2")}], [])
    dispatched(pool, 4)
    assert [address for _, address in pool.begun] == ["a", "b", "a", "b"]


def test_a_lost_worker_costs_a_try() -> None:
    other = GOOD._replace(identity="w2")
    pool = FakePool([{"a": GOOD}, {"b": other}], [None])
    ended, said = dispatched(pool, 2)
    assert [one.tries for one in ended] == [2, 1]
    assert [address for _, address in pool.begun] == ["a", "b", "b"]
    assert pool.jobs[0].cancelled
    assert "exits-exits=0: lost its worker h1 (a); it begins again, try 2 of 3" in said


def test_a_worker_that_came_back_is_another_one() -> None:
    pool = FakePool([{"a": GOOD}, {"a": GOOD._replace(identity="again")}], [None])
    ended, said = dispatched(pool, 1)
    assert (ended[0].tries, ended[0].failure) == (2, "")
    assert len([text for text in said if "lost its worker" in text]) == 1


def test_tries_are_bounded() -> None:
    pool = FakePool([{"a": GOOD}], [Lost("gone")] * TRIES)
    ended, said = dispatched(pool, 2)
    first, second = ended
    assert first.failure == f"lost its worker {TRIES} times, the last one h1 (a)"
    assert (first.outcome, second.failure) == (None, "")
    assert len([text for text in said if "begins again" in text]) == TRIES - 1


def test_what_fails_there_fails_once() -> None:
    pool = FakePool([{"a": GOOD}], [OSError(28, "no space left")])
    ended, _ = dispatched(pool, 2)
    assert ended[0].failure.startswith("OSError on h1: ")
    assert len(pool.begun) == 2


@pytest.mark.parametrize(
    ("worker", "why"),
    [
        (GOOD._replace(revision="fff0000"), "it has revision fff0000, this is abc1234"),
        (GOOD._replace(revision=REVISION + "+"), "it has revision abc1234[+]"),
        (GOOD._replace(sources="other"), "its sources differ"),
        (Worker(refused="it cannot use pyvmm"), "it cannot use pyvmm"),
    ],
)
def test_other_code_is_refused(worker: Worker, why: str) -> None:
    with pytest.raises(ConfigError, match=f"no worker that can be used: a: {why}"):
        dispatched(FakePool([{"a": worker}], []), 1)
    pool = FakePool([{"a": worker, "b": GOOD}], [])
    ended, said = dispatched(pool, 3)
    assert [one.failure for one in ended] == [""] * 3
    assert {address for _, address in pool.begun} == {"b"}
    assert len([text for text in said if text.startswith("worker a is refused")]) == 1


def test_without_a_worker_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "PATIENCE", 0.05)
    with pytest.raises(ConfigError, match="none came"):
        dispatched(FakePool([{}], []), 1)
    ended, _ = dispatched(FakePool([{"a": GOOD}, {}], [None]), 2)
    assert [one.failure for one in ended] == ["no worker is left that can be used"] * 2
    assert sorted(one.tries for one in ended) == [0, 1]


def test_who_stops_cancels() -> None:
    workers = {"a": GOOD, "b": GOOD._replace(machine="m2")}
    pool = FakePool([workers], [Outcome(0, {}, "", "h"), None])
    running = Dispatch(pool, specs(3), lambda text: None).run()
    assert next(running).failure == ""
    running.close()
    assert [job.cancelled for job in pool.jobs] == [False, True]


# One cell


def test_a_keeper_that_is_not_wanted_ends(tmp_path: Path) -> None:
    program = "import sys; sys.stdin.read(); print('told'); sys.exit(7)"
    with (tmp_path / "said").open("wb") as output:
        assert kept([sys.executable, "-c", program], output, lambda: False) == 7
        assert kept([sys.executable, "-c", "raise SystemExit(3)"], output, lambda: True) == 3
    assert (tmp_path / "said").read_text() == "told\n"


def test_a_machine_that_is_busy_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock goes with whoever has it; a keeper that nobody wants any more starts nothing."""
    monkeypatch.setattr(cell.tempfile, "gettempdir", lambda: str(tmp_path))
    looks = iter([False, False, True])
    monkeypatch.setattr(cell, "unwanted", lambda seconds: next(looks))
    monkeypatch.setattr(cell, "adopt_orphans", lambda: None)
    with cell.machine_lock() as ours, cell.machine_lock() as other:
        assert cell.taken(ours)
        assert not cell.taken(other)
        (spec,) = specs(1)
        assert cell.guarded(spec, str(tmp_path)) == cell.UNWANTED
        assert next(looks, None) is None
        ours.close()
        assert cell.taken(other)
    assert spec.sources != record.sources()
    assert cell.guarded(spec, str(tmp_path)) == cell.CHANGED


# What comes back

SAMPLES = {"base": {"x": [2.0, 2.0, 2.0]}, "mine": {"x": [1.0, 1.1, 0.9]}}


def record_of(**more: Any) -> dict[str, Any]:
    made = {
        "suite": "exits", "schema": record.SCHEMA, "revision": REVISION, "samples": SAMPLES, "base": "base",
        "machine": {**record.environment(), "time": "now"}, "scale": 1, "unit": "s", "notes": "", "aims": [],
    }  # fmt: skip
    return {**made, **more}


@pytest.mark.parametrize(
    ("outcome", "why"),
    [
        (Outcome(0, record_of(), "", "h"), ""),
        (Outcome(0, record_of(revision=REVISION + "00"), "", "h"), ""),
        (Outcome(0, record_of(schema=record.SCHEMA - 1), "", "h"), "from h has schema 2, not 3"),
        (Outcome(0, record_of(suite="disk"), "", "h"), "one of the suite disk"),
        (Outcome(0, record_of(revision="0ther"), "", "h"), "of revision 0ther, this is abc1234"),
        (Outcome(0, record_of(revision=REVISION + "+"), "", "h"), "of revision abc1234[+]"),
        (Outcome(0, None, "", "h"), "left no record on h"),
        (Outcome(0, {"suite": "exits"}, "", "h"), "left no record"),
        (Outcome(1, None, "a\nno KVM\n", "h"), "failed on h \\(status 1\\): no KVM"),
        (Outcome(cell.CHANGED, None, "", "h"), "the sources on h are not those"),
        (Outcome(TIMED_OUT, None, "", "h"), "did not end within 60 s on h"),
    ],
)
def test_records_are_checked(outcome: Outcome, why: str, tmp_path: Path) -> None:
    (spec,) = specs(1)
    said = sweep.keep(tmp_path, Ended(spec, outcome, "tcp://a", 2))
    if why:
        with pytest.raises(ValueError, match=why):
            raise ValueError(said)
        assert not list(tmp_path.glob("*.json"))
        return
    assert said == ""
    found = record.load(tmp_path / "exits-exits=0.json")
    assert found["cell"] == {
        "name": "exits-exits=0", "options": {"exits": 0}, "run": 0, "host": "h", "worker": "tcp://a", "tries": 2,
    }  # fmt: skip


def swept(folder: Path, ended: list[Ended], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    def ended_cells(_: sweep.Sweep) -> Any:
        yield from ended
        if len(ended) < 3:
            raise HostError("the scheduler is gone")

    monkeypatch.setattr(sweep, "ended_cells", ended_cells)
    cells = [spec.cell for spec in specs(3)]
    return sweep.run(sweep.Sweep(cells, {}, folder, 60))


def test_a_failed_cell_leaves_no_row_of_an_older_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, three = specs(3)
    well = [Ended(spec, Outcome(0, record_of(), "", "h"), "a", 1) for spec in (one, two, three)]
    assert swept(tmp_path, well, monkeypatch) == {}
    ill = Ended(two, None, "", 3, "lost its worker 3 times")
    assert swept(tmp_path, [well[0], ill, well[2]], monkeypatch) == {
        "exits-exits=1": "lost its worker 3 times"
    }
    assert not (tmp_path / "exits-exits=1.json").exists()
    text = page.write(tmp_path).read_text()
    assert text.count("<h2>exits-exits=") == 2
    assert "lost its worker 3 times" in text
    assert "| exits-exits=1 | lost its worker 3 times |" in (tmp_path / "summary.md").read_text()


def test_a_scheduler_that_goes_away_spoils_the_rest_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = specs(1)[0]
    with pytest.raises(HostError):
        swept(tmp_path, [], monkeypatch)
    ended = [Ended(one, Outcome(0, record_of(), "", "h"), "a", 1)]
    failed = swept(tmp_path, ended, monkeypatch)
    assert failed == dict.fromkeys(["exits-exits=1", "exits-exits=2"], "the scheduler is gone")
    assert record.load(tmp_path / "exits-exits=0.json")["samples"] == SAMPLES


def test_sweeps_are_compared_cell_by_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = [Ended(spec, Outcome(0, record_of(), "", "h"), "a", 1) for spec in specs(3)]
    for folder in (tmp_path / "old", tmp_path / "new"):
        folder.mkdir()
        assert swept(folder, ended, monkeypatch) == {}
    assert command.report(tmp_path / "new", tmp_path / "old") == 0
    assert capsys.readouterr().out.count("== exits-exits=") == 3


# Pooling


def test_ratios_are_pooled_not_samples() -> None:
    """A machine that is ten times slower does not move the ratio, as mixed samples would."""
    slow = [value * 10 for value in SAMPLES["base"]["x"]]
    runs = [(SAMPLES["mine"]["x"], SAMPLES["base"]["x"]), ([20.0, 20.0], slow)]
    middle, low, high = stats.pooled(runs)
    assert middle == pytest.approx(0.5**0.5)
    assert low <= middle <= high
    assert stats.pooled(runs[:1])[0] == stats.ratio(*runs[0])[0] == 0.5


def cells_of(values: list[Any], hosts: list[str]) -> list[dict[str, Any]]:
    return [
        record_of(
            cell={
                "name": f"exits-n={value}-{host}", "options": {"n": value}, "run": 1, "host": host, "worker": host,
                "tries": 1,
            }
        )
        for value in values
        for host in hosts
    ]  # fmt: skip


def test_points_say_how_many_runs_and_where() -> None:
    found = cells_of([1, 2], ["h1", "h2"])
    found[0]["samples"] = {**SAMPLES, "mine": {"x": [4.0, 4.0, 4.0]}}
    first, second = points.points(found)
    assert (first.options, first.runs, first.hosts) == ({"n": 1}, 2, ("h1", "h2"))
    assert (first.least, first.most, first.ratio[0]) == (0.5, 2.0, pytest.approx(1.0))
    assert (second.options, second.ratio[0]) == ({"n": 2}, pytest.approx(0.5))


def test_bases_and_suites_are_not_pooled_together() -> None:
    found = [*cells_of([1], ["h1"]), *cells_of([1], ["h2"])]
    found[1]["base"] = "mine"
    heads = list(points.tables(found, {}))
    assert heads == [
        "cells",
        "exits: ratios to base, pooled over runs",
        "exits: ratios to mine, pooled over runs",
    ]


def test_what_is_not_above_zero_is_left_out() -> None:
    (one,) = cells_of([1], ["h1"])
    one["samples"] = {"base": {"x": [1.0, 1.0]}, "mine": {"x": [-1.0, 1.0]}}
    assert points.points([one]) == []


@pytest.mark.parametrize(("values", "axis"), [([1, 2], "n"), (["6.12", "6.1"], "n"), ([1], "")])
def test_a_picture_goes_along_an_option(values: list[Any], axis: str, tmp_path: Path) -> None:
    found = cells_of(values, ["h1"])
    assert points.axis_of(points.points(found)) == axis
    for path in points.pictures(tmp_path, found):
        assert path.read_bytes().startswith(b"\x89PNG")
    assert len(list(tmp_path.glob("sweep-exits-*.png"))) == bool(axis)


def test_lines_of_a_picture_are_subjects_and_other_options() -> None:
    found = cells_of([1, 2], ["h1"])
    for one, linux in zip(found, ("6.12", "6.1"), strict=True):
        one["cell"]["options"]["linux"] = linux
    made = points.points(found)
    assert points.axis_of(made) == "n"
    assert {name: sorted(lines) for name, lines in points.panels(made, "n").items()} == {
        "x": ["mine, linux=6.1", "mine, linux=6.12"]
    }


def test_the_page_names_the_machine_of_each_cell(tmp_path: Path) -> None:
    for one in cells_of([1, 2], ["h1", "<h2>"]):
        (tmp_path / f"{one['cell']['name'].strip('<>')}.json").write_text(json.dumps(one))
    text = page.write(tmp_path).read_text()
    assert text.count("<td>&lt;h2&gt;</td>") == 4  # machine and worker of two cells
    assert text.count("data:image/png;base64,") == 5
    text = (tmp_path / "summary.md").read_text()
    assert "| exits-n=1-h1 | h1 | h1 | 1 |" in text
    assert "| x | mine | n=1 | 0.500 (" in text
    assert "| 0.500 to 0.500 | 2 | <h2>, h1 |" in text


# The code that measures


def test_two_trees_with_one_revision_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = []
    monkeypatch.setattr(record, "ROOT", tmp_path)
    (tmp_path / "bench" / "out").mkdir(parents=True)
    for text, written in (("a", "1"), ("b", "2"), ("a", "3")):
        (tmp_path / "bench" / "x.py").write_text(text)
        (tmp_path / "bench" / "out" / "x.json").write_text(written)
        digests.append(record.sources.__wrapped__())
    assert digests[0] == digests[2] != digests[1]


@pytest.mark.parametrize(
    ("mine", "other", "same"),
    [
        ("abc1234", "abc1234", True),
        ("abc1234", "abc12345", True),
        ("abc1234+", "abc12345+", True),
        ("abc1234", "abc1234+", False),
        ("abc1234", "abc1235", False),
        ("abc1234", "", False),
    ],
)
def test_revisions_are_compared(mine: str, other: str, same: bool) -> None:
    assert record.same_revision(mine, other) is same
    assert record.same_revision(other, mine) is same
