# SPDX-License-Identifier: Apache-2.0
"""Programs that people know: what they are told, what they say, and those of our own run here with little memory."""

from __future__ import annotations

import argparse
import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from bench import suites
from bench.loads import programs
from bench.loads.programs import PROGRAMS, Size
from bench.peers import arms
from bench.suites import workloads
from pyvmm.debian import distro
from pyvmm.demo import swapload
from pyvmm.demo.swapload import Job
from pyvmm.errors import HostError

if TYPE_CHECKING:
    from pathlib import Path

SIZE = Size(mib=2, processes=2, seconds=0.2, passes=2, requests=2000)

REDIS = """\
Latency by percentile distribution:
0.000% <= 0.015 milliseconds (cumulative count 1)
50.000% <= 0.023 milliseconds (cumulative count 1000)
98.438% <= 0.063 milliseconds (cumulative count 1971)
99.219% <= 1.711 milliseconds (cumulative count 1985)
99.902% <= 2.087 milliseconds (cumulative count 1999)
100.000% <= 2.103 milliseconds (cumulative count 2000)
Cumulative distribution of latencies:
  throughput summary: 25000.00 requests per second
keyspace_hits:2000\r
keyspace_misses:0\r
wrong:0
"""
SQLITE = "right|2000\nRun Time: real 0.500 user 0.027874 sys 0.000000\n"
STRESS = """\
@@stress-ng status: 0
metrics:
    - stressor: vm
      bogo-ops: 2560
      bogo-ops-per-second-real-time: 112.890538
      wall-clock-time: 0.256000
"""


def said(name: str, **changes: Any) -> str:
    """What membench prints of two processes."""
    words = {"schema": 1, "program": name, "bytes": 1 << 20, "operations": 8, "wrong": 0}
    times = {"fill": [4.0, 4.0], "time": [20.0, 20.0]}
    return f"noise\n@@{json.dumps({**words, **times, **changes})}\n"


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_script_is_one(name: str) -> None:
    words = PROGRAMS[name].command(arms.Arm(arms.DIRECT, 128, 256).start(), SIZE)
    assert words[:2] == ["sh", "-c"]
    assert words[3:] == ["sh", *PROGRAMS[name].words(SIZE)]
    subprocess.run(["sh", "-n", "-c", words[2]], check=True)
    assert distro.SERIAL in words[2] or not PROGRAMS[name].debian


def test_what_the_guest_is_told() -> None:
    gups = PROGRAMS["gups"].words(SIZE)
    assert gups == ["-m", "2048", "-p", "2", "-s", "0.2", "-r", "2", "gups"]
    processes, keys, value, requests, step = map(int, PROGRAMS["redis"].words(Size(200, 2)))
    assert (processes, value, requests) == (2, programs.VALUE, 10000)
    assert 90 << 20 < keys * value <= 100 << 20
    assert 900 < keys // step < 1100
    assert PROGRAMS["sqlite"].words(Size(200)) == ["1", "51200", "10000"]
    assert PROGRAMS["stress-ng"].words(Size(200, 4)) == ["4", "200", "25600"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gups", {programs.UPDATE: 10e-9, programs.FILLING: 2e-9}),
        ("stream", {programs.TRIAD: 10e-9}),
        ("sort", {programs.KEY: 10e-9}),
    ],
)
def test_membench_s_figures_are_seconds(name: str, expected: dict[str, float]) -> None:
    figures = PROGRAMS[name].figures
    assert figures(said(name), SIZE) == pytest.approx(expected)
    with pytest.raises(HostError, match="did not finish:\nKilled"):
        figures("Killed\n", SIZE)
    with pytest.raises(HostError, match="3 words of memory"):
        figures(said(name, wrong=3), SIZE)
    with pytest.raises(HostError, match="1 processes, not 2"):
        figures(said(name, time=[20.0]), SIZE)


def test_redis_s_figures() -> None:
    figures = PROGRAMS["redis"].figures
    slower = REDIS.replace("50.000% <= 0.023", "50.000% <= 0.030")
    found = figures(f"boot\n@@redis 1\n{REDIS}@@redis 2\n{slower}", SIZE)
    assert found == pytest.approx(
        {
            programs.REQUEST: 20e-6,
            programs.P50: 30e-6,
            programs.P99: 1711e-6,
            programs.P999: 2087e-6,
        }
    )


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("wrong:0", "wrong:7", "7 values"),
        ("keyspace_hits:2000", "keyspace_hits:1999", "only 1999"),
        ("keyspace_misses:0", "keyspace_misses:1", "found a key"),
        ("throughput", "nothing", "did not finish"),
        ("wrong:0", "wrong:", "did not finish"),
        ("@@redis 2", "", "did not finish"),
    ],
)
def test_redis_that_went_wrong(old: str, new: str, error: str) -> None:
    output = f"@@redis 1\n{REDIS}@@redis 2\n{REDIS}".replace(old, new)
    with pytest.raises(HostError, match=error):
        PROGRAMS["redis"].figures(output, SIZE)


def test_sqlite_s_figures() -> None:
    figures = PROGRAMS["sqlite"].figures
    both = f"@@sqlite 1\n{SQLITE}@@sqlite 2\n{SQLITE}"
    assert figures(both, SIZE) == pytest.approx({programs.LOOKUP: 125e-6})
    for old, new, error in (
        ("right|2000", "right|1999", "1999 of 2000"),
        ("Run Time", "Error", "did not finish"),
        ("@@sqlite 2", "", "did not finish"),
    ):
        with pytest.raises(HostError, match=error):
            figures(both.replace(old, new), SIZE)


def test_stress_ng_s_figures() -> None:
    figures = PROGRAMS["stress-ng"].figures
    assert figures(STRESS, SIZE) == pytest.approx({programs.SWEPT: 100e-6})
    for old, new, error in (
        ("status: 0", "status: 2", "ended with 2"),
        ("bogo-ops: 2560", "bogo-ops: 3", "only 3"),
        ("wall-clock-time", "nothing", "did not finish"),
    ):
        with pytest.raises(HostError, match=error):
            figures(STRESS.replace(old, new), SIZE)


def test_the_bystander_s_figure() -> None:
    """8 MiB compressed in 4 seconds; what it stood beside is looked at too."""
    figures = PROGRAMS["bystander"].figures
    line = "@@bystander 4 2097152 10.25 14.25\n"
    assert figures(line + said("gups"), SIZE) == {programs.COMPRESSED: pytest.approx(0.5)}
    with pytest.raises(HostError, match="3 words of memory"):
        figures(line + said("gups", wrong=3), SIZE)
    with pytest.raises(HostError, match="did not compress"):
        figures("@@bystander 0 2097152 10.25 14.25\n" + said("gups"), SIZE)
    with pytest.raises(HostError, match="did not finish"):
        figures(said("gups"), SIZE)


@pytest.mark.parametrize("name", ["gups", "stream", "sort"])
@pytest.mark.parametrize("processes", [1, 3])
def test_our_own_programs_run_here(name: str, processes: int) -> None:
    size = SIZE._replace(processes=processes)
    words = [str(programs.membench_path()), *PROGRAMS[name].words(size)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert all(value > 0 for value in PROGRAMS[name].figures(done.stdout, size).values())
    found = json.loads(done.stdout.removeprefix("@@"))
    operations = {"stream": 2 * (1 << 18), "sort": 1 << 17}.get(name, found["operations"])
    assert found["operations"] == pytest.approx(operations, rel=1e-4)
    assert found["operations"] > 0


@pytest.mark.parametrize(
    "words", [["walk"], [], ["-p", "0", "gups"], ["-m", "4", "-p", "2", "sort"]]
)
def test_our_own_programs_refuse_what_makes_no_sense(words: list[str]) -> None:
    command = [str(programs.membench_path()), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("membench: ")
    assert done.stdout == ""


# The suite


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    workloads.SUITE.add_options(parser)
    return parser.parse_args(words)


def test_options(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(workloads, "find_guest", lambda linux: linux)
    monkeypatch.setattr(distro, "disk", lambda wanted: tmp_path)
    setting = workloads.setting_of(arguments())
    assert (setting.ram_mib, setting.size.mib, setting.swap_mib % 2) == (128, 204, 0)
    assert setting.swap_mib > setting.size.mib
    assert (setting.disk, setting.size.requests) == (str(tmp_path), 10000)
    setting = workloads.setting_of(arguments("--quick"))
    assert (setting.ram_mib, setting.size.mib) == (96, 115)
    words = ("--quick", "--ram", "100", "--factor", "4", "--cpus", "2", "--processes", "3")
    setting = workloads.setting_of(arguments(*words, "--program", "gups", "--program", "sort"))
    assert setting.size == Size(400, 3, 1, 1, 1000)
    assert (setting.cpus, setting.disk, list(setting.programs)) == (2, "", ["gups", "sort"])
    with pytest.raises(SystemExit, match="at least 1"):
        workloads.setting_of(arguments("--processes", "0"))
    with pytest.raises(SystemExit, match="no program doom"):
        workloads.setting_of(arguments("--program", "doom"))


def test_a_guest_is_given_what_its_program_needs(tmp_path: Path) -> None:
    setting = workloads.Setting("guest", 128, 300, 2, SIZE, PROGRAMS, str(tmp_path), 1)
    by_name = {arm.name: arm for arm in workloads.every_arm(128, 300)}
    assert by_name[arms.RAM].memory == 428
    own = setting.job(by_name[arms.STOCK], PROGRAMS["sort"])
    assert (own.cpus, setting.disk_of(PROGRAMS["sort"])) == (2, "")
    assert set(own.files) == {programs.MEMBENCH}
    redis = setting.job(by_name[arms.DIRECT], PROGRAMS["redis"])
    assert setting.disk_of(PROGRAMS["redis"]) == str(tmp_path)
    assert set(redis.files) == {"/opt/fill.lua", "/opt/compare.lua"}


def test_a_program_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = workloads.Setting("guest", 128, 300, 1, SIZE, PROGRAMS, "", 1)
    monkeypatch.setattr(swapload, "run", lambda *rest: "Segmentation fault\noom_kill 0\n")
    with pytest.raises(HostError, match=r"gups, direct: .*\nSegmentation fault"):
        workloads.one(setting, workloads.every_arm(128, 300)[-1])


def test_a_guest_that_ran_out_of_memory_has_no_figures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = {name: PROGRAMS[name] for name in ("gups", "sort")}
    setting = workloads.Setting("guest", 128, 300, 1, SIZE, chosen, "", 1)

    def run(guest: object, arm: object, swap: int, job: Job, *rest: object) -> str:
        return said("sort") + "oom_kill 0\n" if "sort" in job.argv else "oom_kill 2\n"

    monkeypatch.setattr(swapload, "run", run)
    assert set(workloads.one(setting, workloads.every_arm(128, 300)[-1])) == {programs.KEY}
    assert capsys.readouterr().err == "gups, direct: the guest ran out of memory\n"


def test_what_guests_run_is_made_before_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    monkeypatch.setattr(programs, "membench_path", lambda: made.append("membench"))
    monkeypatch.setattr(distro, "disk", made.append)
    workloads.prepare()
    assert made == ["membench", programs.PACKAGES]


def test_the_suite_is_one_of_all() -> None:
    assert suites.every()["workloads"].linux
    assert "{" not in workloads.notes(workloads.Setting("g", 1, 2, 3, SIZE, {}, "", 1))
