# SPDX-License-Identifier: Apache-2.0
"""The virtio console (virtio 1.2, section 5.3): one port on two descriptors of the host."""

from __future__ import annotations

import os

from pyvmm._core import ffi, lib
from pyvmm.config import ConsoleConfig
from pyvmm.devices.descriptors import Descriptors, check_open
from pyvmm.devices.virtio import VirtioDevice
from pyvmm.errors import ConfigError
from pyvmm.machine.device import check_stands, drain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.machine.machine import Machine

#: How long `VirtioConsole.close` waits for a reader that does not read, in seconds.
CLOSE_SECONDS = 1.0
#: Errors call the device by this name.
NAME = "console"


class VirtioConsole(VirtioDevice):
    """A console, hvc0 in Linux.

    Input is read from `input_fd`, output written to `output_fd`; None or -1 is none.

    All descriptors stay the caller's and may be closed once this returns: terminals, pipes, sockets,
    files. Output that its reader does not take makes the guest wait; nothing is dropped
    until the output is closed at the other end, which signals the eventfd `failed_fd`. With
    `escape`, ctrl-a x in the input signals the eventfd `quit_fd`, ctrl-a h prints help. With
    `framed` the input is framed (csrc/host/framing.h), so that a guest that knows it sees the end
    of the input. No input is read until the eventfd `gate_fd` is signalled, if there is one.

    `size` is (columns, rows); by default that of the terminal at `output_fd`, or (0, 0) for
    unknown.

    Raises HostError for a descriptor that is not open.
    """

    kind = "virtio-console"

    def __init__(
        self,
        machine: Machine,
        input_fd: int | None = None,
        output_fd: int | None = None,
        *,
        escape: bool = False,
        quit_fd: int = -1,
        failed_fd: int = -1,
        framed: bool = False,
        gate_fd: int = -1,
        size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(machine)
        self._own = Descriptors(NAME)
        plug = ffi.new("struct virtio_console_plug *")
        plug.escape, plug.framed = escape, framed
        self._framed = framed
        try:
            plug.input_fd = check_open(NAME, "input_fd", input_fd)
            plug.output_fd = check_open(NAME, "output_fd", output_fd)
            plug.quit_fd = self._own.own("quit_fd", quit_fd)
            plug.failed_fd = self._own.own("failed_fd", failed_fd)
            plug.gate_fd = self._own.own("gate_fd", gate_fd)
            columns, rows = size or _terminal_size(plug.output_fd)
            _check_size(columns, rows)
            self._attach(lambda wiring: lib.virtio_console_create(wiring, plug))
        except BaseException:
            self.close()
            raise
        self.set_size(columns, rows)

    def set_size(self, columns: int, rows: int) -> None:
        """Tell the guest the size of the terminal, in characters (virtio 1.2, 5.3.4: `cols`, `rows`).

        Raise ConfigError outside 0 to 65535.
        """
        _check_size(columns, rows)
        with self.handle as device:
            lib.virtio_console_set_size(device, columns, rows)
        self._size = columns, rows

    @property
    def config(self) -> ConsoleConfig:
        """The record from which a console like this one can be made."""
        return ConsoleConfig(self._framed, self._size)

    def output_error(self) -> int:
        """Return the errno with which the output ended, 0 while it takes bytes."""
        with self.handle as device:
            return int(lib.virtio_console_output_error(device))

    def drain(self, timeout: float = 10.0) -> bool:
        """Write out what the guest has queued, within `timeout` seconds and at most 16 MiB.

        Return False if there is more, or the output does not take it in that time.
        """
        return drain(self.handle, lib.virtio_console_drain, timeout)

    def close(self) -> None:
        """Close it as `VirtioDevice.close` does, once what is left is written, for at most a
        second.
        """
        check_stands(self._machine)
        if self._device is not None and not self._device.released:
            self.drain(CLOSE_SECONDS)
        super().close()
        self._own.close()


def _terminal_size(fd: int) -> tuple[int, int]:
    if fd < 0:
        return 0, 0
    try:
        columns, rows = os.get_terminal_size(fd)
    except OSError:
        return 0, 0
    return columns, rows


def _check_size(columns: int, rows: int) -> None:
    if not (0 <= columns <= 0xFFFF and 0 <= rows <= 0xFFFF):
        raise ConfigError(f"terminal of {columns} columns and {rows} rows: both are 0 to 65535")
