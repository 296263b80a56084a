# SPDX-License-Identifier: Apache-2.0
"""What a launch adds to the initramfs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.errors import ConfigError, HostError
from pyvmm.guest.overlay import overlay
from tests.support.archive import walk

arguments = st.text(st.characters(exclude_characters="\0", codec="utf-8"))


@given(st.lists(arguments, min_size=1))
def test_every_argument_survives(command: list[str]) -> None:
    data = overlay(command)
    assert len(data) % 4 == 0
    stored = walk(data)[b"pyvmm/command"][1]
    assert stored.endswith(b"\0")
    assert stored[:-1].decode().split("\0") == command


def test_no_command_means_no_file() -> None:
    assert set(walk(overlay([]))) == {b"pyvmm"}


def test_environment() -> None:
    found = walk(overlay(["x"], {"A": "1", "B": "two words=x"}))
    assert found[b"pyvmm/env"][1] == b"A=1\0B=two words=x\0"


@pytest.mark.parametrize("name", ["", "A=B"])
def test_bad_variable_names(name: str) -> None:
    with pytest.raises(ConfigError, match="environment variable"):
        overlay(["x"], {name: "1"})


@pytest.mark.parametrize("call", [(["a\0b"],), (["a"], {"A": "x\0y"})])
def test_zero_bytes_are_refused(call: tuple[object, ...]) -> None:
    with pytest.raises(ConfigError, match="zero byte"):
        overlay(*call)  # type: ignore[arg-type]


def test_one_string_is_not_a_command() -> None:
    with pytest.raises(ConfigError, match="not one string"):
        overlay("ls -l")


def test_files_bring_their_folders_and_permissions(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"data")
    program.chmod(0o750)
    files: dict[str, bytes | str | Path] = {
        "/opt/a/script": b"#!/bin/sh\n",
        "/opt/a/text": b"hello",
        "/opt/b/program": program,
        "/opt/b/again": str(program),
    }
    found = walk(overlay(["x"], None, files))
    assert found[b"opt/a"] == (0o040755, b"")
    assert found[b"opt/a/script"] == (0o100755, b"#!/bin/sh\n")
    assert found[b"opt/a/text"] == (0o100644, b"hello")
    assert found[b"opt/b/program"] == (0o100750, b"data")
    assert found[b"opt/b/again"] == (0o100750, b"data")


@pytest.mark.parametrize("name", ["/tmp/x", "/dev/x", "/proc/x", "//run/x", "/sys/a/b"])
def test_places_that_are_mounted_over(name: str) -> None:
    with pytest.raises(ConfigError, match="mounts over"):
        overlay(["x"], None, {name: b""})


@pytest.mark.parametrize(
    "name", ["relative", "/a/", "/pyvmm/command", "/pyvmm/env", "/a/../b", "/", ""]
)
def test_bad_places(name: str) -> None:
    with pytest.raises(ConfigError):
        overlay(["x"], None, {name: b""})


def test_missing_host_file_is_named() -> None:
    with pytest.raises(HostError, match="no/such/file"):
        overlay(["x"], None, {"/root/x": "no/such/file"})


def test_launch_path_stays_light() -> None:
    """`find` and `overlay` run inside an emulated machine at each launch."""
    code = (
        "import sys; before = set(sys.modules);"
        "import pyvmm.guest.cache, pyvmm.guest.overlay;"
        "pyvmm.guest.cache.find('0.0'); pyvmm.guest.overlay.overlay(['x']);"
        "print(*sorted(set(sys.modules) - before))"
    )
    loaded = subprocess.check_output([sys.executable, "-S", "-c", code], text=True).split()
    heavy = {"argparse", "hashlib", "inspect", "json", "pathlib", "subprocess", "tempfile"}
    assert heavy.isdisjoint(loaded)
