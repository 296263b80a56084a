# SPDX-License-Identifier: Apache-2.0
"""`pyvmm run` on a KVM that is too slow for Linux."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyvmm.cli.main import main
from pyvmm.guest import cache
from pyvmm.launch import kvmcheck, status


def test_a_kvm_that_is_too_slow_is_told_before_the_start(
    guest: cache.Guest, slow: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--log", "new", "--", "true"]) == status.HOST
    said = capsys.readouterr().err
    assert "too slow for Linux; use the lab" in said
    assert "pyvmm lab -- pyvmm run" in said
    assert (slow, Path("new").exists()) == (["/dev/kvm"], False)


def test_a_fast_kvm_is_not_probed(
    guest: cache.Guest, slow: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kvmcheck, "FAST", ("/nowhere", "/sys"))
    assert main(["run", "--kvm", "/nowhere", "--", "true"]) == status.HOST
    assert slow == []
