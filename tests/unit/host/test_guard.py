# SPDX-License-Identifier: Apache-2.0
"""Memory that is gone when it is used: a file that somebody cut off, or whose file system is full, is an error."""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyvmm._core import ffi, lib
from pyvmm.devices.virtio_blk import VirtioBlk
from pyvmm.devices.virtio_console import VirtioConsole
from pyvmm.devices.virtio_rng import VirtioRng
from pyvmm.errors import ConfigError, GuestMemoryError
from pyvmm.machine.memory import PAGE, GuestMemory
from pyvmm.swap.store import SwapStore
from tests.support.virtio_driver import MIB, WRITE, Descriptor, Driver, FakeMachine, Queue

WINDOW = 1 << 32
SIZE = 2 * MIB
HEADER, STATUS_BYTE, DATA = 0x20000, 0x20100, 0x30000
GONE = WINDOW + MIB


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[FakeMachine]:
    """With a swap file, of which somebody has left the first MiB."""
    store = SwapStore(SIZE, tmp_path / "swap")
    machine = FakeMachine()
    machine.memory.add_window(WINDOW, SIZE, store.mapped)
    os.truncate(tmp_path / "swap", MIB)
    yield machine
    machine.close()
    store.close()


@pytest.fixture
def disk_fd() -> Iterator[int]:
    fd = os.memfd_create("disk")
    os.ftruncate(fd, MIB)
    yield fd
    os.close(fd)


def disk(machine: FakeMachine, over: Any) -> Queue:
    driver = Driver(machine, VirtioBlk(machine, over, serial="abc"))  # type: ignore[arg-type]
    (queue,) = driver.start()
    return queue


def submit(queue: Queue, *buffers: Descriptor) -> list[tuple[int, int]]:
    queue.memory.write(STATUS_BYTE, b"\xff")
    queue.chain(0, list(buffers))
    queue.offer(0)
    queue.kick()
    return queue.wait()


READ, WRITE_OUT, GET_ID, DISCARD = 0, 1, 8, 11
STATUS = Descriptor(STATUS_BYTE, 1, WRITE)


@pytest.mark.parametrize("over", ["file", "memory"])
@pytest.mark.parametrize("kind", [READ, WRITE_OUT, GET_ID, DISCARD])
def test_a_disk_answers_an_error(machine: FakeMachine, disk_fd: int, kind: int, over: str) -> None:
    memory = mmap.mmap(-1, MIB, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    queue = disk(machine, disk_fd if over == "file" else memoryview(memory))
    machine.memory.write(HEADER, struct.pack("<IIQ", kind, 0, 0))
    length = 16 if kind == DISCARD else 512
    data = Descriptor(GONE, length, WRITE if kind in (READ, GET_ID) else 0)
    submit(queue, Descriptor(HEADER, 16), data, STATUS)
    assert machine.memory.read(STATUS_BYTE, 1) == b"\1"
    # It goes on: the same with memory that is there.
    data = data._replace(addr=DATA)
    machine.memory.write(DATA, struct.pack("<QII", 0, 8, 0))
    submit(queue, Descriptor(HEADER, 16), data, STATUS)
    assert machine.memory.read(STATUS_BYTE, 1) == b"\0"
    assert queue.driver.device.stats()["errors"] == 1


def test_a_header_or_a_status_that_is_gone(machine: FakeMachine, disk_fd: int) -> None:
    queue = disk(machine, disk_fd)
    machine.memory.write(HEADER, struct.pack("<IIQ", READ, 0, 0))
    submit(queue, Descriptor(GONE, 16), Descriptor(DATA, 512, WRITE), STATUS)
    assert machine.memory.read(STATUS_BYTE, 1) == b"\1"
    gone = Descriptor(GONE, 1, WRITE)
    assert submit(queue, Descriptor(HEADER, 16), Descriptor(DATA, 512, WRITE), gone) == [(0, 0)]
    assert submit(queue, Descriptor(HEADER, 16), Descriptor(DATA, 512, WRITE), STATUS) == [(0, 513)]
    assert not queue.driver.device.needs_reset


def test_other_devices(machine: FakeMachine) -> None:
    (random,) = Driver(machine, VirtioRng(machine)).start()  # type: ignore[arg-type]
    random.write_desc(0, Descriptor(GONE, 64, WRITE))
    random.offer(0)
    random.kick()
    assert random.wait() == [(0, 0)]

    into, out = os.pipe()
    console = VirtioConsole(machine, None, out)  # type: ignore[arg-type]
    _, output = Driver(machine, console).start(at=0x8000)
    machine.memory.write(DATA, b"still there")
    for head, at in enumerate((GONE, DATA)):
        output.write_desc(head, Descriptor(at, 11))
    output.offer(0, 1)
    output.kick()
    assert output.wait(2) == [(0, 0), (1, 0)]
    assert os.read(into, 100) == b"still there"
    assert console.stats()["errors"] == 1
    for fd in (into, out):
        os.close(fd)


def test_rings_lie_in_ram(machine: FakeMachine, disk_fd: int) -> None:
    """They are used without a guard."""
    driver = Driver(machine, VirtioBlk(machine, disk_fd))  # type: ignore[arg-type]
    assert driver.negotiate(driver.offered())
    assert not driver.configure(0, 16, WINDOW, 0x2000, 0x3000)
    assert driver.device.violations == {"bad ring address": 1}


def test_readers_in_python(machine: FakeMachine) -> None:
    memory = machine.memory
    memory.write(WINDOW, b"there")
    assert memory.read(WINDOW, 5) == b"there"
    for use in (lambda: memory.read(GONE, 8), lambda: memory.write(GONE, b"x")):
        with pytest.raises(
            GuestMemoryError, match=r"swap file /.*/swap was cut off: it has 1048576"
        ):
            use()
    with pytest.raises(GuestMemoryError, match=r"use read\(\) and write\(\)"):
        memory.view(WINDOW, 8)


def test_a_file_that_is_too_short() -> None:
    fd = os.memfd_create("short")
    os.ftruncate(fd, PAGE)
    memory = GuestMemory(MIB)
    with pytest.raises(ConfigError, match=f"descriptor {fd} is shorter"):
        memory.add_window(WINDOW, SIZE, fd)
    memory.close()
    os.close(fd)


def test_nobody_cuts_shared_ram_off() -> None:
    memory = GuestMemory(MIB, shared=True)
    for size in (0, 2 * MIB):
        with pytest.raises(PermissionError):
            os.ftruncate(memory.fd, size)
    with pytest.raises(PermissionError):
        fcntl.fcntl(memory.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    memory.close()


def test_other_bus_errors_are_not_ours() -> None:
    """One that nobody guards against, or that was sent, ends the process as it did."""
    setup = "from pyvmm._core import lib; import os, mmap, signal; assert lib.guard_setup() == 0;"
    fault = (
        "fd = os.memfd_create('x'); os.ftruncate(fd, 4096); m = mmap.mmap(fd, 4096);"
        "os.ftruncate(fd, 0); print(m[0])"
    )
    for end in (fault, "os.kill(os.getpid(), signal.SIGBUS)"):
        done = subprocess.run([sys.executable, "-c", setup + end], check=False)
        assert done.returncode == -7
    own = "seen = []; signal.signal(signal.SIGBUS, lambda *a: seen.append(1));"
    sent = "os.kill(os.getpid(), signal.SIGBUS); assert seen == [1]"
    subprocess.run([sys.executable, "-c", own.join(("import signal;", setup)) + sent], check=True)


def test_copies_are_as_memmove() -> None:
    text = bytearray(range(256))
    place: Any = ffi.from_buffer("uint8_t[]", text)
    assert lib.guard_copy(place + 1, place, 255)
    assert text == bytes([0, *range(255)])
    assert lib.guard_copy(ffi.NULL, ffi.NULL, 0)
