# SPDX-License-Identifier: Apache-2.0
"""The lab at a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.emulators import QEMU, is_gone, wait_for_emulator
from tests.support.lab_program import LIMIT, program

if TYPE_CHECKING:
    from collections.abc import Iterator


def read_until(master: int, wanted: bytes) -> bytes:
    seen = b""
    end = time.monotonic() + LIMIT
    while wanted not in seen and time.monotonic() < end:
        if select.select([master], [], [], 1)[0]:
            try:
                seen += os.read(master, 4096)
            except OSError:
                break
    assert wanted in seen, seen
    return seen


def set_size(fd: int, rows: int, columns: int) -> None:
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    master, slave = pty.openpty()
    set_size(master, 33, 99)
    yield master, slave
    os.close(master)
    os.close(slave)


def own_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def at_terminal(slave: int, *words: str) -> subprocess.Popen[bytes]:
    return program(
        *words,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        preexec_fn=own_terminal,
    )


def test_a_shell_at_a_terminal(terminal: tuple[int, int]) -> None:
    master, slave = terminal
    saved = termios.tcgetattr(slave)
    process = at_terminal(slave, "--", "sh", "-c", "tty; stty size; echo ready; exec sh")
    seen = read_until(master, b"ready")
    assert b"/dev/pts/0" in seen
    assert b"33 99" in seen
    set_size(master, 44, 111)
    process.send_signal(signal.SIGWINCH)
    os.write(master, b"sleep 1; stty size\r")
    read_until(master, b"44 111")
    os.write(master, b"sleep 1000\r")
    time.sleep(2)
    os.write(master, b"\x03")  # goes to the command inside, which is not the end of the lab
    os.write(master, b"echo still $((40 + 2))\r")
    read_until(master, b"still 42")
    os.write(master, b"exit 5\r")
    assert process.wait(LIMIT) == 5
    assert termios.tcgetattr(slave) == saved


@pytest.mark.parametrize("by", ["escape", pytest.param("signal", marks=pytest.mark.rest)])
def test_the_terminal_is_restored(terminal: tuple[int, int], by: str) -> None:
    master, slave = terminal
    saved = termios.tcgetattr(slave)
    process = at_terminal(slave, "--", "sh", "-c", "stty raw; echo ready; sleep 1000")
    read_until(master, b"ready")
    emulator = wait_for_emulator(process, QEMU)
    if by == "escape":
        os.write(master, b"\x1d\x1d\x1d")
    else:
        process.terminate()
    assert process.wait(LIMIT) == (130 if by == "escape" else 143)
    assert termios.tcgetattr(slave) == saved
    assert is_gone(emulator)
