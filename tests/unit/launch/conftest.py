# SPDX-License-Identifier: Apache-2.0
"""Files to name, a guest that is built, and a KVM that is slow."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyvmm import probe
from pyvmm.guest import cache
from pyvmm.launch import kvmcheck
from tests.support.findings import finding


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with a few files to name."""
    for name in ("k", "a", "b", "d"):
        (tmp_path / name).write_bytes(bytes(512))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def guest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> cache.Guest:
    """A built guest, of which only the files exist."""
    paths = [tmp_path / name for name in ("bzImage", "vmlinux", "initramfs")]
    for path in paths:
        path.touch()
    made = cache.Guest(*map(str, paths), "6.12.1", "key")
    monkeypatch.setattr("pyvmm.guest.named.find_guest", lambda name: made)
    monkeypatch.setattr("pyvmm.guest.cache.read_pointer", lambda name: "some")
    monkeypatch.setattr("os.isatty", lambda fd: False)
    return made


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A KVM that emulates; the list gets the devices that were probed."""
    asked: list[str] = []

    def probed(path: str) -> probe.Probe:
        asked.append(path)
        return finding(backend="kvm_soft", instructions_per_second=1e6)

    monkeypatch.setattr(kvmcheck, "FAST", ())
    monkeypatch.setattr(probe, "probe", probed)
    return asked
