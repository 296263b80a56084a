# SPDX-License-Identifier: Apache-2.0
"""For all tests: a failure leaves its report in the folder that PYVMM_ARTEFACTS names."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest


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
