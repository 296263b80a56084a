# SPDX-License-Identifier: Apache-2.0
"""The serial port, register by register, as Linux's 8250 driver and less careful guests use it."""

from __future__ import annotations

import errno
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.devices.serial import Serial
from pyvmm.errors import ConfigError, HostError
from tests.support.serial_guest import (
    DR,
    DTR,
    EMPTY,
    FCR,
    FIFOS,
    IER,
    IIR,
    IS_LINE,
    IS_MODEM,
    IS_RX,
    IS_THR,
    IS_TIMEOUT,
    LCR,
    LOOP,
    LSR,
    MCR,
    MSI,
    MSR,
    NONE,
    OE,
    OUT1,
    OUT2,
    RBR,
    RTS,
    RX,
    SCR,
    THR,
    THRI,
    Guest,
    Machine,
    autoconfig,
)


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
