# SPDX-License-Identifier: Apache-2.0
"""Every test here boots Linux: where this KVM cannot, they fail. `python -m tests lab` finds one that can."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Protocol

import pytest

from pyvmm.probe import probe
from tests.lab import linux

if TYPE_CHECKING:
    from pathlib import Path


class Run(Protocol):
    """`tests.lab.linux.run` with the folder given."""

    def __call__(self, script: str, *options: str, stdin: bytes | None = None) -> linux.Outcome: ...


def pytest_configure() -> None:
    """In the lab all guests run on one CPU: on two, the emulator breaks guests that patch their code (docs/lab.md)."""
    if os.environ.get("PYVMM_LAB"):
        os.sched_setaffinity(0, {0})


@pytest.fixture(scope="session")
def verdict() -> str:
    """Why this KVM cannot boot Linux, or nothing."""
    found = probe()
    return "" if found.boots_linux else found.verdict


@pytest.fixture(autouse=True)
def _linux_boots(verdict: str) -> None:
    if verdict:
        pytest.fail(f"{verdict}\nrun these tests with: python -m tests lab", pytrace=False)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs a shell script in a guest by `pyvmm run`, with options before it."""
    return partial(linux.run, tmp_path)
