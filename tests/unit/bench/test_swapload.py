# SPDX-License-Identifier: Apache-2.0
"""The memory-hungry program and its figures: what it is told, what it says, aims, bars on a logarithmic scale."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from bench.peers import arms
from bench.report import aims, chart, results
from bench.suites import swap
from pyvmm.demo import logbars, swapdemo, swapload
from pyvmm.demo.logbars import Bar
from pyvmm.demo.swapload import Arm, Load
from pyvmm.errors import HostError

if TYPE_CHECKING:
    from pathlib import Path

SAID: dict[str, Any] = {
    "schema": 2,
    "pages": 256,
    "fill": 5000.0,
    "passes": [3700.0, 2400.0, 1700.0],
    "sequential": 900.0,
    "steady": 800.0,
    "p50": 1600,
    "p99": 5000,
    "p999": 90000,
    "most": 100000,
    "fresh": 1000.0,
    "swapped": 2500.0,
    "touched": 4096,
    "out": 409600000.0,
    "wrong": 0,
}


def line(**changes: Any) -> str:
    return f"noise\n@@{json.dumps({**SAID, **changes})}\nmore\n"


@pytest.mark.parametrize("name", arms.SWAPS)
def test_what_the_guest_is_told(name: str) -> None:
    arm = arms.Arm(name, 256, 512)
    words = swapload.command(arm.start(), Load(400, 3, 0.5, 16))
    assert words[3:] == ["sh", "-m", "400", "-p", "3", "-s", "0.5", "-t", "16"]
    subprocess.run(["sh", "-n", "-c", words[2]], check=True)
    last = words[2].replace("exec /bin/swapload", "echo")
    if name == arms.RAM:  # the others want a guest
        done = subprocess.run(["sh", "-c", last, *words[3:]], capture_output=True, check=True)
        assert done.stdout == b"-m 400 -p 3 -s 0.5 -t 16\n"


def test_what_it_says_is_read() -> None:
    assert swapload.parse(line()) == SAID
    with pytest.raises(HostError, match="did not finish"):
        swapload.parse("Killed\n")
    with pytest.raises(HostError, match="3 pages"):
        swapload.parse(line(wrong=3))


def test_the_program_is_compiled_once_and_says_what_is_expected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYVMM_CACHE", str(tmp_path))
    path = swapload.program()
    made = path.stat().st_mtime_ns
    assert swapload.program().stat().st_mtime_ns == made
    words = [str(path), *Load(2, 2, 1, 1).words()]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    said = swapload.parse(done.stdout)
    assert set(said) == set(SAID)
    assert said["pages"] == 512
    assert len(said["passes"]) == 2
    assert swap.figures(said)["pass 2"] == pytest.approx(said["passes"][1] / 1e9)


def test_figures_are_seconds() -> None:
    found = swap.figures(SAID)
    assert found[swap.LAST] == found["pass 3"] == pytest.approx(1.7e-6)
    assert found[swap.OUT] == pytest.approx(10e-6)
    assert swap.SWAPPED not in swap.figures({**SAID, "touched": 0})


def test_aims_need_both_sides() -> None:
    samples = {
        arms.RAM: {swap.STEADY: [1e-6] * 3},
        arms.DIRECT: {
            swap.STEADY: [1.05e-6] * 3,
            swap.SWAPPED: [4e-6] * 3,
            swap.FRESH: [1e-6] * 3,
        },
    }
    near, touch = aims.verdicts(swap.AIMS, samples)
    assert (near.aim.base, near.ratio) == (arms.RAM, pytest.approx(1.05))
    assert str(near).endswith("met")
    assert str(touch).endswith("missed")


def test_panels_have_the_arms_that_were_measured() -> None:
    samples = {arms.RAM: {swap.LAST: [1e-6]}, arms.STOCK: {swap.LAST: [1e-3], swap.OUT: [1e-4]}}
    found = chart.panels(samples, swap.SHOWN)
    assert [bar.name for bar in found[swap.LAST]] == [arms.RAM, arms.STOCK]
    assert [bar.name for bar in found[swap.OUT]] == [arms.STOCK]
    record = {"samples": samples, "base": arms.STOCK, "unit": "us", "scale": 1e6}
    assert "not measured" in results.table(record)


# Bars


def test_times_have_the_unit_that_suits_them() -> None:
    assert logbars.time_text(3.7e-6) == "3.7 us"
    assert logbars.time_text(1.04e-3) == "1.04 ms"
    assert logbars.time_text(2) == "2 s"
    assert logbars.time_text(150e-9) == "150 ns"


def test_a_decade_is_the_same_length_everywhere() -> None:
    bars = [Bar("a", 2e-6), Bar("b", 2e-5), Bar("c", 2e-4)]
    scale = logbars.decades(bars)
    assert scale == (-6, -3)
    first, second, third = (logbars.length(bar, scale, 60) for bar in bars)
    assert second - first == pytest.approx(20)
    assert third - second == pytest.approx(20)
    assert logbars.decades([Bar("only", 1e-6)]) == (-7, -6)


def test_bars_on_a_terminal_fit() -> None:
    bars = [Bar("all the RAM", 1.2e-6), Bar("stock", 1.04e-3)]
    lines = logbars.text(bars, 80).splitlines()
    assert "1.2 us" in lines[0]
    assert "1.04 ms" in lines[1]
    assert "(log scale)" in lines[2]
    assert all(len(text) <= 90 for text in lines)


def test_a_name_has_one_colour_in_all_panels() -> None:
    first, second, third = (Bar(name, 1e-6) for name in ("RAM", "direct", "stock"))
    found = logbars.colours_of(
        {"at random": [first, second, third], "first touch": [second, third]}
    )
    assert found == {"RAM": "C0", "direct": "C1", "stock": "C2"}


def test_a_picture_of_bars(tmp_path: Path) -> None:
    target = tmp_path / "bars.png"
    bars = [Bar("RAM", 1e-6), Bar("stock", 1e-3, 8e-4, 2e-3)]
    logbars.picture(target, "a title", {"at random": bars, "in order": bars})
    assert target.read_bytes().startswith(b"\x89PNG")


# The demonstration


def test_the_demo_s_table_says_what_was_not_measured() -> None:
    base, direct, symcall, stock = (arm.name for arm in swapdemo.ARMS)
    found: dict[str, dict[str, float] | str] = {
        base: swapdemo.seconds_of({**SAID, "swapped": 0.0}),
        direct: swapdemo.seconds_of(SAID),
        symcall: "the guest did not bypass its swap disk",
        stock: swapdemo.seconds_of({**SAID, "passes": [1.7e6]}),
    }
    lines = swapdemo.table(found, base).splitlines()
    assert lines[1].split()[-5:] == ["us", "900", "ns", "-", "1", "x"][-5:]
    assert "not measured: the guest did not bypass" in lines[3]
    assert lines[4].endswith("1e+03 x")
    assert [bar.name for bar in swapdemo.bars(found, "first touch")] == [direct, stock]


def test_the_demo_s_picture_is_missed_with_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: dict[str, dict[str, float] | str] = {"RAM": swapdemo.seconds_of(SAID)}
    target = tmp_path / "picture.png"
    assert str(target) in swapdemo.picture(str(target), found)
    assert target.exists()
    assert "no picture" in swapdemo.picture(str(tmp_path / "no" / "folder"), found)
    monkeypatch.setattr(logbars, "available", lambda: False)
    assert "matplotlib" in swapdemo.picture(str(target), found)
    assert swapdemo.picture(str(target), {"RAM": "no KVM"}) == ""


def test_an_arm_that_fails_does_not_end_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(guest: Any, arm: Arm, *rest: Any) -> dict[str, Any]:
        if arm.swap == "direct":
            raise HostError("the guest did not finish:\nand more")
        return SAID

    monkeypatch.setattr(swapdemo, "measure", measure)
    found = swapdemo.collect(object())  # type: ignore[arg-type]
    assert len(found) == len(swapdemo.ARMS)
    assert [v for v in found.values() if isinstance(v, str)] == ["the guest did not finish:"]
