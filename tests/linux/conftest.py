# SPDX-License-Identifier: Apache-2.0
"""Every test here boots Linux: where this KVM cannot, they fail. `python -m tests linux` finds one that can."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from pyvmm.probe import probe
from tests.support import linux, second_try

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.linux import Run


def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool:
    return second_try.run_protocol(item, nextitem)


@pytest.fixture(scope="session")
def verdict() -> str:
    """Why this KVM cannot boot Linux, or nothing."""
    found = probe()
    return "" if found.boots_linux else found.verdict


@pytest.fixture(autouse=True)
def _linux_boots(verdict: str) -> None:
    if verdict:
        pytest.fail(f"{verdict}\nrun these tests with: python -m tests linux", pytrace=False)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs a shell script in a guest by `pyvmm run`, with options before it."""
    return partial(linux.run, tmp_path)
