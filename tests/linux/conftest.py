# SPDX-License-Identifier: Apache-2.0
"""Every test here boots Linux: where this KVM cannot, they fail. `python -m tests linux` finds one that can."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from pyvmm.probe import probe
from tests.support import hosts, linux

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.linux import Run


@pytest.fixture(scope="session")
def verdict(request: pytest.FixtureRequest) -> str:
    """Why this KVM cannot boot Linux, or nothing. On VT-x it can, and to ask would take long there."""
    if request.config.getoption("--host") in (hosts.VMX, hosts.SHADOW):
        return ""
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
