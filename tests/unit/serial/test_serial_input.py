# SPDX-License-Identifier: Apache-2.0
"""Input of the serial port: what was typed reaches the guest, in order, whatever its driver does meanwhile."""

from __future__ import annotations

import os
import random
import select
import socket
import threading
import time

import pytest

from tests.support.serial_guest import (
    DR,
    DTR,
    FCR,
    IER,
    IIR,
    LOOP,
    LSR,
    MCR,
    MSR,
    OUT2,
    RBR,
    RLSI,
    RTS,
    RX,
    THR,
    autoconfig,
)


def test_input_survives_probing_and_startup(uart):
    """Input that is there before the driver is not lost to the driver's cleaning up."""
    data = bytes(range(200))
    uart.serial.feed(data)
    assert autoconfig(uart) == "16550A"
    uart.out(MCR, OUT2)
    for register in (LSR, RBR, IIR, MSR):
        uart.inp(register)
    uart.out(FCR, 0x81)
    uart.out(IER, RLSI | RX)
    uart.out(MCR, DTR | RTS | OUT2)
    assert uart.receive(200) == data


@pytest.mark.parametrize("length", [1, 7, 200, 65536])
def test_input_survives_a_reset_of_the_fifo(uart, length):
    """Linux enables the interrupt before the FIFO, which resets that: what was taken meanwhile comes again."""
    data = random.Random(length).randbytes(length)
    uart.serial.feed(data)
    uart.out(MCR, OUT2)
    uart.out(IER, RLSI | RX)
    assert uart.inp(LSR) & DR
    for fcr in (1, 7, 0, 0x81):
        uart.out(FCR, fcr)
        assert uart.serial.stats()["waiting"] == length
    assert uart.receive(length) == data


def test_only_what_came_by_loopback_goes_with_a_reset(uart):
    uart.out(FCR, 1)
    uart.out(MCR, RTS)
    uart.serial.feed(b"in")
    uart.out(MCR, LOOP)
    uart.out(THR, 0x78)
    uart.out(FCR, 3)
    assert not uart.inp(LSR) & DR
    uart.out(MCR, RTS)
    assert uart.receive(2) == b"in"


def test_guest_that_only_polls_gets_input(uart):
    uart.serial.feed(b"hi")
    assert uart.receive(2) == b"hi"


def test_input_waits_for_rts(uart):
    uart.out(MCR, DTR)
    uart.serial.feed(b"x")
    assert not uart.inp(LSR) & DR
    assert uart.serial.stats()["waiting"] == 1
    uart.out(MCR, DTR | RTS)
    assert uart.inp(RBR) == ord("x")


def test_feed_is_bounded(uart):
    assert uart.serial.feed(bytes(70000)) == 65536
    assert uart.serial.feed(b"x") == 0
    uart.inp(LSR)
    assert uart.receive(2) == b"\0\0"
    assert uart.serial.feed(b"xyz") == 3


@pytest.mark.parametrize("kind", ["pipe", "file", "socket"])
def test_input_arrives_in_order(port, tmp_path, kind):
    data = random.Random(1).randbytes(300000)
    path = tmp_path / "input"
    path.write_bytes(data)
    if kind == "file":
        read, write = os.open(path, os.O_RDONLY), -1
    elif kind == "pipe":
        read, write = os.pipe()
    else:
        read, write = (end.detach() for end in socket.socketpair())
    guest = port(input_fd=read)
    os.close(read)  # the port has its own
    if write >= 0:
        feeder = threading.Thread(target=_write_all, args=(write, data))
        feeder.start()
    guest.out(FCR, 1)
    guest.out(MCR, RTS)
    assert guest.receive(len(data)) == data
    if write >= 0:
        feeder.join()


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    os.close(fd)


def test_descriptors_of_others_keep_their_flags(port, pipe):
    read, write = os.pipe()
    port(pipe[1], read)
    assert os.get_blocking(pipe[1])
    assert os.get_blocking(read)
    os.close(read)
    os.close(write)


def test_end_of_input_is_not_an_end(port, pipe):
    guest = port(input_fd=pipe[0])
    os.write(pipe[1], b"bye")
    os.close(pipe[1])
    pipe[1] = -1
    assert guest.receive(3) == b"bye"
    guest.serial.feed(b"more")
    assert guest.receive(4) == b"more"


def test_escape_keys_work_on_a_guest_that_reads_nothing(port, pipe):
    quit_fd = os.eventfd(0)
    guest = port(input_fd=pipe[0], escape=True, quit_fd=quit_fd)
    typist = threading.Thread(target=os.write, args=(pipe[1], b"z" * 200000 + b"\x01x"))
    typist.start()
    assert select.select([quit_fd], [], [], 30)[0]
    typist.join()
    deadline = time.monotonic() + 30  # the key is served before the read it came in is counted
    while guest.serial.stats()["refused"] < 200000 - 65536 and time.monotonic() < deadline:
        time.sleep(0.001)
    stats = guest.serial.stats()
    assert (stats["waiting"], stats["refused"]) == (65536, 200000 - 65536)
    os.close(quit_fd)


def test_help_is_written_to_the_output(port, pipe):
    read, write = os.pipe()
    port(pipe[1], read, escape=True)
    os.write(write, b"\x01h")
    assert b"ctrl-a" in os.read(pipe[0], 4096)
    os.close(read)
    os.close(write)
