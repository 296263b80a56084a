# SPDX-License-Identifier: Apache-2.0
"""Linux guests for tests: run by the command line, or by the VM class in this process."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from pyvmm.guest.named import BASE_CMDLINE, find_guest
from pyvmm.guest.overlay import overlay
from pyvmm.guest.program import compiled
from pyvmm.vm import VM
from tests.support.stream import PYVMM, SECONDS, Stream

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyvmm.machine.result import Result

PROGRAMS = Path(__file__).with_name("programs")
#: All that the kernel says; but a CPU that is emulated, and shared, may take longer than the 21 s that RCU gives it.
PATIENT = "loglevel=7 rcupdate.rcu_cpu_stall_timeout=120"


class Outcome(NamedTuple):
    """A run of pyvmm that is over; `record` is what --json gave, or empty."""

    status: int
    stdout: str
    stderr: str
    record: dict[str, Any]

    def __str__(self) -> str:
        return f"status {self.status}\n--- stdout\n{self.stdout}\n--- stderr\n{self.stderr}"


def pyvmm(*arguments: str, stdin: bytes | None = None, seconds: float = SECONDS) -> Outcome:
    """Runs the command line to its end. Without `stdin` its input is empty."""
    done = subprocess.run(
        [*PYVMM, *arguments],
        input=stdin if stdin is not None else b"",
        capture_output=True,
        timeout=seconds,
        check=False,
    )
    out, err = (text.decode("utf-8", "replace") for text in (done.stdout, done.stderr))
    return Outcome(done.returncode, out, err, {})


def run(folder: Path, script: str, *options: str, stdin: bytes | None = None) -> Outcome:
    """`pyvmm run OPTIONS -- sh -c SCRIPT`, with the record of --json."""
    where = folder / "record.json"
    where.unlink(missing_ok=True)
    done = pyvmm("run", "--json", str(where), *options, "--", "sh", "-c", script, stdin=stdin)
    return with_record(done, where)


class Run(Protocol):
    """`run` with the folder given."""

    def __call__(self, script: str, *options: str, stdin: bytes | None = None) -> Outcome: ...


def with_record(done: Outcome, where: Path) -> Outcome:
    """The same with what --json wrote there, if it did."""
    text = where.read_text() if where.exists() else ""
    return done._replace(record=json.loads(text)) if text else done


def program(name: str) -> Path:
    """A static program for guests, from programs/NAME.c: out of the guests' cache."""
    return compiled(name, [PROGRAMS / f"{name}.c"])


class Guest(Stream):
    """A guest in this process that runs a shell script on a virtio console.

    `vm` is the machine, built and not started: add hooks and devices, then `start`. What the script prints is
    awaited with `expect`; `say` writes to its input. Further options are those of `VM`.
    """

    def __init__(
        self,
        script: str,
        *,
        linux: str = "6.12",
        memory: str = "256M",
        cpus: int = 1,
        params: str = "quiet",
        files: Mapping[str, bytes | str | os.PathLike[str]] | None = None,
        **options: Any,
    ) -> None:
        image = find_guest(linux)
        output, self._output = os.pipe()
        self._input, self._keys = os.pipe()
        super().__init__(output)
        self.vm = VM(
            memory,
            cpus,
            kernel=image.vmlinux or image.kernel,
            initrd=[image.initramfs, overlay(["sh", "-c", script], files=files)],
            cmdline=f"{BASE_CMDLINE} console=ttyS0 pyvmm.console=hvc0 pyvmm.raw=1 {params}",
            **options,
        )
        self.console = self.vm.add_console(self._input, self._output)

    def start(self) -> Guest:
        """Starts the guest."""
        self.vm.start()
        return self

    def expect(self, text: str, seconds: float = SECONDS) -> str:
        """As any stream's; what became of the machine stands in the failure."""
        try:
            return super().expect(text, seconds)
        except AssertionError as error:
            result = self.vm.wait(0)
            how = f"ended by {result.reason}" if result else self.vm.state
            log = self.vm.console_log()[-2000:].decode("utf-8", "replace")
            raise AssertionError(f"{error}\n--- the machine: {how}\n{log}") from None

    def say(self, text: str) -> None:
        """A line for the script's input."""
        os.write(self._keys, text.encode() + b"\n")

    def finish(self, seconds: float = SECONDS) -> Result:
        """How the guest ended, with all of its output read."""
        deadline = time.monotonic() + seconds
        while (result := self.vm.wait(0.05)) is None:
            self.pump(0.1)
            assert time.monotonic() < deadline, f"the guest did not end:\n{self.text}"
        self.console.drain()
        while self.pump(0):
            pass
        return result

    def __enter__(self) -> Guest:
        return self

    def __exit__(self, *exc: object) -> None:
        self.vm.close()
        for fd in (self.fd, self._output, self._input, self._keys):
            os.close(fd)
