# SPDX-License-Identifier: Apache-2.0
"""The virtio console, driven through its registers and rings, with pipes, sockets and ptys at the other end."""

from __future__ import annotations

import errno
import os
import pty
import select
import socket
import struct
import time
import tty
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyvmm.devices.virtio_console import VirtioConsole
from pyvmm.errors import ConfigError, HostError, StateError
from tests.support.virtio_driver import (
    F_VERSION_1,
    PATIENCE,
    WRITE,
    Descriptor,
    Driver,
    FakeMachine,
    Queue,
)

RX_AT, TX_AT = 0x40000, 0x60000


class Console:
    """A console and its driver; receive buffers of `room` bytes."""

    def __init__(self, input_fd: int | None, output_fd: int | None, **options: Any) -> None:
        self.machine = FakeMachine()
        self.device = VirtioConsole(self.machine, input_fd, output_fd, **options)  # type: ignore[arg-type]
        self.driver = Driver(self.machine, self.device)
        self.memory = self.machine.memory

    def start(self, features: int | None = None) -> Console:
        self.rx, self.tx = self.driver.start(features)
        return self

    def offer(self, count: int = 1, room: int = 64) -> None:
        for _ in range(count):
            head = self.rx.idx % self.rx.size
            self.rx.write_desc(head, Descriptor(RX_AT + 0x400 * head, room, WRITE))
            self.rx.offer(head)
        self.rx.kick()

    def received(self, queue: Queue) -> bytes:
        return b"".join(
            self.memory.read(RX_AT + 0x400 * head, written) for head, written in queue.collect()
        )

    def expect(self, data: bytes) -> None:
        """Waits until the guest has received exactly this."""
        got = b""
        deadline = time.monotonic() + PATIENCE
        while len(got) < len(data):
            got += self.received(self.rx)
            assert time.monotonic() < deadline, got
            time.sleep(0.0002)
        assert got == data

    def queue_output(self, data: bytes) -> None:
        head = self.tx.idx % self.tx.size
        at = TX_AT + 0x2000 * head
        self.memory.write(at, data)
        self.tx.write_desc(head, Descriptor(at, len(data)))
        self.tx.offer(head)

    def send(self, data: bytes) -> None:
        self.queue_output(data)
        self.tx.kick()


@pytest.fixture
def consoles() -> Iterator[list[Console]]:
    made: list[Console] = []
    yield made
    for console in made:
        console.machine.close()


@pytest.fixture
def pipes() -> Iterator[list[int]]:
    """(input read end, input write end, output read end, output write end)"""
    fds = [*os.pipe(), *os.pipe()]
    yield fds
    for fd in fds:
        try:
            os.close(fd)
        except OSError:
            pass


def read_exactly(fd: int, length: int) -> bytes:
    got = b""
    while len(got) < length:
        assert select.select([fd], [], [], PATIENCE)[0], f"{len(got)} of {length} bytes came"
        piece = os.read(fd, length - len(got))
        assert piece
        got += piece
    return got


def test_both_ways_through_pipes(consoles: list[Console], pipes: list[int]) -> None:
    console = Console(pipes[0], pipes[3])
    consoles.append(console)
    console.start()
    console.send(b"hello")
    assert read_exactly(pipes[2], 5) == b"hello"
    assert console.tx.wait() == [(0, 0)]
    console.offer(2)
    os.write(pipes[1], b"typed")
    console.expect(b"typed")
    assert console.driver.wait_interrupt() & 1
    stats = console.device.stats()
    assert stats["bytes_from_guest"] == 5
    assert stats["bytes_to_guest"] == 5
    assert console.device.violations == {}


@pytest.mark.parametrize("features", [None, 1 << F_VERSION_1])
def test_input_waits_for_buffers(
    consoles: list[Console], pipes: list[int], features: int | None
) -> None:
    data = bytes(range(256)) * 64  # more than is read ahead
    console = Console(pipes[0], None)
    consoles.append(console)
    os.write(pipes[1], data)
    console.start(features)
    console.driver.settle()
    assert console.rx.used_idx == 0
    got = b""
    deadline = time.monotonic() + PATIENCE
    while len(got) < len(data):
        if console.rx.idx - console.rx.seen < 4:
            console.offer(2, room=100)
        got += console.received(console.rx)
        assert time.monotonic() < deadline
    assert got == data


def test_input_comes_to_an_end(consoles: list[Console], pipes: list[int]) -> None:
    console = Console(pipes[0], pipes[3])
    consoles.append(console)
    console.start()
    console.offer(4)
    os.write(pipes[1], b"last")
    os.close(pipes[1])
    console.expect(b"last")
    console.driver.settle()
    assert console.rx.used_idx == 1
    console.send(b"still here")
    assert read_exactly(pipes[2], 10) == b"still here"


@pytest.mark.parametrize("name", ["/dev/null", "file"])
def test_input_that_cannot_be_polled(consoles: list[Console], tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_bytes(b"x" * 20000)
    fd = os.open(tmp_path / name, os.O_RDONLY)
    console = Console(fd, None)
    os.close(fd)
    consoles.append(console)
    console.start()
    got = b""
    for _ in range(20000 // 4096 + 1 if name == "file" else 1):  # it is read in chunks of 4096
        console.offer(8, room=1000)
        console.driver.settle()
        got += console.received(console.rx)
    assert got == (b"x" * 20000 if name == "file" else b"")


def test_slow_reader_holds_the_guest_up_and_loses_nothing(
    consoles: list[Console], pipes: list[int]
) -> None:
    console = Console(None, pipes[3])
    consoles.append(console)
    console.start()
    data = [os.urandom(8000) for _ in range(16)]  # more than a pipe holds
    for piece in data:
        console.queue_output(piece)
    console.tx.kick()
    console.driver.settle()
    assert console.tx.used_idx < 16
    assert not console.device.drain(0.01)
    assert read_exactly(pipes[2], 16 * 8000) == b"".join(data)
    assert len(console.tx.wait(16)) == 16
    assert console.device.drain()


def test_drain_takes_what_was_not_kicked(consoles: list[Console], pipes: list[int]) -> None:
    console = Console(None, pipes[3])
    consoles.append(console)
    console.start()
    console.queue_output(b"last words")
    assert console.device.drain()
    assert read_exactly(pipes[2], 10) == b"last words"


def test_close_drains(pipes: list[int]) -> None:
    console = Console(None, pipes[3]).start()
    console.queue_output(b"last words")
    console.machine.close()
    assert read_exactly(pipes[2], 10) == b"last words"
    with pytest.raises(StateError):
        console.device.set_size(1, 1)


def test_reader_goes_away(consoles: list[Console], pipes: list[int]) -> None:
    console = Console(pipes[0], pipes[3])
    consoles.append(console)
    console.start()
    os.close(pipes[2])
    for _ in range(3):
        console.send(b"x" * 4000)
        console.tx.wait()
    assert console.device.stats()["errors"] == 3
    console.offer()
    os.write(pipes[1], b"in")
    console.expect(b"in")


@pytest.mark.parametrize("reason", [errno.EPIPE, errno.ENOSPC])
def test_an_output_that_takes_no_more_is_told(
    consoles: list[Console], pipes: list[int], reason: int
) -> None:
    failed = os.eventfd(0, os.EFD_NONBLOCK)
    full = os.open("/dev/full", os.O_WRONLY)
    output = full if reason == errno.ENOSPC else pipes[3]
    console = Console(None, output, failed_fd=failed).start()
    consoles.append(console)
    assert console.device.output_error() == 0
    os.close(pipes[2])
    console.send(b"nobody")
    assert select.select([failed], [], [], PATIENCE)[0]
    assert console.device.output_error() == reason
    os.close(failed)
    os.close(full)


def test_an_eventfd_that_its_owner_closed_is_no_other_file(
    consoles: list[Console], pipes: list[int], tmp_path: Path
) -> None:
    failed = os.eventfd(0)
    console = Console(None, pipes[3], failed_fd=failed).start()
    consoles.append(console)
    kept = os.dup(failed)
    with open(tmp_path / "other", "wb") as other:
        os.dup2(other.fileno(), failed)
    os.close(pipes[2])
    console.send(b"nobody")
    assert select.select([kept], [], [], PATIENCE)[0]
    assert (tmp_path / "other").read_bytes() == b""
    for fd in (failed, kept):
        os.close(fd)


def test_reader_goes_away_while_the_output_is_full(
    consoles: list[Console], pipes: list[int]
) -> None:
    console = Console(None, pipes[3])
    consoles.append(console)
    console.start()
    for _ in range(16):
        console.queue_output(b"x" * 8000)
    console.tx.kick()
    console.driver.settle()
    os.close(pipes[2])
    assert len(console.tx.wait(16)) == 16


def test_reset_while_the_output_is_full(consoles: list[Console], pipes: list[int]) -> None:
    console = Console(None, pipes[3])
    consoles.append(console)
    console.start()
    for _ in range(16):
        console.queue_output(b"x" * 8000)
    console.tx.kick()
    console.driver.settle()
    console.start()
    while select.select([pipes[2]], [], [], 0)[0]:
        os.read(pipes[2], 65536)
    console.send(b"fresh")
    console.tx.wait()
    assert read_exactly(pipes[2], 5) == b"fresh"


def test_one_socket_for_both(consoles: list[Console]) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        console = Console(theirs.fileno(), theirs.fileno())
        consoles.append(console)
        console.start()
        console.offer(4)
        ours.send(b"ping")
        console.expect(b"ping")
        data = os.urandom(8000)
        for _ in range(16):
            console.send(data)
        assert read_exactly(ours.fileno(), 16 * 8000) == data * 16
        assert theirs.getblocking() is True
        assert os.get_blocking(theirs.fileno())


@pytest.mark.parametrize("end", [0, 1])
def test_ptys(consoles: list[Console], end: int) -> None:
    fds = pty.openpty()
    tty.setraw(fds[1])
    console = Console(fds[end], fds[end], size=(80, 25))
    consoles.append(console)
    os.set_blocking(fds[1 - end], True)
    console.start()
    console.send(b"out\n")
    assert read_exactly(fds[1 - end], 4) == b"out\n"
    console.offer(4)
    os.write(fds[1 - end], b"in\n")
    console.expect(b"in\n")
    assert os.get_blocking(fds[end])
    console.device.close()
    for fd in fds:
        os.close(fd)


def test_size(consoles: list[Console], pipes: list[int]) -> None:
    console = Console(None, None, size=(132, 50))
    consoles.append(console)
    driver = console.driver
    assert driver.offered() & 1
    assert struct.unpack("<HH", driver.config(0, 4)) == (132, 50)
    assert driver.interrupts() == 0
    console.start()
    generation = driver.read(0xFC)
    console.device.set_size(80, 24)
    assert driver.wait_interrupt() == 2
    assert driver.read(0xFC) != generation
    assert driver.read(0x100) == 24 << 16 | 80
    for size in ((-1, 5), (5, 65536)):
        with pytest.raises(ConfigError):
            console.device.set_size(*size)


def test_escape_keys(consoles: list[Console], pipes: list[int]) -> None:
    quit_fd = os.eventfd(0, os.EFD_NONBLOCK)
    console = Console(pipes[0], pipes[3], escape=True, quit_fd=quit_fd)
    consoles.append(console)
    os.write(pipes[1], b"\x01x")  # before there is a driver
    assert select.select([quit_fd], [], [], PATIENCE)[0]
    console.start()
    console.offer(4)
    os.write(pipes[1], b"a\x01\x01b\x01hc\x01dz")
    console.expect(b"a\x01bc\x01dz")
    assert b"ctrl-a" in os.read(pipes[2], 4096)
    os.close(quit_fd)


def test_without_descriptors(consoles: list[Console]) -> None:
    console = Console(None, None)
    consoles.append(console)
    console.start()
    console.send(b"into the void")
    console.tx.wait()
    console.offer()
    console.driver.settle()
    assert console.rx.used_idx == 0


def test_bad_descriptor() -> None:
    with FakeMachine() as machine, pytest.raises(HostError, match="input_fd=987654"):
        VirtioConsole(machine, 987654, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "data", [b"", b"plain\n", b"\x10", b"\x10\x04\x10\x10end", bytes(range(256)) * 40]
)
def test_framed_input_is_escaped_and_its_end_arrives(
    consoles: list[Console], pipes: list[int], data: bytes
) -> None:
    console = Console(pipes[0], pipes[3], framed=True).start()
    consoles.append(console)
    for at in range(0, len(data), 1000):
        os.write(pipes[1], data[at : at + 1000])
    os.close(pipes[1])
    wanted = data.replace(b"\x10", b"\x10\x10") + b"\x10\x04"
    got = b""
    deadline = time.monotonic() + PATIENCE
    while len(got) < len(wanted):
        assert time.monotonic() < deadline, got
        console.offer()
        while not (piece := console.received(console.rx)) and time.monotonic() < deadline:
            time.sleep(0.0002)
        got += piece
    assert got == wanted


def test_framed_input_of_none_ends_at_once(consoles: list[Console], pipes: list[int]) -> None:
    console = Console(None, pipes[3], framed=True).start()
    consoles.append(console)
    console.offer()
    console.expect(b"\x10\x04")


def test_no_input_is_read_before_the_gate_opens(consoles: list[Console], pipes: list[int]) -> None:
    gate = os.eventfd(0, os.EFD_NONBLOCK)
    console = Console(pipes[0], pipes[3], gate_fd=gate).start()
    consoles.append(console)
    os.write(pipes[1], b"early")
    console.offer()
    time.sleep(0.05)
    assert console.received(console.rx) == b""
    os.eventfd_write(gate, 1)
    console.expect(b"early")


def test_a_console_whose_gate_never_opened_closes(pipes: list[int]) -> None:
    gate = os.eventfd(0, os.EFD_NONBLOCK)
    console = Console(pipes[0], pipes[3], framed=True, gate_fd=gate)
    console.machine.close()
    os.close(gate)
