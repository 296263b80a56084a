# SPDX-License-Identifier: Apache-2.0
"""The watch beside a run: what it looks at, and what it says."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pyvmm.guest import cache
from pyvmm.launch import watch
from pyvmm.launch.plan import Plan
from tests.support.run_options import arguments
from tests.support.waiting import until

LOG = b"[    0.1] Linux version\r\n[    0.2] the last line\x1b\r\n"


class Watched:
    """A VM that is none, and its watch."""

    def __init__(self, *options: str, mark: int = 0) -> None:
        self.looks = 0
        self.stopped = threading.Event()
        board = SimpleNamespace(platform=SimpleNamespace(mark_ns=mark))
        machine = SimpleNamespace(look=self._look, board=board)
        vm: Any = SimpleNamespace(
            state="running", machine=machine, stop=self.stopped.set, console_log=lambda: LOG
        )
        self.quit_fd = os.eventfd(0)
        self.thread = watch.Watch(vm, Plan(arguments(*options)), self.quit_fd).start()

    def _look(self) -> None:
        self.looks += 1

    def end(self) -> None:
        os.eventfd_write(self.quit_fd, 1)
        self.thread.join()
        os.close(self.quit_fd)
        assert self.stopped.is_set()


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(watch, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(watch, "BOOT_SECONDS", 0.05)
    return


def test_a_guest_that_does_not_boot_is_told_of_once(
    guest: cache.Guest, capsys: pytest.CaptureFixture[str]
) -> None:
    watched = Watched("--", "true")
    said = until(lambda: capsys.readouterr().err)
    seen = watched.looks
    until(lambda: watched.looks > seen + 10)
    watched.end()
    first, *lines = said.splitlines()
    assert "has not come to its init in 0 s, and runs on; --timeout would end it" in first
    assert lines == ["  [    0.1] Linux version", "  [    0.2] the last line?"]
    assert capsys.readouterr().err == ""


def test_nothing_is_said_where_the_guest_boots_or_its_log_is_seen(
    guest: cache.Guest, capsys: pytest.CaptureFixture[str]
) -> None:
    booted = Watched("--", "true", mark=1)
    seen = Watched("--console", "serial", "--", "true")
    until(lambda: booted.looks > 20 and seen.looks > 20)
    booted.end()
    seen.end()
    assert capsys.readouterr().err == ""


def test_a_program_without_an_operating_system_may_wait(
    guest: cache.Guest, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("k").write_bytes(bytes(1024))
    flat, linux = Watched("-k", "k", "--flat", "real"), Watched("--", "true")
    until(lambda: linux.looks > 20)
    flat.end()
    linux.end()
    assert flat.looks == 0
