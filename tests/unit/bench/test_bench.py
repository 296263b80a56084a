# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of the benchmarks: ratios, rounds cut out of traces, aims, charts."""

from __future__ import annotations

import argparse
import json
import random
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bench import rounds
from bench.__main__ import main
from bench.loads import clock, symguest
from bench.report import chart, compare, stats, steps
from bench.report import record as records
from bench.report.aims import Aim, Verdict, verdicts
from bench.suites import symcall
from bench.suites.symcall import AIMS
from pyvmm.cli.main import main as pyvmm
from pyvmm.launch import status

SAMPLES = {
    "exit": {"CPL 0": [10.0, 10.0, 11.0, 9.0, 10.0], "CPL 3": [20.0, 20.0]},
    "call": {"CPL 0": [20.0, 21.0, 19.0, 20.0, 30.0]},
}


def test_ratio_of_medians_and_its_interval() -> None:
    middle, low, high = stats.ratio(SAMPLES["call"]["CPL 0"], SAMPLES["exit"]["CPL 0"])
    assert middle == 2.0
    assert low <= middle <= high
    assert stats.ratio([3.0], [2.0]) == (1.5, 1.5, 1.5)


# Traces


def record(request: int, begin: int, end: int, result: int = 0, fd: int = 5) -> clock.Record:
    return clock.Record(begin, end, request, result, 77, fd)


def symcall_trace(rounds: int) -> list[clock.Record]:
    """Set-up on other descriptors, then rounds of an exit of 10 us, a settle of 1, a handler of 12, 0.5 in between."""
    records = [record(0xAE01, 0, 50, fd=3), record(steps.SET_REGS, 60, 70)]
    at = 1000
    records.append(record(steps.KVM_RUN, 500, 900))
    for _ in range(rounds + symguest.WARM_UP):
        for length, result in ((10_000, 0), (1000, -4), (12_000, 0)):
            records.append(record(steps.KVM_RUN, at, at + length, result))
            at += length + 500
    records.append(record(steps.KVM_RUN, at, at + 10_000))
    records.append(record(steps.KVM_RUN, at + 11_000, at + 12_000, -4))
    return records


def cut(records: list[clock.Record], rounds: int) -> list[list[clock.Record]]:
    return steps.rounds_of(records, rounds, symguest.WARM_UP)


def test_records_are_read_back() -> None:
    records = symcall_trace(3)
    data = b"".join(clock.RECORD.pack(*one) for one in records)
    assert clock.parse(data) == records


def test_rounds_and_their_steps() -> None:
    records = symcall_trace(20)
    found_rounds = cut(records, 20)
    assert len(found_rounds) == 20
    assert {len(one) for one in found_rounds} == {4}
    found = {share.step: share for share in steps.shares(found_rounds)}
    assert list(found) == [steps.EXIT, steps.SETTLE, steps.HANDLER, steps.VMM]
    assert found[steps.EXIT].seconds == pytest.approx(10e-6)
    assert found[steps.SETTLE].seconds == pytest.approx(1e-6)
    assert found[steps.HANDLER].seconds == pytest.approx(12e-6)
    assert found[steps.VMM].seconds == pytest.approx(1.5e-6)
    assert found[steps.VMM].times == 3
    assert sum(share.part for share in found.values()) == pytest.approx(1)
    assert steps.seconds(found_rounds) == pytest.approx(24.5e-6)


def test_a_disturbed_round_is_left_out() -> None:
    records = symcall_trace(20)
    at = next(i for i, one in enumerate(records) if one.begin > 2_900_000)
    records[at] = records[at]._replace(request=steps.GET_REGS)
    assert len(cut(records, 20)) in (18, 19)
    assert steps.GET_REGS not in {one.request for r in cut(records, 20) for one in r}


def test_register_ioctls_are_named() -> None:
    records = [record(steps.KVM_RUN, 0, 10)]
    at = 20
    for _ in range(5 + symguest.WARM_UP):
        for request in (
            steps.KVM_RUN,
            steps.GET_REGS,
            steps.SET_REGS,
            steps.KVM_RUN,
            steps.SET_REGS,
        ):
            records.append(record(request, at, at + 10))
            at += 10
    records.append(record(steps.KVM_RUN, at, at + 10))
    found = {share.step: share for share in steps.shares(cut(records, 5))}
    assert found["set registers"].times == 2
    assert found["set registers"].seconds == pytest.approx(20e-9)
    assert found["get registers"].times == 1
    assert found[steps.VMM].seconds == 0


def test_steps_of_several_runs_are_merged() -> None:
    def run(*seconds: float) -> list[steps.Share]:
        return [steps.Share("exit", 1, seconds[0], 0), steps.Share(steps.VMM, 1, seconds[1], 0)]

    other = [steps.Share("exit", 2, 100, 1)]
    found = steps.merged([run(3, 1), run(2, 1), run(9, 1), other])
    assert found == [steps.Share("exit", 1, 3, 0.75), steps.Share(steps.VMM, 1, 1, 0.25)]


def test_steps_as_text() -> None:
    text = steps.table({"call": steps.shares(cut(symcall_trace(5), 5))})
    assert "call: 24.50 us a round" in text
    assert "49.0 %" in text


# Aims


def test_aims_are_judged_by_the_ratio() -> None:
    names = {name for aim in AIMS for name in (aim.subject, aim.base)}
    samples = {name: {"CPL 0": [2.0] * 5, "CPL 3": [2.0] * 5} for name in names}
    assert all(verdict.met for verdict in verdicts(AIMS, samples))
    aim = Aim("call", "CPL 0", "exit", 2.1)
    assert "met" in str(Verdict(aim, 2.0, 1.9, 2.05))
    assert "missed" in str(Verdict(aim, 2.2, 2.15, 2.3))
    assert "met within the spread" in str(Verdict(aim, 2.0, 1.9, 2.2))
    assert "missed within the spread" in str(Verdict(aim, 2.2, 2.0, 2.3))
    none = Aim("call", "CPL 0", "exit", 1.0)
    assert str(Verdict(none, 1.02, 0.99, 1.05)).endswith("aim at most 1: met within the spread")
    assert str(Verdict(none, 0.98, 0.95, 1.05)).endswith("met")
    assert str(Verdict(none, 1.02, 1.01, 1.05)).endswith("missed")


# Rounds


def test_rounds_are_mirrored_and_their_order_drawn() -> None:
    seen: list[str] = []

    def subject(name: str) -> dict[str, float]:
        seen.append(name)
        return {"figure": 1.0}

    subjects = {name: partial(subject, name) for name in "ABCDE"}
    samples = rounds.interleave(subjects, rounds.Plan(4, seed=7))
    orders = [seen[at : at + 5] for at in range(0, 20, 5)]
    assert orders[1] == orders[0][::-1]
    assert orders[3] == orders[2][::-1]
    assert orders[2] != orders[0]
    assert all(sorted(order) == list("ABCDE") for order in orders)
    assert {name: len(found["figure"]) for name, found in samples.items()} == dict.fromkeys(
        "ABCDE", 4
    )


def count_rounds(value: float, plan: rounds.Plan) -> int:
    chance = random.Random(1)
    subjects = {
        "base": lambda: {"figure": chance.uniform(1, 1.1)},
        "other": lambda: {"figure": value * chance.uniform(1, 1.1)},
    }
    return len(rounds.interleave(subjects, plan)["base"]["figure"])


def test_rounds_end_when_the_difference_is_beyond_chance() -> None:
    assert count_rounds(2.0, rounds.Plan(20, "base")) == 8  # for 2 in 12870, and not 2 in 924
    assert count_rounds(1.0, rounds.Plan(20, "base")) == 20
    assert count_rounds(2.0, rounds.Plan(20)) == 20
    assert count_rounds(1.0, rounds.Plan(20, "base", budget=0)) == 2


# Programs that hang


def test_a_program_that_hangs_is_run_again_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the lab's emulator makes one now and then."""
    monkeypatch.setattr(symcall, "PATIENCE", 2.0)
    program = tmp_path / "program"
    records = tmp_path / "records"
    records.write_bytes(clock.RECORD.pack(*record(steps.KVM_RUN, 1, 2)))
    program.write_text(
        f"#!/bin/sh\n[ -e {tmp_path}/been ] && exec cp {records} $IOCTL_CLOCK\n"
        f": > {tmp_path}/been\nexec sleep 60\n"
    )
    program.chmod(0o755)
    bare = symcall.Bare.__new__(symcall.Bare)
    bare.program, bare.image, bare.library, bare.lost = str(program), "image", "", 0
    assert bare.run("plain", 0, 1) == [record(steps.KVM_RUN, 1, 2)]
    assert bare.lost == 1


# Charts


def test_bars_are_grouped_and_compared() -> None:
    made = chart.bars(SAMPLES, "exit", ["CPL 0", "CPL 3"])
    assert [(bar.group, bar.name) for bar in made] == [
        ("CPL 0", "exit"),
        ("CPL 0", "call"),
        ("CPL 3", "exit"),
    ]
    call = made[1]
    assert call.middle == 20.0
    assert (call.low, call.high) == (20.0, 21.0)
    assert call.ratio[0] == 2.0
    assert made[0].ratio[0] == 1.0


def test_chart_on_a_terminal() -> None:
    lines = chart.text(
        chart.bars(SAMPLES, "exit", ["CPL 0", "CPL 3"]), "us", 1.0, width=100
    ).splitlines()
    assert lines[0] == "CPL 0"
    assert "10.00 us   1.00 x" in lines[1]
    assert "20.00 us   2.00 x" in lines[2]
    assert abs(lines[2].count(chart.FULL) - 2 * lines[1].count(chart.FULL)) <= 2
    assert max(map(len, lines)) <= 100


def test_picture(tmp_path: Path) -> None:
    target = tmp_path / "chart.png"
    shares = {"call": steps.shares(cut(symcall_trace(5), 5))}
    chart.picture(
        str(target), "a title", chart.bars(SAMPLES, "exit", ["CPL 0", "CPL 3"]), shares, "us", 1.0
    )
    data = target.read_bytes()
    assert data.startswith(b"\x89PNG")
    assert len(data) > 10_000


# The guest


def test_the_image_has_its_parts_where_they_are_said_to_be() -> None:
    image = symguest.image()
    assert len(image) <= symguest.SIZE
    assert image[symguest.ENTRY : symguest.ENTRY + 3] == b"\x48\xff\xc3"  # inc rbx
    code = image[symguest.CODE : symguest.ENTRY]
    assert b"\x0f\x30" in code
    assert int.from_bytes(image[symguest.TABLES : symguest.TABLES + 8], "little") & 7 == 7
    descriptors = image[symguest.GDT : symguest.GDT + symguest.GDT_LIMIT + 1]
    assert descriptors[symguest.CS + 6] & 0x20  # a 64-bit code segment


# Two runs


def test_chance_of_a_difference() -> None:
    """Of 252 ways to deal ten values two set the small ones against the large ones."""
    low, high = [1.0, 1.1, 1.2, 1.3, 1.4], [2.0, 2.1, 2.2, 2.3, 2.4]
    assert stats.permutation(high, low) == stats.permutation(low, high)
    assert stats.permutation(low, high) == 2 / 252
    assert stats.permutation(low, low) == 1
    assert stats.permutation([3.0], [3.0]) == 1


def test_chance_by_lot_where_there_are_many_ways() -> None:
    low = [1 + n / 100 for n in range(12)]
    assert stats.arrangements(12, 12) > stats.PERMUTATIONS
    assert stats.permutation([n * 2 for n in low], low) == 1 / (stats.PERMUTATIONS + 1)
    assert stats.permutation(low[::2], low[1::2]) > 0.3


def record_of(values: list[float], **more: object) -> dict[str, Any]:
    return {"suite": "swap", "samples": {"direct": {"at random": values}}, **more}


def test_a_figure_that_got_worse_ends_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new, out = (tmp_path / name for name in ("old", "new", "out"))
    values = [1.0, 1.01, 1.02, 1.03, 1.04, 1.05, 1.06]
    old.write_text(json.dumps(record_of(values, revision="a")))
    new.write_text(json.dumps(record_of([2 * value for value in values], revision="b")))
    compared = argparse.Namespace(old=str(old), new=str(new), json=str(out))
    with pytest.raises(SystemExit) as ended:
        compare.main(compared)
    assert ended.value.code == 1
    assert "b against a" in capsys.readouterr().out
    (row,) = json.loads(out.read_text())
    assert (row["verdict"], row["ratio"]) == ("worse", 2)
    compare.main(argparse.Namespace(old=str(new), new=str(old), json=None))
    assert "better" in capsys.readouterr().out
    compare.main(argparse.Namespace(old=str(old), new=str(old), json=None))
    assert "the same" in capsys.readouterr().out


def test_few_samples_tell_nothing_and_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text(json.dumps(record_of([1.0, 1.1])))
    new.write_text(json.dumps(record_of([5.0, 5.1], linux="6.1")))
    compare.main(argparse.Namespace(old=str(old), new=str(new), json=None))
    said = capsys.readouterr().out
    assert "too few samples to tell at 0.01: at random" in said
    assert "linux: None and 6.1" in said


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"samples": 3}'])
def test_what_is_no_record_is_refused(tmp_path: Path, text: str) -> None:
    bad = tmp_path / "bad"
    bad.write_text(text)
    with pytest.raises(SystemExit, match="bad"):
        records.load(str(bad))


# What is written.


def bench(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["bench", *words])
    return main()


@pytest.mark.parametrize("option", ["--json", "--plot"])
def test_a_file_that_cannot_be_written_is_found_out_before_measuring(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("bench.suite.Suite.run", lambda *rest: pytest.fail("it measured"))
    monkeypatch.setattr("pyvmm.logbars.available", lambda: True)
    assert bench(monkeypatch, "exits", option, str(tmp_path)) == status.USAGE
    assert f"{option} {tmp_path}: Is a directory" in capsys.readouterr().err
    name = str(tmp_path / "x")
    assert bench(monkeypatch, "exits", "--json", name, "--plot", name) == status.USAGE
    assert "named twice" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_comparison_does_not_overwrite_what_it_compares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("{}")
    new.symlink_to(old)
    assert bench(monkeypatch, "compare", str(old), "x", "--json", str(new)) == status.USAGE
    assert old.read_text() == "{}"


def test_the_folder_of_a_comparison_is_not_measured_into(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "exits.json").write_text("{}")
    folder = str(tmp_path)
    assert pyvmm(["bench", "exits", "--out", folder, "--compare", folder]) == status.USAGE
    assert "--compare reads the same folder" in capsys.readouterr().err
    assert pyvmm(["bench", "exits", "--report", folder]) == status.USAGE
    assert "--report measures nothing" in capsys.readouterr().err
    assert (tmp_path / "exits.json").read_text() == "{}"


def test_the_picture_of_the_demo_is_found_out_before_it_boots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pyvmm.probe.probe", lambda: pytest.fail("it went on"))
    assert pyvmm(["demo", "--plot", str(tmp_path / "no" / "x.png")]) == status.USAGE
    assert "--plot " in capsys.readouterr().err
