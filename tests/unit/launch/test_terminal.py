# SPDX-License-Identifier: Apache-2.0
"""The terminal and its escape keys. Each end of a process is tried under a pseudo-terminal of its own."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import termios
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm._core import ffi, lib
from pyvmm.errors import StateError
from pyvmm.launch.terminal import Terminal, ending_signals

A = b"\x01"


class Filter:
    """The escape filter with the eventfd and the pipe it may write to."""

    def __init__(self) -> None:
        self.quit_fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.help_read, self.help_write = os.pipe()
        self.c = ffi.new("struct escape_filter *")
        lib.escape_filter_init(self.c, self.quit_fd, self.help_write)

    def __enter__(self) -> Filter:
        return self

    def __exit__(self, *exc: object) -> None:
        for fd in (self.quit_fd, self.help_read, self.help_write):
            os.close(fd)

    def __call__(self, data: bytes) -> bytes:
        buffer = ffi.new("uint8_t[]", len(data) + 1)
        ffi.memmove(buffer, data, len(data))
        count = lib.escape_filter(self.c, buffer, len(data))
        assert count <= len(data) + 1
        return bytes(ffi.buffer(buffer, count))

    def quits(self) -> int:
        try:
            return os.eventfd_read(self.quit_fd)
        except BlockingIOError:
            return 0


@pytest.fixture
def keys():
    with Filter() as filter:
        yield filter


def test_plain_input_passes(keys):
    assert keys(b"ls -l\r") == b"ls -l\r"
    assert keys(b"") == b""


def test_ctrl_a_x_quits(keys):
    assert keys(b"ab" + A + b"xcd") == b"abcd"
    assert keys.quits() == 1


def test_keys_across_reads(keys):
    assert keys(b"a" + A) == b"a"
    assert keys(b"") == b""
    assert keys(b"xb") == b"b"
    assert keys.quits() == 1
    assert keys(A) == b""
    assert keys(b"z") == A + b"z"


def test_ctrl_a_twice_is_one(keys):
    assert keys(A + A + b"x") == A + b"x"
    assert keys.quits() == 0
    assert keys(A + A + A + A) == A + A


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_help_waits_for_no_reader(keys, kind):
    """The device's thread would never come back, and hold up a stop."""
    if kind == "pipe":
        reader, writer = os.pipe()
    else:
        reader, writer = (end.detach() for end in socket.socketpair())
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while os.write(writer, bytes(4096)):
            pass
    os.set_blocking(writer, True)
    lib.escape_filter_init(keys.c, keys.quit_fd, writer)
    asking = threading.Thread(target=keys, args=(A + b"h",), daemon=True)
    asking.start()
    asking.join(10)
    waits = asking.is_alive()
    os.close(reader)
    asking.join()
    os.close(writer)
    assert not waits


def test_help_goes_to_the_terminal(keys):
    assert keys(A + b"h" + A + b"?") == b""
    text = os.read(keys.help_read, 4096)
    assert text.count(b"ctrl-a x") == 2
    assert b"\n" not in text.replace(b"\r\n", b"")


def test_without_quit_the_key_is_unknown():
    filter = ffi.new("struct escape_filter *")
    lib.escape_filter_init(filter, -1, -1)
    buffer = ffi.new("uint8_t[8]", A + b"x" + A + b"h")
    assert bytes(ffi.buffer(buffer, lib.escape_filter(filter, buffer, 4))) == A + b"x"


def model(data: bytes) -> tuple[bytes, int]:
    """What a whole input comes to: the bytes for the guest and the number of quits."""
    out, quits, at = b"", 0, 0
    while at < len(data):
        if data[at : at + 1] != A:
            out += data[at : at + 1]
            at += 1
            continue
        key = data[at + 1 : at + 2]
        quits += key == b"x"
        if key == A:
            out += A
        elif key and key not in b"xh?":
            out += A + key
        at += 2
    return out, quits


@given(st.lists(st.lists(st.sampled_from([1, 1, 120, 104, 63, 97]), max_size=9).map(bytes)))
def test_any_split_filters_the_same(pieces):
    with Filter() as keys:
        assert (b"".join(map(keys, pieces)), keys.quits()) == model(b"".join(pieces))


# The terminal itself: a child with a controlling pseudo-terminal says when it is raw, then ends in its own way.

PROLOGUE = """
import os, signal, sys, time
from pyvmm.launch.terminal import Terminal
def ready():
    os.write(1, b"raw\\n")
"""

ENDS = {
    "normal": "with Terminal():\n    ready()\n    os.read(0, 1)",
    "exception": "with Terminal():\n    ready()\n    os.read(0, 1)\n    raise SystemError",
    "exit": "with Terminal():\n    ready()\n    os.read(0, 1)\n    sys.exit(3)",
    "interpreter": "Terminal().__enter__()\nready()\nos.read(0, 1)",
    "thread": "import threading\ndef f():\n    Terminal().__enter__()\n    ready()\n    os.read(0, 1)\n"
    "threading.Thread(target=f).start()",
}
WAITS = "with Terminal():\n    ready()\n    time.sleep(60)"


class Child:
    """A Python program on a pseudo-terminal, watched from the other side."""

    def __init__(self, program: str) -> None:
        self.master, self.slave = os.openpty()
        self.before = self.attributes()
        self.pid = os.fork()
        if self.pid == 0:
            os.login_tty(self.slave)
            os.execv(sys.executable, [sys.executable, "-c", PROLOGUE + program])

    def attributes(self) -> list:
        return termios.tcgetattr(self.slave)

    def expect(self, text: bytes) -> bytes:
        seen = b""
        while text not in seen:
            assert select.select([self.master], [], [], 30)[0], seen
            seen += os.read(self.master, 4096)
        return seen

    def type(self, data: bytes) -> None:
        os.write(self.master, data)

    def wait(self) -> int:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid = 0
                return os.waitstatus_to_exitcode(status)
            if select.select([self.master], [], [], 0.01)[0]:
                os.read(self.master, 4096)
        raise AssertionError("the child did not end")

    def close(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def child():
    children = []

    def start(program: str) -> Child:
        children.append(Child(program))
        return children[-1]

    yield start
    for each in children:
        each.close()


def is_raw(attributes: list) -> bool:
    flags = termios.ICANON | termios.ECHO | termios.ISIG | termios.IEXTEN
    return not (attributes[3] & flags or attributes[1] & termios.OPOST)


@pytest.mark.parametrize("end", sorted(ENDS))
def test_settings_come_back(child, end):
    it = child(ENDS[end])
    it.expect(b"raw")
    assert is_raw(it.attributes())
    it.type(b"x")
    status = it.wait()
    assert it.attributes() == it.before
    assert status == {"exception": 1, "exit": 3}.get(end, 0)


@pytest.mark.parametrize(
    "number", sorted(ending_signals() - {signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ})
)
def test_settings_come_back_after_a_signal(child, number):
    it = child(WAITS)
    it.expect(b"raw")
    assert is_raw(it.attributes())
    os.kill(it.pid, number)
    assert it.wait() == -number
    assert it.attributes() == it.before


def test_a_stopped_job_gives_the_terminal_back_and_takes_it_again(child):
    # Its parent is the shell: the job of a session's leader would not be stopped.
    it = child(
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])\n"
        "pid = os.fork()\n"
        "if not pid:\n"
        "    os.setpgid(0, 0)\n"
        "    signal.signal(signal.SIGTTOU, signal.SIG_IGN)\n"
        "    os.tcsetpgrp(0, os.getpid())\n"
        "    with Terminal():\n"
        "        os.kill(os.getpid(), signal.SIGTSTP)\n"
        "        ready()\n"
        "        os.read(0, 1)\n"
        "    os._exit(0)\n"
        "assert os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1])\n"
        "os.write(1, b'stopped')\n"
        "signal.sigwait([signal.SIGUSR1])\n"
        "os.kill(pid, signal.SIGCONT)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"
    )
    it.expect(b"stopped")
    assert it.attributes() == it.before
    os.kill(it.pid, signal.SIGUSR1)
    it.expect(b"raw")
    assert is_raw(it.attributes())
    it.type(b"x")
    assert it.wait() == 0
    assert it.attributes() == it.before


def test_interrupt_is_python_s_own(child):
    it = child(
        "try:\n    with Terminal():\n        ready()\n        time.sleep(60)\n"
        "except KeyboardInterrupt:\n    sys.exit(5)"
    )
    it.expect(b"raw")
    os.kill(it.pid, signal.SIGINT)
    assert it.wait() == 5
    assert it.attributes() == it.before


def test_earlier_handler_runs_and_the_terminal_is_raw_again(child):
    it = child(
        # Python sees a signal late that comes just before a read, with the input: no reads until then.
        "heard = []\n"
        "signal.signal(signal.SIGTERM, lambda *_: heard.append(os.write(1, b'chained')))\n"
        "with Terminal():\n    ready()\n    while not heard:\n        time.sleep(0.01)\n"
        "    os.read(0, 1)\n    os.read(0, 1)"
    )
    it.expect(b"raw")
    os.kill(it.pid, signal.SIGTERM)
    it.expect(b"chained")
    it.type(b"1")
    time.sleep(0.1)
    assert is_raw(it.attributes())
    it.type(b"2")
    assert it.wait() == 0
    assert it.attributes() == it.before


def test_ignored_signal_stays_ignored(child):
    it = child(
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\nwith Terminal():\n    ready()\n    os.read(0, 1)"
    )
    it.expect(b"raw")
    os.kill(it.pid, signal.SIGHUP)
    time.sleep(0.1)
    assert is_raw(it.attributes())
    it.type(b"x")
    assert it.wait() == 0


def test_forked_child_leaves_the_terminal_alone(child):
    it = child(
        "with Terminal():\n    if os.fork() == 0:\n        sys.exit(0)\n"
        "    os.wait()\n    ready()\n    os.read(0, 1)"
    )
    it.expect(b"raw")
    assert is_raw(it.attributes())
    it.type(b"x")
    assert it.wait() == 0
    assert it.attributes() == it.before


def test_resize_is_reported(child):
    it = child(
        "with Terminal() as t:\n"
        "    t.on_resize(lambda c, r: os.write(1, b'%d by %d.' % (c, r)))\n"
        "    ready()\n    os.read(0, 1)"
    )
    it.expect(b"raw")
    termios.tcsetwinsize(it.slave, (33, 123))
    it.expect(b"123 by 33.")
    it.type(b"x")
    assert it.wait() == 0


def test_background_job_does_not_hang_and_becomes_raw_in_the_foreground(child):
    # The parent stays in the foreground; its child is a group of its own, as `pyvmm run &` is.
    it = child(
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    os.setpgid(0, 0)\n"
        "    with Terminal() as t:\n"
        "        ready()\n"
        "        time.sleep(60)\n"
        "os.read(0, 1)\n"
        "signal.signal(signal.SIGTTOU, signal.SIG_IGN)\n"
        "os.tcsetpgrp(0, pid)\n"
        "os.kill(pid, signal.SIGCONT)\n"
        "time.sleep(0.3)\n"
        "os.write(1, b'shown')\n"
        "time.sleep(0.3)\n"
        "os.kill(pid, signal.SIGTERM)\n"
        "os.wait()"
    )
    it.expect(b"raw")
    assert not is_raw(it.attributes())
    it.type(b"\n")
    it.expect(b"shown")
    assert is_raw(it.attributes())
    assert it.wait() == 0
    assert it.attributes() == it.before


@pytest.mark.parametrize("kind", ["pipe", "null", "closed"])
def test_input_that_is_no_terminal(kind):
    fd, other = os.pipe()
    if kind == "null":
        os.close(fd)
        fd = os.open("/dev/null", os.O_RDONLY)
    if kind == "closed":
        os.close(fd)
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with Terminal(fd, fd) as terminal:
        assert not terminal.active
        assert terminal.size() is None
        assert handlers == [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    os.close(other)
    if kind != "closed":
        os.close(fd)


def test_cannot_be_entered_twice():
    with Terminal(-1, -1) as terminal, pytest.raises(StateError, match="in use"), terminal:
        pass
