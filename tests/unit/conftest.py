# SPDX-License-Identifier: Apache-2.0
"""Fixtures that several modules use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from pyvmm.debian import suites
from tests.support.fake_apt import FakeApt

# How long an example takes says how busy the machine is.
settings.register_profile("pyvmm", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("pyvmm")


@pytest.fixture
def guest_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of guests, in place of the user's."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("PYVMM_CACHE", str(cache))
    return cache


@pytest.fixture
def apt(tmp_path: Path, guest_cache: Path, monkeypatch: pytest.MonkeyPatch) -> FakeApt:
    """An apt that knows only the packages that a test gives it."""
    fake = FakeApt(tmp_path / "apt", guest_cache)
    monkeypatch.setenv("PATH", f"{fake.bin}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(suites, "OS_RELEASE", str(tmp_path / "os-release"))
    suites.look_up.cache_clear()
    return fake
