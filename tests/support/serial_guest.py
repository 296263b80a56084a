# SPDX-License-Identifier: Apache-2.0
"""A serial port as the guest sees it, and the checks by which Linux's 8250 driver probes one."""

from __future__ import annotations

import os
import select
import time

from pyvmm._core import ffi, lib
from pyvmm.devices.serial import Serial

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
        """Polls for input, until none has come for 30 seconds."""
        data = bytearray()
        deadline = time.monotonic() + 30
        while len(data) < count and time.monotonic() < deadline:
            if self.inp(LSR) & DR:
                data.append(self.inp(RBR))
                deadline = time.monotonic() + 30
        return bytes(data)

    def send(self, data: bytes) -> None:
        """Polls for THRE, then writes a FIFO's worth, as Linux's console does."""
        for at in range(0, len(data), 16):
            while not self.inp(LSR) & 0x20:
                time.sleep(0.001)
            for byte in data[at : at + 16]:
                self.out(THR, byte)


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
