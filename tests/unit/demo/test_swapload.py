# SPDX-License-Identifier: Apache-2.0
"""The memory-hungry program and the demonstration: what it says, and what is shown of it."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from pyvmm import logbars
from pyvmm.demo import swapdemo, swapload
from pyvmm.demo.swapload import Arm, Load
from pyvmm.errors import HostError
from tests.support.swapload import SAID

if TYPE_CHECKING:
    from pathlib import Path


def line(**changes: Any) -> str:
    return f"noise\n@@{json.dumps({**SAID, **changes})}\nmore\n"


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
    found = swapdemo.collect(object(), swapdemo.ARMS)  # type: ignore[arg-type]
    assert len(found) == len(swapdemo.ARMS)
    assert [v for v in found.values() if isinstance(v, str)] == ["the guest did not finish:"]
