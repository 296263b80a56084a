# SPDX-License-Identifier: Apache-2.0
"""Output of the serial port: to readers that are slow, stand still or go, and to a log beside."""

from __future__ import annotations

import errno
import os
import random
import select
import socket
import threading
import time

import pytest

from pyvmm.errors import StateError
from tests.support.serial_guest import EMPTY, IER, IIR, IS_THR, LSR, NONE, THR, THRI, Guest


def test_tail_is_the_last_64_kib(uart):
    data = random.Random(2).randbytes(100000)
    for byte in data:
        uart.out(THR, byte)
    assert uart.serial.tail() == data[-65536:]
    assert uart.serial.tail(10) == data[-10:]
    assert uart.serial.tail(0) == b""
    stats = uart.serial.stats()
    assert (stats["sent"], stats["written"], stats["dropped"]) == (100000, 100000, 0)


@pytest.mark.parametrize("blocking", [True, False])
def test_every_byte_reaches_a_slow_reader(port, pipe, blocking):
    os.set_blocking(pipe[1], blocking)
    guest = port(pipe[1])
    data = random.Random(3).randbytes(250000)
    seen = bytearray()

    def read_slowly() -> None:
        while len(seen) < len(data):
            seen.extend(os.read(pipe[0], 5000))
            time.sleep(0.002)

    reader = threading.Thread(target=read_slowly)
    reader.start()
    guest.send(data)
    assert guest.serial.drain(30)
    reader.join()
    assert bytes(seen) == data
    stats = guest.serial.stats()
    assert (stats["sent"], stats["written"], stats["dropped"]) == (len(data), len(data), 0)


def test_an_output_that_takes_no_more_is_told(port, pipe):
    failed = os.eventfd(0, os.EFD_NONBLOCK)
    guest = port(pipe[1], failed_fd=failed)
    guest.send(b"a")
    assert guest.serial.drain()
    assert guest.serial.stats()["output_error"] == 0
    os.close(pipe[0])
    pipe[0] = -1
    guest.send(b"b")
    assert select.select([failed], [], [], 30)[0]
    assert guest.serial.stats()["output_error"] == errno.EPIPE
    os.close(failed)


def test_an_eventfd_that_its_owner_closed_is_no_other_file(port, pipe, tmp_path):
    failed = os.eventfd(0)
    guest = port(pipe[1], failed_fd=failed)
    kept = os.dup(failed)
    with open(tmp_path / "other", "wb") as other:
        os.dup2(other.fileno(), failed)
    os.close(pipe[0])
    pipe[0] = -1
    guest.send(b"nobody")
    assert select.select([kept], [], [], 30)[0]
    assert (tmp_path / "other").read_bytes() == b""
    for fd in (failed, kept):
        os.close(fd)


def take(fd: int, length: int) -> threading.Thread:
    """A reader of so many bytes."""

    def read() -> None:
        left = length
        while left:
            left -= len(os.read(fd, left))

    thread = threading.Thread(target=read)
    thread.start()
    return thread


def test_the_log_gets_what_the_output_gets(port, pipe, tmp_path):
    data = random.Random(4).randbytes(100000)
    with open(tmp_path / "log", "wb") as log:
        guest = port(pipe[1], log_fd=log.fileno())
    reader = take(pipe[0], len(data))
    guest.send(data)
    assert guest.serial.drain(30)
    reader.join()
    assert (tmp_path / "log").read_bytes() == data


def test_the_log_goes_on_without_the_output(port, pipe, tmp_path):
    data = random.Random(5).randbytes(100000)
    with open(tmp_path / "log", "wb") as log:
        guest = port(pipe[1], log_fd=log.fileno())
    guest.send(data[:10])
    assert guest.serial.drain(30)
    os.close(pipe[0])
    pipe[0] = -1
    guest.send(data[10:])
    assert guest.serial.drain(30)
    assert (tmp_path / "log").read_bytes() == data
    stats = guest.serial.stats()
    assert (stats["output_error"], stats["log_error"]) == (errno.EPIPE, 0)


def test_the_log_goes_on_where_the_output_stood_still(port, pipe, tmp_path):
    data = random.Random(6).randbytes(100000)
    with open(tmp_path / "log", "wb") as log:
        guest = port(pipe[1], log_fd=log.fileno())
    guest.send(data)
    assert not guest.serial.drain(0.1)
    os.close(pipe[0])
    pipe[0] = -1
    assert guest.serial.drain(30)
    assert (tmp_path / "log").read_bytes() == data


def test_a_log_that_fails_after_the_output_is_told(port, pipe):
    ends = os.pipe()
    guest = port(pipe[1], log_fd=ends[1])
    os.close(pipe[0])
    pipe[0] = -1
    guest.send(b"word")
    assert guest.serial.drain(30)
    assert os.read(ends[0], 10) == b"word"
    os.close(ends[0])
    guest.send(b"more")
    assert guest.serial.drain(30)
    stats = guest.serial.stats()
    assert (stats["output_error"], stats["log_error"]) == (errno.EPIPE, errno.EPIPE)
    os.close(ends[1])


def test_a_log_that_takes_no_more_stops_nothing(port, pipe):
    ends = os.pipe()
    guest = port(pipe[1], log_fd=ends[1])
    os.close(ends[0])
    guest.send(b"word")
    assert guest.serial.drain()
    assert os.read(pipe[0], 100) == b"word"
    stats = guest.serial.stats()
    assert (stats["output_error"], stats["log_error"]) == (0, errno.EPIPE)
    os.close(ends[1])


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_a_log_whose_reader_stands_still_is_given_up(port, pipe, kind):
    ends = os.pipe() if kind == "pipe" else [end.detach() for end in socket.socketpair()]
    guest = port(pipe[1], log_fd=ends[1])
    reader = take(pipe[0], 200000)
    guest.send(bytes(200000))
    assert guest.serial.drain(30)
    reader.join()
    assert guest.serial.stats()["log_error"] == errno.ETIMEDOUT
    for fd in ends:
        os.close(fd)


def test_full_ring_clears_thre_and_interrupts_when_there_is_room(port, pipe):
    guest = port(pipe[1])
    sent = 0
    while guest.inp(LSR) & EMPTY:
        guest.out(THR, sent & 0xFF)
        sent += 1
    assert 65536 - 16 < sent - guest.serial.stats()["written"] <= 65536
    guest.out(IER, THRI)
    assert guest.inp(IIR) == NONE
    assert guest.edges() == 0
    assert not guest.serial.drain(0.01)
    seen = b""
    while len(seen) < sent:
        seen += os.read(pipe[0], 65536)
    guest.edge()
    assert guest.inp(IIR) == IS_THR
    assert guest.inp(LSR) & EMPTY == EMPTY
    assert seen == bytes(n & 0xFF for n in range(sent))
    assert guest.serial.stats()["dropped"] == 0


def test_guest_that_ignores_thre_is_slowed_down(port, pipe):
    """Linux's console writes after 10 ms whatever THRE says: a reader that only is slow loses nothing.

    A write waits for 20 ms, which on a busy machine can pass before the reader has its turn: hence the tries.
    """
    guest = port(pipe[1])
    assert any(loses_nothing(guest, pipe[0]) for _ in range(20))


def loses_nothing(guest, reader_fd):
    dropped = guest.serial.stats()["dropped"]
    while guest.inp(LSR) & EMPTY:
        guest.out(THR, 0)
    reader = threading.Timer(0.01, lambda: os.read(reader_fd, 65536))
    reader.start()
    for _ in range(100):
        guest.out(THR, 1)
    reader.join()
    return guest.serial.stats()["dropped"] == dropped


def test_output_that_stands_still_drops_and_counts(port, pipe):
    guest = port(pipe[1])
    while guest.inp(LSR) & EMPTY:
        guest.out(THR, 0)
    for _ in range(18):
        guest.out(THR, 1)
    assert 0 < guest.serial.stats()["dropped"] <= 18


def test_closed_reader_drops_and_goes_on(port, pipe):
    guest = port(pipe[1])
    os.close(pipe[0])
    pipe[0] = -1
    guest.send(b"lost")
    assert guest.serial.drain()
    guest.send(b" and gone")
    assert guest.serial.tail() == b"lost and gone"
    stats = guest.serial.stats()
    assert (stats["sent"], stats["written"], stats["dropped"]) == (13, 0, 13)
    guest.out(IER, THRI)
    assert guest.inp(IIR) == IS_THR


def test_output_to_a_file_and_a_socket(port, tmp_path):
    data = random.Random(4).randbytes(100000)
    fd = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    guest = port(fd)
    os.close(fd)
    guest.send(data)
    assert guest.serial.drain()
    assert (tmp_path / "log").read_bytes() == data
    ours, theirs = socket.socketpair()
    with ours, theirs:
        guest = port(theirs.fileno())
        guest.send(data[:1000])
        assert guest.serial.drain()
        assert ours.recv(2000) == data[:1000]


def test_output_to_a_terminal_that_is_halted(port):
    master, slave = os.openpty()
    guest = port(slave)
    while guest.inp(LSR) & EMPTY:  # nobody reads the master: the terminal takes some and stops
        guest.out(THR, 65)
    begin = time.monotonic()
    guest.serial.close()
    assert time.monotonic() - begin < 20  # one second of waiting, and no write that blocks
    os.close(master)
    os.close(slave)


def test_close_writes_what_is_left(port, pipe):
    guest = port(pipe[1])
    for byte in b"last words":
        guest.out(THR, byte)
    guest.serial.close()
    guest.serial.close()
    assert os.read(pipe[0], 100) == b"last words"
    with pytest.raises(StateError, match="closed"):
        guest.serial.tail()


def test_vcpus_at_once(port, pipe):
    guest = port(pipe[1])
    machine = guest.machine

    def run(byte: int) -> None:
        other = Guest(machine, guest.serial)
        for _ in range(5000):
            other.out(THR, byte)
            other.inp(LSR)

    threads = [threading.Thread(target=run, args=(byte,)) for byte in b"abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert guest.serial.drain()
    seen = os.read(pipe[0], 65536)
    assert [seen.count(byte) for byte in b"abc"] == [5000] * 3
