# SPDX-License-Identifier: Apache-2.0
"""The cpio writer against the cpio program and against its own promises."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvmm.errors import ConfigError
from pyvmm.guest import cpio
from tests.support.archive import walk

parts = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=8)
names = st.lists(parts, min_size=1, max_size=4).map("/".join)
contents = st.binary(max_size=200)


def listing(data: bytes) -> list[str]:
    done = subprocess.run(["cpio", "-t", "--quiet"], input=data, capture_output=True, check=True)
    assert done.stderr == b""
    return done.stdout.decode().splitlines()


@given(st.dictionaries(names, contents, max_size=8), st.sampled_from([4, 16, 512]))
def test_what_went_in_comes_out(files: dict[str, bytes], multiple: int) -> None:
    archive = cpio.Archive()
    for name, data in files.items():
        archive.file(name, data, 0o640)
    result = archive.finish(multiple)
    assert len(result) % multiple == 0
    assert walk(result) == {name.encode(): (0o100640, data) for name, data in files.items()}


@settings(max_examples=20)
@given(st.lists(names, unique=True, max_size=8))
def test_the_cpio_program_agrees(some: list[str]) -> None:
    archive = cpio.Archive()
    for name in some:
        archive.file(name, name.encode())
    assert listing(archive.finish()) == some


def test_all_kinds_unpack(tmp_path: Path) -> None:
    archive = cpio.Archive()
    archive.directory("d", 0o1777)
    archive.file("d/run", b"#!/bin/sh\n", 0o755)
    archive.symlink("link", "d/run")
    subprocess.run(["cpio", "-i", "--quiet"], input=archive.finish(), cwd=tmp_path, check=True)
    assert (tmp_path / "d").stat().st_mode & 0o7777 == 0o1777
    assert (tmp_path / "link").read_bytes() == b"#!/bin/sh\n"
    assert (tmp_path / "d/run").stat().st_mode & 0o777 == 0o755


def test_device_node_is_written_down() -> None:
    archive = cpio.Archive()
    archive.character_device("dev/console", 5, 1, 0o600)
    data = archive.finish()
    fields = [int(data[6 + 8 * i : 14 + 8 * i], 16) for i in range(13)]
    assert (fields[1], fields[9], fields[10]) == (0o020600, 5, 1)


def test_output_depends_on_input_alone() -> None:
    def make() -> bytes:
        archive = cpio.Archive()
        archive.parents("a/b/c")
        archive.file("a/b/c", b"x")
        return archive.finish()

    assert make() == make()


def test_parents_are_added_once_and_in_order() -> None:
    archive = cpio.Archive()
    archive.directory("a")
    archive.parents("/a/b/c/d")
    archive.parents("a/b/e")
    assert list(walk(archive.finish())) == [b"a", b"a/b", b"a/b/c"]
    assert "/a/b/" in archive


@pytest.mark.parametrize("name", ["", "/", ".", "a/../b", "a\0b", "x" * 5000, "TRAILER!!!"])
def test_unusable_names_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="not a usable path"):
        cpio.Archive().file(name, b"")


@pytest.mark.parametrize("target", ["", "a\0b", "x" * 5000])
def test_unusable_link_targets_are_refused(target: str) -> None:
    with pytest.raises(ConfigError, match="cannot point to"):
        cpio.Archive().symlink("link", target)


def test_too_large_for_the_size_field(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpio, "MAX_SIZE", 10)
    with pytest.raises(ConfigError, match="too large"):
        cpio.Archive().file("big", bytes(11))


def test_undecodable_host_bytes_pass_through() -> None:
    archive = cpio.Archive()
    archive.file("\udcff", b"")
    assert list(walk(archive.finish())) == [b"\xff"]
