# SPDX-License-Identifier: Apache-2.0
"""Suites of benchmarks whose guests are Linux: each measures its subjects once."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bench.peers import arms
from bench.suites import footprint, net
from tests.support.benchmark import measured

pytestmark = pytest.mark.rest


def test_idle_guests(tmp_path: Path) -> None:
    found = measured("footprint", tmp_path, "--guests", "1,2")
    assert set(found["samples"]) == {footprint.OURS, footprint.DETACHED, footprint.QEMU}
    for figures in found["samples"].values():
        for count in (1, 2):
            (mib,) = figures[footprint.memory(count)]
            assert 1 < mib < 200
            (percent,) = figures[footprint.idle(count)]
            assert 0 < percent < 50


def test_network(tmp_path: Path) -> None:
    found = measured("net", tmp_path)
    assert {net.OURS, net.QEMU} <= set(found["samples"])
    assert all(
        set(figures) == {net.TO, net.FROM, net.TRIP} for figures in found["samples"].values()
    )
    spaces = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
    assert "pyvmm-bench" not in spaces


def test_memory(tmp_path: Path) -> None:
    names = (arms.DIRECT, arms.STOCK)
    more = [word for name in names for word in ("--arm", name)]
    found = measured("swap", tmp_path, *more, "--memory", "280", "--seconds", "0.5")
    assert set(found["samples"]) == set(names)
    assert found["base"] == arms.STOCK
    aims = {(aim["subject"], aim["base"]) for aim in found["aims"]}
    assert (arms.DIRECT, arms.STOCK) in aims
