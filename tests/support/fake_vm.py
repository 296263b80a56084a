# SPDX-License-Identifier: Apache-2.0
"""A VM that is none, for the control socket to serve, and a client that says what it likes."""

from __future__ import annotations

import ctypes
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from pyvmm.control.runtime_dir import RuntimeDir
from pyvmm.control.server import Server
from pyvmm.errors import ConfigError, StateError, SymcallError
from pyvmm.machine.symcall import Results
from pyvmm.swap.disk import GuestSwap, HostMemory, SwapStats
from pyvmm.symbiotic.task import Task

SECONDS = 30.0


def task(pid: int, comm: str, **changed: Any) -> Task:
    """A task that has used nothing."""
    made = Task(pid, pid, 1, 0, "S", comm, 0, 1, False, False, False, 0, 0, 0, 0, 0, 0)
    return made._replace(**changed)


class FakeMemory:
    """Two regions of this process."""

    def __init__(self) -> None:
        self.buffer = ctypes.create_string_buffer(b"guest memory".ljust(8192, b"."), 8192)
        self.size = 8192

    def slots(self) -> list[tuple[int, int, int]]:
        address = ctypes.addressof(self.buffer)
        return [(0, 4096, address), (1 << 32, 4096, address + 4096)]


GUEST_SWAP = GuestSwap(
    *(True, True, False, False, 1024, 600, 100, 500, 300, 250, 20, 30, 25),
    *((7, 0, 3, 20, 0, 0, 2, 0),),
    *(5, 200, 9, 1, 700, 40, 0),
    *(0, 0, 0, 0, 0, 0),
)


class FakeSwap:
    """What is asked of a swap disk; `evicted` has the calls."""

    size = 4 << 20
    serial = "swap-disk"
    backing: str | None = None
    bytes_used = 2 << 20

    def __init__(self) -> None:
        self._mode = "symcall"
        self.policy: Any = "pressure"
        self.quota: int | None = None
        self.effective = "off"
        self.guest: GuestSwap | None = GUEST_SWAP
        self.offered = 400
        self.evicted: list[int | None] = []

    @property
    def mode(self) -> str:
        return self._mode

    @mode.setter
    def mode(self, mode: str) -> None:
        if mode not in ("off", "symcall", "direct"):
            raise ConfigError(f"swap bypass {mode!r}: choose from off, symcall, direct")
        self._mode = mode

    @property
    def stats(self) -> SwapStats:
        refused = {"mode": 0, "slot": 3, "policy": 20, "lookup": 0, "pte": 0, "race": 2}
        host = HostMemory(12.5, 8 << 30, 1 << 30, None, None)
        return SwapStats(
            *(self.size, 1024, self.mode, self.effective, False, host, self.bytes_used),
            *(160 << 10, 3 << 20, True, False, 0, self.offered, 375, refused, 1),
            *(0, 0, 0, self.guest),
        )

    def look(self, question: Any) -> SwapStats:
        return self.stats

    def evict(self, pages: int | None, question: Any = None) -> int:
        if self.guest is None:
            raise SymcallError("symcall 0x106: No such device", "error", 19)
        self.evicted.append(pages)
        return self.guest.adopted


class FakeVM:
    """What a server uses of a VM. `answers` has what a symcall gives, by its number or name."""

    def __init__(self) -> None:
        self.kernel: str | None = "vmlinux"
        self.memory = FakeMemory()
        self.machine = self
        self.swap: FakeSwap | None = None
        self.vcpus: list[Any] = [
            SimpleNamespace(thread=SimpleNamespace(native_id=threading.get_native_id())),
            SimpleNamespace(thread=None),
        ]
        self.state = "running"
        self.symcalls = {"calls": 3}
        self.listens = True
        self.made: list[tuple[Any, ...]] = []
        self.questions: list[Any] = []
        self.hung = threading.Event()
        self.answers: dict[int | str, Callable[..., Any]] = {
            1: lambda cpu, *args, **options: Results(
                *(arg + 1 for arg in (*args, *(0,) * (5 - len(args)))), options["data"][::-1]
            ),
            2: self.hang,
            "tasks": lambda cpu, threads: iter([task(1, "init"), task(7, "sh", ppid=1)]),
        }

    def hang(self, cpu: int, *args: int, **options: Any) -> Any:
        """A vCPU that does not answer until it does."""
        assert self.hung.wait(SECONDS)
        return Results(0, 0, 0, 0, 0, b"")

    def exits(self) -> dict[str, int]:
        return {"io": 5}

    def pause(self, question: Any = None) -> None:
        self.state = "paused"

    def resume(self) -> None:
        if self.state != "paused":
            raise StateError(f"the machine is {self.state}, not paused")
        self.state = "running"

    def stop(self) -> None:
        self.state = "ended"

    def power_button(self) -> bool:
        return self.listens

    def symcall(self, cpu: int, call: int | str, *args: Any, **options: Any) -> Any:
        self.questions.append(options.pop("question"))
        self.made.append((cpu, call, *args))
        if call not in self.answers:
            raise SymcallError(f"symcall {call}: the guest answered", "error", 38)
        return self.answers[call](cpu, *args, **options)


@contextmanager
def served(vm: FakeVM | None = None, name: str = "web") -> Iterator[Server]:
    """A server, ended afterwards."""
    server = Server(vm or FakeVM(), name)
    try:
        yield server
    finally:
        server.close()
        server.join()


class Raw:
    """A client that sends any bytes."""

    def __init__(self, name: str = "web") -> None:
        with RuntimeDir() as directory:
            connection = directory.connect(name, SECONDS)
        assert connection is not None, f"nobody listens at {name}"
        self.socket: socket.socket = connection
        self._buffer = b""

    def send(self, data: bytes) -> Raw:
        self.socket.sendall(data)
        return self

    def line(self) -> dict[str, Any]:
        """The next answer; EOFError at the end."""
        while b"\n" not in self._buffer:
            data = self.socket.recv(65536)
            if not data:
                raise EOFError
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)  # type: ignore[no-any-return]

    def ask(self, **request: Any) -> dict[str, Any]:
        self.send(json.dumps(request).encode() + b"\n")
        return self.line()

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *exc: object) -> None:
        self.socket.close()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))
