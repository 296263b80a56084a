# SPDX-License-Identifier: Apache-2.0
"""Every test here boots Linux: where this KVM cannot, they fail. `python -m tests linux` finds one that can."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Protocol

import pytest
from _pytest.runner import runtestprotocol

from pyvmm.probe import probe
from tests.support import linux

if TYPE_CHECKING:
    from pathlib import Path


class Run(Protocol):
    """`tests.support.linux.run` with the folder given."""

    def __call__(self, script: str, *options: str, stdin: bytes | None = None) -> linux.Outcome: ...


def emulator_broke(report: pytest.TestReport) -> bool:
    """A guest died in the lab as they do when two emulated CPUs patch code (docs/lab.md)."""
    text = report.longreprtext
    return report.failed and ("ended by triple-fault" in text or "ended by panic" in text)


def has_several_threads() -> bool:
    """Whether this is a lab whose emulator can do that. The usual one cannot: there a guest's death is a failure."""
    return "PYVMM_LAB" in os.environ and os.environ.get("PYVMM_LAB_THREADS") == "multi"


def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool:
    """A test whose guest died so runs once more, and says it, in a lab with a thread for each CPU only."""
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    reports = runtestprotocol(item, log=False, nextitem=nextitem)
    if has_several_threads() and any(map(emulator_broke, reports)):
        print(f"\n{item.nodeid}: a guest died, maybe of the emulator; once more", flush=True)
        item._initrequest()  # type: ignore[attr-defined]
        reports = runtestprotocol(item, log=False, nextitem=nextitem)
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


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
