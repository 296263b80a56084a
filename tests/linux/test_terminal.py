# SPDX-License-Identifier: Apache-2.0
"""pyvmm on a terminal and in a pipe: keys, escape keys, the state it leaves behind."""

from __future__ import annotations

import subprocess
import termios
from typing import TYPE_CHECKING

import pytest

from pyvmm.launch import status
from tests.support.stream import COLUMNS, PYVMM, ROWS, SECONDS, Terminal

if TYPE_CHECKING:
    from tests.support.linux import Run

LFLAG = 3
CTRL_A, CTRL_C = "\x01", "\x03"
PROMPT = "# "


@pytest.mark.parametrize("console", [pytest.param("serial", marks=pytest.mark.rest), "virtio"])
def test_interactive_shell(console: str) -> None:
    """A line, ctrl-c for what runs in the guest, and the status of the shell."""
    with Terminal("run", "--console", console) as terminal:
        terminal.expect(PROMPT)
        assert not terminal.settings()[LFLAG] & (termios.ISIG | termios.ECHO | termios.ICANON)
        # Quotes: the text awaited shall not be the echo of what was typed.
        terminal.type("echo h''i\r")
        terminal.expect("\nhi\r\n")
        terminal.type("echo be''gin; sleep 1000; echo interr''upted $?\r")
        terminal.expect("begin\r\n")
        terminal.quiet(1)
        assert terminal.process.poll() is None
        terminal.type(CTRL_C)
        terminal.expect(PROMPT)
        terminal.type("exit 3\r")
        assert terminal.finish() == 3
        assert terminal.settings() == terminal.before


@pytest.mark.parametrize("console", [pytest.param("serial", marks=pytest.mark.rest), "virtio"])
def test_escape_key_ends_the_guest(console: str) -> None:
    with Terminal("run", "--console", console) as terminal:
        terminal.expect(PROMPT)
        terminal.type(CTRL_A + "x")
        assert terminal.finish() == status.STOPPED
        assert terminal.settings() == terminal.before


def test_command_on_a_terminal() -> None:
    """A COMMAND on a terminal has one in the guest: its name, its size, its signals."""
    script = "echo $TERM; stty size; read line; echo got $line; sleep 1000"
    with Terminal("run", "--", "sh", "-c", script) as terminal:
        text = terminal.expect("\r\n") + terminal.expect("\r\n")
        assert text.split()[1:] == [str(ROWS), str(COLUMNS)]
        terminal.type("words\r")
        terminal.expect("got words")
        terminal.quiet(1)
        terminal.type(CTRL_C)
        assert terminal.finish() == 128 + 2
        assert terminal.settings() == terminal.before


def test_terminal_is_given_back_after_sigterm() -> None:
    with Terminal("run") as terminal:
        terminal.expect(PROMPT)
        terminal.process.terminate()
        assert terminal.finish() == status.STOPPED
        assert terminal.settings() == terminal.before


def test_input_of_a_pipe_ends(run: Run) -> None:
    """`echo hello | pyvmm run -- cat` ends: the end of the input reaches the command."""
    done = run("cat; echo end", stdin=b"hello\n")
    assert (done.status, done.stdout) == (0, "hello\nend\n"), done


def test_large_input_and_output_of_pipes() -> None:
    """Bytes of every value pass unchanged, more than any buffer between holds."""
    data = bytes(range(256)) * 2048
    done = subprocess.run(
        [*PYVMM, "run", "--", "head", "-c", str(len(data))],
        input=data,
        capture_output=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == data


def test_reader_that_goes_away() -> None:
    """As in `pyvmm run -- yes | head -1`: the guest ends, though it has more to do, as by a pipe's signal."""
    with subprocess.Popen(
        [*PYVMM, "run", "--", "sh", "-c", "yes | head -c 1000000 | cat; sleep 1000; exit 7"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"y\n"
        process.stdout.close()
        try:
            assert process.wait(SECONDS) == status.BROKEN_PIPE
        finally:
            process.kill()
