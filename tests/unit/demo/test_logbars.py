# SPDX-License-Identifier: Apache-2.0
"""Bars on a logarithmic scale: their lengths, their colours, on a terminal and as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pyvmm import logbars
from pyvmm.logbars import Bar

if TYPE_CHECKING:
    from pathlib import Path


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
