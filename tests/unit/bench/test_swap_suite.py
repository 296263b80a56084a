# SPDX-License-Identifier: Apache-2.0
"""The suite "swap": what its guests are told, its figures, aims and panels."""

from __future__ import annotations

import subprocess

import pytest

from bench.peers import arms
from bench.report import aims, chart, results
from bench.suites import swap
from pyvmm.demo import swapload
from pyvmm.demo.swapload import Load
from tests.support.swapload import SAID


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


def test_figures_are_seconds() -> None:
    found = swap.figures(SAID)
    assert found[swap.LAST] == found["pass 3"] == pytest.approx(1.7e-6)
    assert found["pass 2"] == pytest.approx(2.4e-6)
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
