# SPDX-License-Identifier: Apache-2.0
"""`pyvmm run --detach`: hands a run over to the user's fork server, starting that if there is none."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import resource
import socket
import subprocess
import sys

import pyvmm._core
from pyvmm.cli import status
from pyvmm.control.runtime_dir import RuntimeDir
from pyvmm.errors import ConfigError, HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: The server's socket lies among those of the VMs. None of these can have a name that begins with a dot.
PREFIX = ".forkserver-"
#: A server that ends takes a connection with it now and then; the next one is another's.
TRIES = 5
#: Of a request with its environment, bytes.
MAX_REQUEST = 8 << 20
CHUNK = 1 << 16
#: What a child inherits and cannot be told: a server may stand in only for one to whom the same applies.
NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")
LIMITS = tuple(getattr(resource, name) for name in sorted(dir(resource)) if name[:7] == "RLIMIT_")


def start(args: Any) -> int:
    """Has it started; prints the VM's name once its guest runs. The status is that of the start.

    Raises ConfigError for options that need a terminal or somebody who waits, HostError if no server can be had.
    """
    check(args)
    log = open_log(args.log)
    try:
        answer = hand_over(request(args), log)
    finally:
        os.close(log)
    if "error" in answer:
        print(f"pyvmm: {answer['error']}", file=sys.stderr)
        return int(answer["status"])
    print(answer["name"])
    return status.OK


def check(args: Any) -> None:
    """Refuses what cannot be had without a terminal."""
    if args.json == "-":
        raise ConfigError("--json - needs somebody who reads it; with --detach name a file")
    if args.summary:
        raise ConfigError("--summary needs a terminal; leave it away, or --detach")


def open_log(path: str | None) -> int:
    """Where everything goes that would be on the terminal."""
    try:
        return os.open(
            path or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644
        )
    except OSError as error:
        raise ConfigError(f"--log {path}: {error.strerror}") from error


def request(args: Any) -> bytes:
    """A line: the options, and what else of this process the run is to have."""
    mask = os.umask(0)
    os.umask(mask)
    message = {"options": vars(args), "umask": mask, "environment": dict(os.environ)}
    line = json.dumps(message).encode() + b"\n"
    if len(line) > MAX_REQUEST:
        raise ConfigError(f"the environment is too large to be passed on: {len(line)} bytes")
    return line


def identity() -> str:
    """A name for all that has to be the same in a server: the program, and what its children inherit."""
    spaces = []
    for name in NAMESPACES:
        try:
            spaces.append(os.readlink(f"/proc/self/ns/{name}"))
        except OSError:
            spaces.append("")
    of_program = (
        pyvmm.__version__, pyvmm.__file__, sys.executable, sys.path, os.stat(pyvmm._core.__file__).st_mtime_ns,
    )  # fmt: skip
    of_process = (
        os.geteuid(), os.getegid(), sorted(os.getgroups()), spaces, _read("/proc/self/cgroup"),
        _read("/proc/self/oom_score_adj"), sorted(os.sched_getaffinity(0)), os.nice(0),
        [resource.getrlimit(number) for number in LIMITS], _capabilities(),
    )  # fmt: skip
    return hashlib.sha256(repr((of_program, of_process)).encode()).hexdigest()[:16]


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def _capabilities() -> list[str]:
    """And seccomp filters and the like (proc_pid_status(5))."""
    names = ("Cap", "NoNewPrivs", "Seccomp")
    return [line for line in _read("/proc/self/status").splitlines() if line.startswith(names)]


def hand_over(line: bytes, log: int) -> dict[str, Any]:
    """The answer of the process that took the run."""
    name = PREFIX + identity()
    here = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with RuntimeDir() as directory:
            for _ in range(TRIES):
                with connection(directory, name) as server:
                    answer = exchange(server, line, (log, here))
                if answer is not None:
                    return answer
    finally:
        os.close(here)
    raise HostError(
        errno.ECONNREFUSED,
        f"the fork server ended {TRIES} times before it took the run; without --detach there is more to see",
    )


def connection(directory: RuntimeDir, name: str) -> socket.socket:
    """To the server, which is started if nobody listens."""
    for _ in range(TRIES):
        server = directory.connect(name)
        if server is not None:
            return server
        try:
            listener = directory.claim(name)
        except ConfigError:
            continue  # another one was quicker
        with listener:
            spawn(listener, name)
    raise HostError(errno.ECONNREFUSED, f"{directory.path}/{name}.sock: nobody listens there")


def spawn(listener: socket.socket, name: str) -> None:
    """A server of its own session, which outlives us."""
    fd = listener.fileno()
    subprocess.Popen(
        [sys.executable, "-m", "pyvmm.cli.forkserver", str(fd), name],
        pass_fds=[fd],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def exchange(server: socket.socket, line: bytes, fds: tuple[int, int]) -> dict[str, Any] | None:
    """What the server's child says; None if there never was one, so that nothing was begun."""
    server.settimeout(None)
    try:
        sent = socket.send_fds(server, [line[:CHUNK]], list(fds))
        server.sendall(line[sent:])
        with server.makefile("rb") as answers:
            if not answers.readline():
                return None
            said = answers.readline()
    except (BrokenPipeError, ConnectionResetError):
        return None
    if not said:
        return {"error": "the VM's process ended before its guest ran", "status": status.VMM}
    answer: dict[str, Any] = json.loads(said)
    return answer
