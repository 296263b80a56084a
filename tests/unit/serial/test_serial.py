# SPDX-License-Identifier: Apache-2.0
"""The serial port, register by register, as Linux's 8250 driver and less careful guests use it."""

from __future__ import annotations

import errno
import os
import random
import select
import socket
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm._core import ffi, lib
from pyvmm.devices.serial import Serial
from pyvmm.errors import ConfigError, HostError, StateError

THR, IER, FCR, LCR, MCR, LSR, MSR, SCR = range(8)
RBR, IIR = THR, FCR
RX, THRI, RLSI, MSI = 1, 2, 4, 8
NONE, IS_THR, IS_RX, IS_LINE, IS_TIMEOUT, IS_MODEM = 1, 2, 4, 6, 12, 0
DR, OE, EMPTY = 1, 2, 0x60
DTR, RTS, OUT1, OUT2, LOOP = 1, 2, 4, 8, 16
FIFOS = 0xC0


class Machine:
    """As much of a machine as a serial port needs."""

    def __init__(self) -> None:
        self.board = self
        self.pio = lib.bus_create()
        self.irq = os.eventfd(0, os.EFD_NONBLOCK)
        self.devices: list[Serial] = []

    def irqfd(self, gsi: int) -> int:
        assert gsi == 4
        return self.irq

    def add_device(self, device: Serial) -> None:
        self.devices.append(device)

    def close(self) -> None:
        for device in reversed(self.devices):
            device.close()
        lib.bus_destroy(self.pio)
        os.close(self.irq)


class Guest:
    """A port as the guest sees it."""

    def __init__(self, machine: Machine, serial: Serial) -> None:
        self.machine = machine
        self.serial = serial
        self.access = ffi.new("struct bus_access *")

    def out(self, offset: int, value: int, length: int = 1) -> None:
        self._do(offset, value, length, 1)

    def inp(self, offset: int, length: int = 1) -> int:
        self._do(offset, 0, length, 0)
        return self.access.value

    def _do(self, offset: int, value: int, length: int, is_write: int) -> None:
        a = self.access
        a.address, a.offset, a.value, a.length, a.is_write = (
            0x3F8 + offset,
            offset,
            value,
            length,
            is_write,
        )
        assert lib.serial_access(self.serial._c, a) == lib.BUS_DONE

    def edges(self) -> int:
        try:
            return os.eventfd_read(self.machine.irq)
        except BlockingIOError:
            return 0

    def edge(self) -> None:
        """Waits for an interrupt."""
        assert select.select([self.machine.irq], [], [], 30)[0]
        self.edges()

    def receive(self, count: int) -> bytes:
        """Polls for input."""
        data = bytearray()
        deadline = time.monotonic() + 30
        while len(data) < count and time.monotonic() < deadline:
            if self.inp(LSR) & DR:
                data.append(self.inp(RBR))
        return bytes(data)

    def send(self, data: bytes) -> None:
        """Polls for THRE, then writes a FIFO's worth, as Linux's console does."""
        for at in range(0, len(data), 16):
            while not self.inp(LSR) & 0x20:
                time.sleep(0.001)
            for byte in data[at : at + 16]:
                self.out(THR, byte)


@pytest.fixture
def port():
    machines = []

    def make(*args, **options) -> Guest:
        machines.append(Machine())
        return Guest(machines[-1], Serial(machines[-1], *args, **options))

    yield make
    for machine in machines:
        machine.close()


@pytest.fixture
def uart(port):
    return port()


@pytest.fixture
def pipe():
    fds = list(os.pipe())
    yield fds
    for fd in fds:
        if fd >= 0:
            os.close(fd)


# Registers.


def autoconfig(guest: Guest) -> str:
    """What Linux's 8250 driver makes of a port: the checks of its probing, in their order."""
    ier = guest.inp(IER)
    guest.out(IER, 0)
    none = guest.inp(IER) & 0x0F
    guest.out(IER, 0x0F)
    every = guest.inp(IER) & 0x0F
    guest.out(IER, ier)
    if none != 0 or every != 0x0F:
        return "no interrupt register"
    mcr, lcr = guest.inp(MCR), guest.inp(LCR)
    guest.out(MCR, LOOP | OUT2 | RTS)
    lines = guest.inp(MSR) & 0xF0
    guest.out(MCR, mcr)
    if lines != 0x90:
        return "no loopback"
    guest.out(LCR, 0xBF)
    guest.out(FCR, 0)
    guest.out(LCR, 0)
    guest.out(FCR, 1)
    kind = ("8250", "unknown", "16550", "16550A")[guest.inp(IIR) >> 6]
    if kind == "16550A":
        kind = autoconfig_16550a(guest)
    guest.out(LCR, lcr)
    guest.out(MCR, mcr)
    guest.out(FCR, 1)
    guest.out(FCR, 7)
    guest.out(FCR, 0)
    guest.inp(RBR)
    guest.out(IER, 0)
    return kind


def autoconfig_16550a(guest: Guest) -> str:
    """Which of the 16550A's many descendants it is; it should be none."""
    for lcr in (0x80, 0xBF):
        guest.out(LCR, lcr)
        if guest.inp(IIR) == 0:
            return "extended features"
    guest.out(LCR, 0)
    mcr = guest.inp(MCR)
    guest.out(LCR, 0xE0)
    if (guest.inp(IIR) ^ mcr) & LOOP:
        return "National Super I/O"
    guest.out(LCR, 0)
    guest.out(MCR, mcr ^ LOOP)
    guest.out(LCR, 0xE0)
    bank = guest.inp(IIR)
    guest.out(LCR, 0)
    guest.out(MCR, mcr)
    if (bank ^ mcr) & LOOP:
        return "National Super I/O"
    guest.out(FCR, 1)
    before = guest.inp(IIR) >> 5
    guest.out(FCR, 0)
    guest.out(LCR, 0x80)
    guest.out(FCR, 0x21)
    after = guest.inp(IIR) >> 5
    guest.out(FCR, 1)
    guest.out(LCR, 0)
    if (before, after) == (6, 7):
        return "16750"
    guest.out(IER, 0x40)
    return "XScale" if guest.inp(IER) & 0x40 else "16550A"


def test_linux_detects_a_16550a(uart):
    assert autoconfig(uart) == "16550A"
    assert autoconfig(uart) == "16550A"  # ACPI registers the port a second time


def test_linux_startup_finds_no_transmitter_bugs(uart):
    uart.out(MCR, OUT2)
    for _ in range(2):  # UART_BUG_THRE: must interrupt again when enabled again
        uart.edges()
        uart.out(IER, THRI)
        assert uart.inp(IIR) == IS_THR
        assert uart.edges() == 1
        uart.out(IER, 0)
    uart.out(IER, THRI)  # UART_BUG_TXEN: the same, with the transmitter idle
    assert uart.inp(LSR) & EMPTY == EMPTY
    assert not uart.inp(IIR) & NONE


def test_reset_state(uart):
    assert [uart.inp(n) for n in range(1, 8)] == [0, NONE, 0, 0, EMPTY, 0xB0, 0]


def test_divisor_latch_and_scratch(uart):
    uart.out(SCR, 0x5A)
    uart.out(IER, RX)
    uart.out(LCR, 0x83)
    uart.out(THR, 0x0C)
    uart.out(IER, 0x34)
    assert (uart.inp(RBR), uart.inp(IER), uart.inp(LCR)) == (0x0C, 0x34, 0x83)
    uart.out(LCR, 0x03)
    assert (uart.inp(IER), uart.inp(SCR)) == (RX, 0x5A)
    assert uart.serial.tail() == b""


def test_reserved_bits_read_zero(uart):
    for register, mask in ((IER, 0x0F), (MCR, 0x1F)):
        uart.out(register, 0xFF)
        assert uart.inp(register) == mask


def test_wide_access_is_several_byte_accesses(uart):
    uart.out(LCR, 0x0B03, 2)  # LCR, then MCR
    assert uart.inp(LCR, 2) == 0x0B03
    assert uart.inp(SCR, 4) == 0xFFFFFF00  # nobody beyond the eighth port
    uart.out(SCR, 0x11223344, 4)
    assert uart.inp(SCR) == 0x44


# Interrupts.


def test_no_interrupt_without_enable(uart):
    uart.out(MCR, RTS)
    uart.serial.feed(b"x")
    uart.out(THR, 65)
    assert (uart.edges(), uart.inp(IIR)) == (0, NONE)


def test_transmitter_interrupts_once_it_is_empty(uart):
    uart.out(IER, THRI)
    assert (uart.edges(), uart.inp(IIR), uart.inp(IIR)) == (1, IS_THR, NONE)
    uart.out(THR, 65)
    assert (uart.edges(), uart.inp(IIR)) == (1, IS_THR)


def test_transmitter_interrupts_after_writing_to_a_pipe(port, pipe):
    guest = port(pipe[1])
    guest.out(IER, THRI)
    guest.inp(IIR)
    guest.edges()
    for _ in range(3):
        for _ in range(16):
            guest.out(THR, 65)
        guest.edge()
        assert guest.inp(IIR) == IS_THR


def test_handler_that_loops_over_iir_sends_everything_in_one_interrupt(port, pipe):
    guest = port(pipe[1])
    guest.out(IER, THRI)
    left = 100
    while not guest.inp(IIR) & NONE and left:
        for _ in range(min(16, left)):
            guest.out(THR, 65)
            left -= 1
    guest.out(IER, 0)
    assert guest.serial.drain()
    assert (left, guest.inp(IIR), os.read(pipe[0], 200)) == (0, NONE, b"A" * 100)


def test_receiver_trigger_level_and_timeout(uart):
    uart.out(FCR, 0x81)  # trigger at 8
    uart.out(MCR, RTS)
    uart.out(IER, RX)
    uart.serial.feed(b"1234567")
    assert (uart.edges(), uart.inp(IIR)) == (1, FIFOS | IS_TIMEOUT)
    uart.serial.feed(b"8")
    assert (uart.edges(), uart.inp(IIR)) == (0, FIFOS | IS_RX)
    assert uart.receive(8) == b"12345678"
    assert uart.inp(IIR) == FIFOS | NONE
    uart.serial.feed(b"9")
    assert uart.edges() == 1


def test_receiver_without_fifo(uart):
    uart.out(MCR, RTS)
    uart.out(IER, RX)
    uart.serial.feed(b"ab")
    assert (uart.edges(), uart.inp(IIR), uart.inp(RBR)) == (1, IS_RX, ord("a"))
    assert (uart.inp(LSR) & DR, uart.inp(RBR), uart.inp(LSR) & DR) == (DR, ord("b"), 0)


def test_priorities(uart):
    uart.out(MCR, LOOP | RTS)
    uart.out(THR, 1)
    uart.out(THR, 2)  # overrun: there is no FIFO
    uart.out(IER, 0x0F)
    assert uart.inp(IIR) == IS_LINE
    assert uart.inp(LSR) == EMPTY | OE | DR
    assert uart.inp(IIR) == IS_RX
    assert uart.inp(RBR) == 2  # the newer byte
    assert uart.inp(IIR) == IS_THR
    assert uart.inp(IIR) == IS_MODEM
    uart.inp(MSR)
    assert uart.inp(IIR) == NONE


def test_each_source_raises_an_edge(uart):
    uart.out(MCR, LOOP)
    uart.inp(MSR)
    uart.edges()
    uart.out(IER, RX | MSI)
    assert uart.edges() == 0
    uart.out(THR, 1)
    assert uart.edges() == 1
    uart.out(MCR, LOOP | DTR)
    assert uart.edges() == 1
    uart.out(IER, 0)
    uart.out(IER, RX)  # how a driver makes an edge of a condition that still holds
    assert uart.edges() == 1


# Loopback and FIFOs.


@pytest.mark.parametrize(("mcr", "msr"), [(RTS, 0x10), (DTR, 0x20), (OUT1, 0x40), (OUT2, 0x80)])
def test_loopback_modem_lines(uart, mcr, msr):
    uart.out(MCR, LOOP | mcr)
    assert uart.inp(MSR) & 0xF0 == msr
    uart.out(MCR, LOOP)
    assert uart.inp(MSR) == msr >> 4
    assert uart.inp(MSR) == 0


def test_ring_indicator_counts_its_trailing_edge_only(uart):
    uart.out(MCR, LOOP)
    uart.inp(MSR)
    uart.out(MCR, LOOP | OUT1)
    assert uart.inp(MSR) == 0x40


def test_loopback_overruns_the_fifo(uart):
    uart.out(FCR, 1)
    uart.out(MCR, LOOP)
    for byte in range(17):
        uart.out(THR, byte)
    assert uart.inp(LSR) & OE
    assert not uart.inp(LSR) & OE
    assert uart.receive(16) == bytes(range(16))  # the older bytes stay
    assert not uart.inp(LSR) & DR
    assert uart.serial.stats()["overruns"] == 1
    assert uart.serial.tail() == b""


@pytest.mark.parametrize("fcr", [3, 0])
def test_fifo_reset(uart, fcr):
    uart.out(FCR, 1)
    uart.out(MCR, LOOP)
    uart.out(THR, 1)
    uart.out(FCR, fcr)
    assert not uart.inp(LSR) & DR


# Input.


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


# Output.


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


def test_a_log_whose_reader_stands_still_is_given_up(port, pipe):
    ends = os.pipe()
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


# Errors.


def test_port_is_taken(port, uart):
    with pytest.raises(ConfigError, match="0x3f8: the ports are already taken"):
        Serial(uart.machine)


def test_descriptor_that_is_not_open(port):
    with pytest.raises(HostError, match="output_fd=999") as info:
        port(999)
    assert info.value.errno == errno.EBADF
    with pytest.raises(HostError, match="input_fd=999"):
        port(-1, 999)


# Anything at all.

pokes = st.lists(
    st.tuples(
        st.integers(0, 9),
        st.integers(0, 2**64 - 1),
        st.sampled_from([1, 2, 3, 4, 8]),
        st.booleans(),
    ),
    max_size=60,
)


@given(pokes, st.binary(max_size=40))
def test_any_access_is_survived(accesses, data):
    machine = Machine()
    try:
        guest = Guest(machine, Serial(machine))
        guest.serial.feed(data)
        for offset, value, length, is_write in accesses:
            if is_write:
                guest.out(offset, value, length)
            else:
                assert guest.inp(offset, length) < 1 << 8 * length
        guest.out(LCR, 0)
        guest.out(IER, 0)
        assert guest.inp(IIR) & 0x0F == NONE
    finally:
        machine.close()


@given(pokes)
def test_an_interrupt_reported_was_signalled(accesses):
    machine = Machine()
    try:
        guest = Guest(machine, Serial(machine))
        signalled = False
        for offset, value, length, is_write in accesses:
            if is_write:
                guest.out(offset, value, length)
            else:
                guest.inp(offset, length)
            signalled |= guest.edges() > 0
            # Nothing but IIR itself tells; reading it changes only the transmitter's source.
            if not guest.inp(IIR) & NONE:
                assert signalled
    finally:
        machine.close()


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
