# SPDX-License-Identifier: Apache-2.0
"""A test whose guest died of the emulator runs once more, and says so."""

from __future__ import annotations

import os

import pytest
from _pytest.runner import runtestprotocol


def emulator_broke(report: pytest.TestReport) -> bool:
    """A guest died in the lab as they do when two emulated CPUs patch code (docs/lab.md)."""
    text = report.longreprtext
    return report.failed and ("ended by triple-fault" in text or "ended by panic" in text)


def has_several_threads() -> bool:
    """Whether this is a lab whose emulator can do that. The usual one cannot: there a guest's death is a failure."""
    return "PYVMM_LAB" in os.environ and os.environ.get("PYVMM_LAB_THREADS") == "multi"


def run_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool:
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
