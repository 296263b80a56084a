# SPDX-License-Identifier: Apache-2.0
"""The lab with VT-x by the command line, and what ends it: each test has a machine of its own.

They are apart from those that share one, which takes a CPU of this machine while it idles.
"""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from pyvmm.lab import Lab, LabError, LabTimeout
from pyvmm.lab.vmx import BOOT_TIMEOUT
from tests.support.emulators import BOCHS, is_gone, wait_for_emulator
from tests.support.tree import ROOT

LIMIT = 2 * BOOT_TIMEOUT
pytestmark = pytest.mark.rest

PYVMM = (sys.executable, "-m", "pyvmm")


def program(*words: str) -> list[str]:
    return [*PYVMM, "lab", "--arch", "vmx", *words]


def run(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[bytes]:
    """`pyvmm lab --arch vmx` to its end."""
    return subprocess.run(
        program(*words),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=LIMIT,
        check=False,
    )


# -- the command line


def test_output_and_status_through_the_command_line(tmp_path: Path) -> None:
    packed = tmp_path / "file"
    packed.write_text("packed\n")
    done = run(
        "--pack", str(packed), "--", "sh", "-c", f"echo out; echo err >&2; cat {packed}; exit 7"
    )
    assert (done.returncode, done.stdout) == (7, b"out\npacked\n")
    assert done.stderr.endswith(b"err\n")


def test_without_ept() -> None:
    script = "cat /sys/module/kvm_intel/parameters/ept; echo $PYVMM_LAB"
    done = run("--no-npt", "--", "sh", "-c", script)
    assert (done.returncode, done.stdout) == (0, b"N\nvmx-shadow\n"), done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--cpus", "2"], "one CPU"),
        (["--memory", "8G"], "at most 2048 MiB"),
        (["--icount"], "counts instructions"),
        (["--share", "/usr"], "brings no files back"),
        (["--pack", "/no/such/file"], "/no/such/file"),
    ],
)
def test_what_it_does_not_have_is_said(words: list[str], said: str) -> None:
    done = run(*words, "--", "true")
    assert done.returncode != 0
    assert said in done.stderr.decode()


# -- ends


def test_timeout_leaves_nothing_behind() -> None:
    command = program("--timeout", "3", "--", "sleep", "100000000")
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        emulator = wait_for_emulator(process, BOCHS)
        _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 124, err
    assert b"did not end in the time" in err
    assert is_gone(emulator)


def test_timeout_ends_the_lab() -> None:
    with Lab(arch="vmx") as machine:
        pid = machine.pid
        with pytest.raises(LabTimeout):
            machine.run(["sleep", "100000000"], stdin=subprocess.DEVNULL, timeout=1)
        assert is_gone(pid)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_it(number: int) -> None:
    command = program("--", "sleep", "100000000")
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL) as process:
        emulator = wait_for_emulator(process, BOCHS)
        process.send_signal(number)
        process.wait(LIMIT)
    assert process.returncode == (143 if number == signal.SIGTERM else -number)
    assert is_gone(emulator)


def test_the_outer_kernel_dies() -> None:
    with Lab(arch="vmx") as machine:
        script = ["sh", "-c", "echo c > /proc/sysrq-trigger"]
        with pytest.raises(LabError, match="sysrq: Trigger a crash"):
            machine.run(script, stdin=subprocess.DEVNULL, timeout=LIMIT)


def test_the_emulator_is_killed() -> None:
    with Lab(arch="vmx") as machine:
        os.kill(machine.pid, signal.SIGKILL)
        with pytest.raises(LabError, match=r"ended by itself|has gone"):
            machine.run(["sleep", "100000000"], stdin=subprocess.DEVNULL, timeout=LIMIT)


def test_the_terminal_is_as_it_was() -> None:
    ours, theirs = pty.openpty()
    try:
        before = termios.tcgetattr(theirs)
        command = program("--", "sh", "-c", "test -t 0 && test -t 1")
        done = subprocess.run(
            command,
            cwd=ROOT,
            stdin=theirs,
            stdout=theirs,
            stderr=subprocess.PIPE,
            timeout=LIMIT,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert termios.tcgetattr(theirs) == before
    finally:
        os.close(ours)
        os.close(theirs)
