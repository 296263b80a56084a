# SPDX-License-Identifier: Apache-2.0
"""A cache that cannot be written, or not be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyvmm.cli.main import main
from pyvmm.debian import tools
from pyvmm.errors import HostError
from pyvmm.launch import status


def test_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYVMM_CACHE", "/dev/null/cache")
    with pytest.raises(HostError, match="set PYVMM_CACHE"), tools.lock("guest/x"):
        pass


@pytest.mark.parametrize("place", ["file", "file/below", "loop"])
@pytest.mark.parametrize(
    "words",
    [
        ("list",),
        ("list", "--json"),
        ("path",),
        ("clean",),
        ("clean", "--all"),
        ("build", "--dry-run"),
        ("build",),
        ("stock",),
    ],
    ids=" ".join,
)
def test_cache_that_cannot_be_read(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    place: str,
    words: tuple[str, ...],
) -> None:
    """It is not taken for one that has nothing."""
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.setenv("PYVMM_CACHE", str(tmp_path / place))
    assert main(["guest", *words]) == status.HOST
    said = capsys.readouterr()
    assert said.out == ""
    assert f"cannot read the cache {tmp_path / place}: " in said.err
    assert "set PYVMM_CACHE to a directory" in said.err


def test_a_guest_that_cannot_be_read(guest_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    guest_cache.mkdir()
    (guest_cache / "guest").touch()
    assert main(["guest", "path"]) == status.HOST
    assert f"cannot read the cache: Not a directory: {guest_cache}/guest" in capsys.readouterr().err
