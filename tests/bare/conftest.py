# SPDX-License-Identifier: Apache-2.0
"""A guest that does what a test says, and a folder for VMs in the background."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support import bare, remote
from tests.support.background import END, SAY, processes
from tests.support.remote import Remote


@pytest.fixture
def guest() -> Iterator[Remote]:
    with Remote(symcall_deadline=remote.deadline()) as made:
        yield made.start()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The runtime directory that will be; afterwards nothing runs that was started there."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "say").write_bytes(bare.assemble(SAY))
    (tmp_path / "end").write_bytes(bare.assemble(END))
    yield tmp_path / "pyvmm"
    for process in processes().values():
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
