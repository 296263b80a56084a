# SPDX-License-Identifier: Apache-2.0
"""The cost of guests that do nothing: start of one and of several at once, memory beyond theirs,
CPU, against QEMU.
"""

from __future__ import annotations

import argparse
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import psutil

from bench.peers import vmm
from bench.report.aims import Aim
from bench.suite import Subjects, Suite
from pyvmm.guest.named import find_guest

OURS, DETACHED, QEMU, KVMTOOL = "pyvmm", "pyvmm --detach", "QEMU microvm", "kvmtool"
MEMORY_MIB = 128
#: The name of each of kvmtool's guests, with a number.
NAME = f"bench{os.getpid()}"
#: Seconds before CPU time and memory are looked at, and how long CPU time is.
SETTLE, IDLE = 3.0, 10.0
#: Mappings of so many KiB that can be written are the guest's memory.
GUESTS_OWN = 64 << 10
MIB_OF_KIB = 1 / 1024
NOTES = f"""\
Guests of {MEMORY_MIB} MiB and one vCPU, which sleep: Linux, with --bare a few instructions. Start: from the launch of
all to the first word of the last one's guest. Memory: proportional set size (PSS) of a process without its guest's
memory, the mean of all that run; with --detach the fork server's is divided among them, its start is part of theirs.
CPU: of a process, with its vCPU, over {IDLE:.0f} s, the mean of all. What the host's kernel does does not count."""


def start(count: int) -> str:
    return f"start of {count}, s"


def memory(count: int) -> str:
    return f"memory of each of {count}, MiB"


def idle(count: int) -> str:
    return f"CPU of each of {count}, idle, %"


def beyond_the_guests(pid: int) -> float:
    """Return MiB of a process's memory, shared pages by their share (proc_pid_smaps(5)), without
    its guest's.
    """
    total, wanted = 0, True
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        first, _, rest = line.partition(" ")
        if "-" in first and not first.endswith(":"):
            low, high = (int(part, 16) for part in first.split("-"))
            wanted = not (rest[1] == "w" and (high - low) >> 10 >= GUESTS_OWN)
        elif first == "Pss:" and wanted:
            total += int(rest.split()[0])
    return total * MIB_OF_KIB


def cpu_seconds(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


class Running(NamedTuple):
    """A VMM, and what its guest says."""

    pid: int
    stream: int


@contextmanager
def attached(commands: Sequence[Sequence[str]]) -> Iterator[list[Running]]:
    """Yield all of them as our children, until the end of the block."""
    made: list[subprocess.Popen[bytes]] = []
    pipe, devnull = subprocess.PIPE, subprocess.DEVNULL
    try:
        for command in commands:
            made.append(
                subprocess.Popen(command, stdin=devnull, stdout=pipe, stderr=subprocess.STDOUT)
            )
        yield [Running(process.pid, process.stdout.fileno()) for process in made if process.stdout]
    finally:
        for process in made:
            process.kill()
        for process in made:
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


@contextmanager
def detached(commands: Sequence[Sequence[str]]) -> Iterator[list[Running]]:
    """Yield all of them by `pyvmm run --detach`, with a fork server of their own, until the end of
    the block.
    """
    streams: list[int] = []
    processes: list[psutil.Process] = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            clients = []
            for number, command in enumerate(commands):
                log = f"{folder}/log-{number}"
                os.mkfifo(log)
                streams.append(os.open(log, os.O_RDONLY | os.O_NONBLOCK))
                clients.append(detach(with_options(command, "--detach", "--log", log), folder))
            for client in clients:
                name = client.communicate()[0]
                processes.append(psutil.Process(int(name.removeprefix(b"vm-"))))
            pids = [process.pid for process in processes]
            processes += map(psutil.Process, servers(pids))
            yield [Running(*pair) for pair in zip(pids, streams, strict=True)]
        finally:
            for process in processes:
                process.kill()
            psutil.wait_procs(processes, 60)
            for stream in streams:
                os.close(stream)


def detach(command: Sequence[str], runtime_dir: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, env=os.environ | {"XDG_RUNTIME_DIR": runtime_dir}
    )


def with_options(command: Sequence[str], *options: str) -> list[str]:
    """Return a `pyvmm run` with more options."""
    at = command.index("run") + 1
    return [*command[:at], *options, *command[at:]]


def servers(pids: Sequence[int]) -> set[int]:
    """Return the processes that these share their memory with and that are there for them alone."""
    return {psutil.Process(pid).ppid() for pid in pids} - {os.getpid()}


def wait_for_all(guests: Sequence[Running], patience: float) -> None:
    """Wait until each guest has said its word."""
    said = {guest.stream: b"" for guest in guests}
    waiting = list(said)
    deadline = time.monotonic() + patience
    while waiting:
        ready, _, _ = select.select(waiting, [], [], max(0, deadline - time.monotonic()))
        if not ready:
            raise RuntimeError(f"{len(waiting)} of {len(said)} guests never spoke")
        for stream in ready:
            data = os.read(stream, 65536)
            said[stream] += data
            if not data:
                raise RuntimeError(f"a guest ended: {said[stream][-2000:]!r}")
            if vmm.READY in said[stream]:
                waiting.remove(stream)


def bare_guest(folder: str) -> str:
    """Return the file of a guest that says its word on the serial port and sleeps, in 32-bit code."""
    code = bytes.fromhex(
        "e8 00000000"  # call the next instruction, to learn where it is
        "5e 83 c6 13"  # pop esi; add esi, 19: the word
        "66 ba f8 03"  # mov dx, 0x3f8
        "ac 84 c0 74 03"  # lodsb; test al, al; jz to the hlt
        "ee eb f8"  # out dx, al; jmp to the lodsb
        "f4 eb fd"  # hlt; jmp to it
    )
    path = Path(folder) / "bare"
    path.write_bytes(code + vmm.READY + b"\n\0")
    return str(path)


Start = Callable[[Sequence[Sequence[str]]], AbstractContextManager[list[Running]]]


def measure(
    command: Sequence[str], counts: Sequence[int], started: Start = attached
) -> dict[str, float]:
    """Return all figures of one VMM."""
    found = {}
    for count in counts:
        begin = time.perf_counter()
        with started([named(command, number) for number in range(count)]) as guests:
            wait_for_all(guests, vmm.START_PATIENCE * (1 + count / 4))
            found[start(count)] = time.perf_counter() - begin
            time.sleep(SETTLE)
            pids = [guest.pid for guest in guests]
            found[memory(count)] = sum(map(beyond_the_guests, {*pids, *servers(pids)})) / count
            before, begin = sum(map(cpu_seconds, pids)), time.perf_counter()
            time.sleep(IDLE)
            used, passed = sum(map(cpu_seconds, pids)) - before, time.perf_counter() - begin
            # The kernel counts in hundredths of a second: nothing at all is less than one.
            found[idle(count)] = max(used, 0.01) / passed / count * 100
    return found


def named(command: Sequence[str], number: int) -> list[str]:
    """Return a name: kvmtool wants one that no other has."""
    return [word.replace(NAME, f"{NAME}-{number}") for word in command]


def aims(counts: Sequence[int]) -> list[Aim]:
    of_each = (start, memory, idle)
    return [
        Aim(ours, figure(count), QEMU, 1)
        for ours in (OURS, DETACHED)
        for count in counts
        for figure in of_each
    ]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--guests", type=numbers, default=[1, 8], metavar="N,N", help="at once (1,8)"
    )
    parser.add_argument(
        "--bare", action="store_true", help="a few instructions instead of Linux, pyvmm alone"
    )
    parser.add_argument("--lkvm", default=shutil.which("lkvm"), help="kvmtool's program")


def numbers(text: str) -> list[int]:
    """Return the numbers in N,N: at least one guest each."""
    found = [int(part) for part in text.split(",")]
    if min(found) < 1:
        raise ValueError(text)
    return found


def linux_commands(args: argparse.Namespace, folder: str) -> dict[str, list[str]]:
    """Return how each VMM starts a Linux guest that sleeps."""
    guest = find_guest(args.linux)
    script = f"echo {vmm.READY.decode()}; exec sleep 1000000"
    initrd = vmm.initrd(guest, folder, ["sh", "-c", script])
    made = {
        OURS: vmm.pyvmm(guest.vmlinux, initrd, mib=MEMORY_MIB),
        QEMU: vmm.microvm(guest.vmlinux, initrd, MEMORY_MIB),
    }
    if args.lkvm:
        made[KVMTOOL] = vmm.kvmtool(args.lkvm, guest.kernel, initrd, MEMORY_MIB, NAME)
    return made


def bare_commands(folder: str) -> dict[str, list[str]]:
    """Return how pyvmm starts a bare one."""
    options = (
        "-k",
        bare_guest(folder),
        "--flat",
        "protected",
        "-m",
        f"{MEMORY_MIB}M",
        "--console",
        "serial",
    )
    return {OURS: [sys.executable, "-m", "pyvmm", "run", *options]}


@contextmanager
def subjects(args: argparse.Namespace) -> Iterator[Subjects]:
    with tempfile.TemporaryDirectory() as folder:
        todo = bare_commands(folder) if args.bare else linux_commands(args, folder)
        made = {name: partial(measure, command, args.guests) for name, command in todo.items()}
        made[DETACHED] = partial(measure, todo[OURS], args.guests, detached)
        about = {"linux": None} if args.bare else {}
        base = OURS if args.bare else QEMU
        yield Subjects(made, base, aims(args.guests), NOTES, about)


SUITE = Suite(
    "idle guests, one and several: start, memory, CPU, against QEMU microvm",
    subjects,
    unit="as named",
    scale=1,
    rounds=7,
    quick=2,
    linux=True,
    options=add_options,
)
