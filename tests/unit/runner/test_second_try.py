# SPDX-License-Identifier: Apache-2.0
"""Which tests of guests run twice: those that the emulator may have broken, and no others."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.support import second_try

DIED = "AssertionError: --- the machine: ended by panic"
TRIPLE = "AssertionError: --- the machine: ended by triple-fault"
WRONG = "AssertionError: assert 1 == 2"


def outcomes(monkeypatch: pytest.MonkeyPatch, *texts: str) -> list[str]:
    """What is reported of a test that fails with one text after the other, and passes in the end."""
    left, reported = list(texts), []

    def run(*_: object, **__: object) -> list[Any]:
        text = left.pop(0) if left else ""
        return [SimpleNamespace(failed=bool(text), longreprtext=text)]

    def keep(report: Any) -> None:
        reported.append(report.longreprtext)

    def nothing(**_: object) -> None:
        pass

    hook = SimpleNamespace(
        pytest_runtest_logstart=nothing,
        pytest_runtest_logfinish=nothing,
        pytest_runtest_logreport=keep,
    )
    item: Any = SimpleNamespace(nodeid="a", location=(), ihook=hook, _initrequest=lambda: None)
    monkeypatch.setattr(second_try, "runtestprotocol", run)
    assert second_try.run_protocol(item, None)
    return reported


@pytest.mark.parametrize("where", [{}, {"PYVMM_LAB": "svm", "PYVMM_LAB_THREADS": "single"}])
@pytest.mark.parametrize("text", [DIED, TRIPLE, WRONG])
def test_nothing_runs_twice_where_the_emulator_is_right(
    monkeypatch: pytest.MonkeyPatch, where: dict[str, str], text: str
) -> None:
    for name in ("PYVMM_LAB", "PYVMM_LAB_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in where.items():
        monkeypatch.setenv(name, value)
    assert outcomes(monkeypatch, text) == [text]


def test_a_guest_that_died_runs_again_on_several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYVMM_LAB", "svm")
    monkeypatch.setenv("PYVMM_LAB_THREADS", "multi")
    assert outcomes(monkeypatch, DIED) == [""]
    assert outcomes(monkeypatch, TRIPLE, DIED) == [DIED]
    assert outcomes(monkeypatch, WRONG) == [WRONG]
    assert outcomes(monkeypatch) == [""]
