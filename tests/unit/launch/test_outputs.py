# SPDX-License-Identifier: Apache-2.0
"""What a `pyvmm run` writes: files that are its own, and records that are lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pyvmm import errors
from pyvmm.cli.main import main
from pyvmm.launch import launch, status
from pyvmm.launch.summary import swap_rows
from tests.support.fake_vm import FakeSwap, FakeVM


def test_swap_in_the_summary() -> None:
    swap = FakeSwap()
    text = "\n".join(f"{name} {value}" for name, value in swap_rows(swap.stats))
    assert text == (
        "swap disk 2.0 MiB of 4.0 MiB used at the end\n"
        "  by its queue 3.0 MiB written, 160 KiB read\n"
        "  bypass symcall 400 faults offered, 375 mapped, 25 refused"
    )
    swap.mode, swap.offered = "off", 0
    assert len(swap_rows(swap.stats)) == 2


def test_swap_in_the_record() -> None:
    vm: Any = FakeVM()
    assert launch._swap_record(vm) is None
    vm.swap = FakeSwap()
    record = json.loads(json.dumps(launch._swap_record(vm)))
    assert (record["mode"], record["host"]["stall"]) == ("symcall", 12.5)


def refused(*words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A run of a kernel that is none, which is found out after all that is tested here."""
    assert main(["run", "--kvm", "/nowhere", "-k", "k", *words]) == status.USAGE
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--json", "--log"])
def test_files_that_cannot_be_written(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = str(tmp_path / "no" / "file")
    refused(option, missing, said=f"{option} {missing}: No such file", capsys=capsys)


@pytest.mark.parametrize("option", ["--json", "--log"])
def test_a_run_that_does_not_start_changes_no_file(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("old").write_text("kept")
    for name in ("old", "new"):
        assert main(["run", "--kvm", "/nowhere", "-k", "k", option, name]) == status.HOST
    assert Path("old").read_text() == "kept"
    assert not Path("new").exists()


@pytest.mark.parametrize("option", ["--json", "--log"])
@pytest.mark.parametrize(
    ("words", "name"),
    [
        ((), "k"),
        (("-i", "a"), "a"),
        (("-d", "d"), "d"),
        (("-d", "d,ro"), "d"),
        (("--swap", "2M", "--swap-file", "b"), "b"),
        (("-d", "d"), "link"),
        (("-d", "d"), "hard"),
        (("-d", "link"), "hard"),
    ],
)
def test_what_a_run_writes_is_nothing_else_that_it_names(
    option: str, words: tuple[str, ...], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    os.symlink("d", "link")
    os.link("d", "hard")
    before = {path.name: path.read_bytes() for path in Path().iterdir()}
    refused(*words, option, name, said="is the same file as", capsys=capsys)
    assert {path.name: path.read_bytes() for path in Path().iterdir()} == before


def test_two_outputs_are_two_files(capsys: pytest.CaptureFixture[str]) -> None:
    refused("--log", "x", "--json", "x", said="--json x is the same file as --log x", capsys=capsys)
    assert not Path("x").exists()
    refused("-d", "d", "-d", "./d", said="--disk ./d is the same file as --disk d", capsys=capsys)
    refused("-d", "d,ro", "-d", "d", said="is the same file as", capsys=capsys)
    assert main(["run", "--kvm", "/nowhere", "-k", "k", "-d", "d,ro", "-d", "d,ro"]) == status.HOST
    words = ["--log", "/dev/null", "--json", "/dev/null"]
    assert main(["run", "--kvm", "/nowhere", "-k", "k", *words]) == status.HOST


def test_an_output_that_is_also_standard_output() -> None:
    command = [sys.executable, "-m", "pyvmm", "run", "--kvm", "/nowhere", "-k", "k", "--log"]
    with open("out", "w+") as out:
        done = subprocess.run(
            [*command, "out"], stdout=out, stderr=subprocess.PIPE, text=True, check=False
        )
        assert done.returncode == status.USAGE
        assert "standard output is the same file as --log out" in done.stderr
        done = subprocess.run([*command, "/dev/stdout"], stdout=out, check=False)
        assert done.returncode == status.HOST


class FakeOutputs:
    """With a record that cannot be written, for want of room or of a reader."""

    def __init__(self, error: OSError) -> None:
        self.error = error
        self.record = self

    def write(self, data: bytes) -> None:
        raise self.error


@pytest.mark.parametrize(
    ("error", "code", "left"),
    [
        (errors.HostError(28, "no room"), 0, status.HOST),
        (errors.HostError(28, "no room"), 7, 7),
        (errors.HostError(28, "no room"), status.GUEST_PANIC, status.GUEST_PANIC),
        (BrokenPipeError(), 0, status.BROKEN_PIPE),
        (BrokenPipeError(), 3, 3),
    ],
)
def test_a_record_that_is_lost_is_no_success(
    error: OSError, code: int, left: int, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs: Any = FakeOutputs(error)
    assert launch._write_record({}, outputs, code) == left
    assert ("no room" in capsys.readouterr().err) == isinstance(error, errors.HostError)
