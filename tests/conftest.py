# SPDX-License-Identifier: Apache-2.0
"""For all tests: the choice by host, signals as at a prompt, reports of failures in PYVMM_ARTEFACTS."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from tests.support import hosts, second_try

# What tests share: a failure there shows its values too.
SHARED = (
    *("archive", "background", "benchmark", "faulting", "integrity", "lab_program", "remote"),
    *("serial_guest", "typed_guest", "virtio_disk"),
)
pytest.register_assert_rewrite(*(f"tests.support.{name}" for name in SHARED))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--host", choices=hosts.HOSTS, help="run the tests of that host (hosts.py)")


def pytest_configure() -> None:
    """Undo what nohup or a background job did: programs under test would inherit ignored signals."""
    for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) == signal.SIG_IGN:
            usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, usual)


@pytest.hookimpl(tryfirst=True)  # before -m
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves the tests of the host that is asked for."""
    host = config.getoption("--host")
    if host:
        chosen = hosts.choose(items, host)
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = chosen


@pytest.fixture(autouse=True, scope="session")
def _the_host_is_there(request: pytest.FixtureRequest) -> None:
    lacking = hosts.missing(request.config.getoption("--host"))
    if lacking:
        pytest.fail(f"{lacking}: run these tests with python -m tests vmx", pytrace=False)


def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Runs a test as pytest does, or a second time where the emulator may break guests."""
    return second_try.run_protocol(item, nextitem) if second_try.has_several_threads() else None


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
