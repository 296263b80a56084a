# SPDX-License-Identifier: Apache-2.0
"""For all tests: signals as at a prompt, and a failure leaves its report in the folder that PYVMM_ARTEFACTS names."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

# What tests share: a failure there shows its values too.
pytest.register_assert_rewrite("tests.support.integrity", "tests.support.remote")


def pytest_configure() -> None:
    """A background job or nohup starts us with signals ignored, which every program under test would inherit."""
    for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) == signal.SIG_IGN:
            usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, usual)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Writes what pytest would show, with the guest's output if the test printed or compared it."""
    folder = os.environ.get("PYVMM_ARTEFACTS")
    if not folder or not report.failed:
        return
    name = re.sub(r"[^\w.-]+", "-", report.nodeid)[-200:]
    parts = [f"{report.nodeid}, {report.when}", report.longreprtext]
    parts += [f"---- {title}\n{text}" for title, text in report.sections]
    path = Path(folder) / f"{name}.{report.when}.txt"
    path.write_text("\n\n".join(parts) + "\n", errors="backslashreplace")
