# SPDX-License-Identifier: Apache-2.0
"""What the demonstration makes before it begins."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pyvmm.cli import demo
from pyvmm.demo import prepare, swapdemo, swapload
from pyvmm.guest import build, cache, named

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was fetched or built, in order."""
    found: list[str] = []
    monkeypatch.setattr(named, "find_guest", lambda name: found.append(f"fetch {name}"))
    monkeypatch.setattr(cache, "find", lambda name: None)
    monkeypatch.setattr(build, "build", lambda name: found.append(f"compile {name}"))
    monkeypatch.setattr(swapload, "program", lambda: found.append("program"))
    return found


def test_debians_kernel_is_fetched_and_none_compiled(made: list[str]) -> None:
    prepare.ensure_guest(demo.TIER)
    assert made == [f"fetch {demo.TIER}", "program"]


def test_the_projects_kernel_is_compiled(made: list[str]) -> None:
    prepare.ensure_guest("6.12")
    assert made == ["compile 6.12", "program"]


def test_the_default_is_debians_until_a_kernel_was_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYVMM_CACHE", str(tmp_path))
    assert named.default_name() == demo.TIER
    path = tmp_path / "guest" / "current-6.12"
    path.parent.mkdir()
    path.write_text(f"{cache.POINTER_HEAD}\n6.12.1\nk\ni\n")
    assert named.default_name() == "6.12"


def test_the_arms_are_named_after_what_the_kernel_does() -> None:
    assert [arm.name for arm in swapdemo.TIER_ARMS] == [
        "768 MiB, no need to swap",
        "256 MiB, tier direct",
        "256 MiB, tier by symcalls",
        "256 MiB, stock swap",
    ]
    assert [arm.swap for arm in swapdemo.TIER_ARMS] == [arm.swap for arm in swapdemo.ARMS]
