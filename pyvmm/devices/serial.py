# SPDX-License-Identifier: Apache-2.0
"""The serial port COM1, a 16550A; its registers and its thread are in csrc/serial/serial.c."""

from __future__ import annotations

import errno
import os

from pyvmm._core import ffi, lib
from pyvmm.config import COM1, COM1_LINE, SerialConfig
from pyvmm.devices.descriptors import Descriptors, check_open
from pyvmm.devices.virtio import STOP_SECONDS, stopped
from pyvmm.errors import ConfigError
from pyvmm.machine.device import Device, drain
from pyvmm.machine.handle import Handle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm.machine.machine import Machine

#: How long `Serial.close` waits for a reader that does not read, in seconds.
CLOSE_SECONDS = 1.0
#: Errors call the device by this name.
NAME = "serial port"


class Serial(Device):
    """A 16550A UART (National PC16550D data sheet) at `port` with interrupt line `gsi`.

    What the guest sends goes to `output_fd`, and its last 64 KiB are kept for `tail`; what is read
    from `input_fd` goes to the guest. All descriptors stay the caller's and may be closed once
    this returns; -1 is none. With `escape`, ctrl-a x in the input signals the eventfd `quit_fd`,
    ctrl-a h prints help. An output that takes no more signals the eventfd `failed_fd`. `log_fd`
    gets the same bytes as the output; a pipe or a socket there that takes none for a second is given
    up.

    The line has no speed: a byte takes no time, whatever the divisor says. Nothing is lost to a
    slow reader: the transmitter reports full until there is room.

    Raises ConfigError when the ports are taken, HostError for a descriptor that is not open.
    """

    kind = "serial"

    def __init__(
        self,
        machine: Machine,
        output_fd: int = -1,
        input_fd: int = -1,
        *,
        escape: bool = False,
        quit_fd: int = -1,
        failed_fd: int = -1,
        log_fd: int = -1,
        port: int = COM1,
        gsi: int = COM1_LINE,
    ) -> None:
        if output_fd < 0:
            output_fd, log_fd = log_fd, -1
        super().__init__(machine)
        self._port = port
        self._gsi = gsi
        self._own = Descriptors(NAME)
        config = ffi.new("struct serial_config *")
        config.irq_fd = machine.board.irqfd(gsi)
        config.output_fd, config.input_fd = output_fd, input_fd
        config.escape, config.log_fd = escape, log_fd
        try:
            config.quit_fd = self._own.own("quit_fd", max(quit_fd, -1))
            config.failed_fd = self._own.own("failed_fd", max(failed_fd, -1))
            for name in ("output_fd", "input_fd", "log_fd"):
                check_open(NAME, name, max(getattr(config, name), -1))
            self._handle = Handle(lib.serial_create(config), lib.serial_destroy, "the serial port")
            self._take_ports()
        except BaseException:
            self._own.close()
            raise
        machine.add_device(self)

    def _take_ports(self) -> None:
        handler = ffi.addressof(lib, "serial_access")
        pio = self._machine.board.pio
        error = lib.bus_add(pio, self._port, lib.SERIAL_PORTS, handler, self._c)
        if error:
            self._handle.release()
            reason = "already taken" if error == -errno.EEXIST else os.strerror(-error)
            raise ConfigError(f"serial port at {self._port:#x}: the ports are {reason}")

    def tail(self, length: int = 65536) -> bytes:
        """Return the last `length` bytes that the guest sent, at most 64 KiB."""
        buffer = ffi.new("uint8_t[]", max(0, min(length, lib.SERIAL_RING)))
        with self._handle as serial:
            count = lib.serial_tail(serial, buffer, len(buffer))
        return bytes(ffi.buffer(buffer, count))

    def feed(self, data: bytes | bytearray | memoryview) -> int:
        """Give the guest input, as if typed, escape keys excluded.

        Return how many bytes were taken.

        Up to 64 KiB wait for the guest to read them.
        """
        with self._handle as serial:
            return int(lib.serial_feed(serial, ffi.from_buffer("uint8_t[]", data), len(data)))

    def drain(self, timeout: float = 10.0) -> bool:
        """Wait as `Device.drain` does, until everything sent so far has been written."""
        return drain(self._handle, lib.serial_drain, timeout)

    @property
    def config(self) -> SerialConfig:
        """The record from which a port like this one can be made."""
        return SerialConfig(self._port, self._gsi)

    def stats(self) -> dict[str, int]:
        """Return the counters as they are now; all in bytes but the first two.

        `accesses` register accesses by the guest, `interrupts` edges raised, `sent` by the guest,
        `written` to the output (all of it where there is none), `dropped` because the output was
        closed or stood still, `received` by the guest, `waiting` input it has not read yet,
        `refused` typed while it read nothing, `overruns` lost in loopback mode. `output_error` and
        `log_error` are the errno with which the output and the log ended, 0 while they take bytes.
        """
        stats = ffi.new("struct serial_stats *")
        with self._handle as serial:
            lib.serial_get_stats(serial, stats)
        return {name: int(getattr(stats, name)) for name, _ in _FIELDS}

    def close(self) -> None:
        """Close it as `Device.close` does, once what is left is written, for at most a second."""
        super().close()
        if not self._handle.released:
            self.drain(CLOSE_SECONDS)
            lib.bus_remove(self._machine.board.pio, self._port)
            with self._handle as serial:
                stopped(lib.serial_stop(serial, STOP_SECONDS * 1000), NAME)
        self._handle.release()
        self._own.close()

    @property
    def _c(self) -> Any:
        return self._handle.pointer


_FIELDS = ffi.typeof("struct serial_stats").fields
