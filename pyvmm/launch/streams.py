# SPDX-License-Identifier: Apache-2.0
"""A run's bytes: which device has the terminal and which the log, and what became of what they were
given.
"""

from __future__ import annotations

import errno
import os
import sys

from pyvmm.config import ConsoleConfig, SerialConfig
from pyvmm.launch import status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm.config import DeviceConfig
    from pyvmm.devices.serial import Serial
    from pyvmm.devices.virtio_console import VirtioConsole
    from pyvmm.launch.outputs import Outputs
    from pyvmm.launch.plan import Plan
    from pyvmm.machine.result import Result
    from pyvmm.vm import VM

IN, OUT, ERR = 0, 1, 2


class Streams:
    """The serial port and the virtio console of a run, connected.

    `quit_fd` is signalled by ctrl-a x (`tty` says that there are keys), and when standard output
    takes no more: the guest cannot know, and would write for nobody. A guest in the background goes
    on.
    """

    def __init__(self, plan: Plan, outputs: Outputs, *, tty: bool, quit_fd: int) -> None:
        self._outputs = outputs
        #: Once it has hung up, it is a terminal no more.
        self._on_terminal = os.isatty(OUT)
        self._on_serial = plan.console == "serial"
        self._verbose = plan.args.verbose
        self._copies_log = self._on_serial or self._verbose
        self._keys = {
            "escape": tty,
            "quit_fd": quit_fd,
            "failed_fd": quit_fd if outputs.stands_for_log is None else -1,
        }
        self._serial: Serial | None = None
        self._console: VirtioConsole | None = None

    def add(self, vm: VM, device: DeviceConfig) -> None:
        """Add the device to the VM; a serial port and a console are connected."""
        if isinstance(device, SerialConfig):
            self._serial = vm.add(device, log_fd=self._outputs.log_fd, **self._of_serial())
        elif isinstance(device, ConsoleConfig):
            # A terminal that is not set up yet would take bytes of the input for control keys.
            gate_fd = vm.machine.board.ready_fd() if device.framed else -1
            self._console = vm.add(
                device, input_fd=IN, output_fd=OUT, gate_fd=gate_fd, **self._keys
            )
        else:
            vm.add(device)

    def _of_serial(self) -> dict[str, Any]:
        if self._on_serial:
            return {"output_fd": OUT, "input_fd": IN, **self._keys}
        return {"output_fd": ERR if self._verbose else -1}

    def output_error(self) -> int:
        """Return the errno with which standard output ended, or 0."""
        if self._on_serial:
            return self._serial_stats()["output_error"]
        return self._console.output_error() if self._console is not None else 0

    def log_error(self) -> int:
        """Return the same of the log."""
        stats = self._serial_stats()
        if self._outputs.log is None:
            return 0
        return stats["log_error" if self._copies_log else "output_error"]

    def _serial_stats(self) -> dict[str, int]:
        assert self._serial is not None
        return self._serial.stats()

    def _gone(self, error: int) -> int:
        """Return the status for that nobody is there any more to read the output, or 0."""
        if error == errno.EPIPE:
            return status.BROKEN_PIPE
        # A write to a terminal fails so once it has hung up, before SIGHUP comes.
        return status.HUNG_UP if error == errno.EIO and self._on_terminal else 0

    def see(self, result: Result, code: int) -> int:
        """Say on stderr what could not be written; return the status that is left of `code` by
        that.

        A reader that has gone is no fault: the status is a pipe's, or that of a hang-up. A failure
        of the guest's own stays.
        """
        error, log_error = self.output_error(), self.log_error()
        if error:
            reason = f"standard output: {os.strerror(error)}"
            stopped = result.reason == "stopped"
            if stopped:
                result.detail = result.detail or reason
            gone = self._gone(error)
            if stopped or not code:
                code = gone or status.HOST
            if not gone:
                print(f"pyvmm: {reason}; what the guest wrote is lost", file=sys.stderr)
        if log_error and self._outputs.log is not None:
            refusal = self._outputs.log.refusal(os.strerror(log_error))
            print(f"pyvmm: {refusal}; the rest of it is lost", file=sys.stderr)
            code = code or status.HOST
        return code
