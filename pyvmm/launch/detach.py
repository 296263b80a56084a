# SPDX-License-Identifier: Apache-2.0
"""`pyvmm run --detach`: hands a run over to the user's fork server, starting that if there is none.

What is said between them is in Python's own format (marshal): both are the same Python, by
`identity`, of the same user, and what JSON takes to be loaded is a good part of such a start.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.machinery
import marshal
import os
import resource
import socket
import sys

import pyvmm
from pyvmm.config import to_plain
from pyvmm.control.runtime_dir import RuntimeDir
from pyvmm.errors import ConfigError, HostError
from pyvmm.launch import status
from pyvmm.launch.plan import Plan
from pyvmm.outfile import OutFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: The server's socket lies among those of the VMs. None of these can have a name that begins with a dot.
PREFIX = ".forkserver-"
#: In place of a name: nobody else is to find it.
ALONE = "--alone"
#: How long a process may take to begin with the run, seconds.
PATIENCE = 60.0
#: A server that ends takes a connection with it now and then; the next one is another's.
TRIES = 5
#: Of a message, bytes. The largest part can be an initial RAM disk that was made of a kernel's modules.
LARGEST = 256 << 20
#: Bytes of a message that one read takes at most.
PIECE = 1 << 20
#: The length that stands before a message.
LENGTH = 4
#: Inherited attributes that must match for the server to be reused.
NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")
LIMITS = tuple(getattr(resource, name) for name in sorted(dir(resource)) if name[:7] == "RLIMIT_")


def start(args: Any) -> int:
    """Have it started; print the VM's name once its guest runs. The status is that of the start.

    Raise ConfigError for options that need a terminal or somebody who waits, HostError if no server
    can be had.
    """
    check(args)
    # The output that would be on the terminal.
    with OutFile("--log", args.log or os.devnull) as log:
        log.lock()
        plan = Plan(args)
        plan.check_files()
        take = hand_over_alone if args.no_fork else hand_over
        answer = take(request(plan, empty=not log.shared), log.fd)
        if "error" not in answer:
            log.begin(emptied=True)  # by the one who runs it, when it did
    if "error" in answer:
        print(f"pyvmm: {answer['error']}", file=sys.stderr)
        return int(answer["status"])
    print(answer["name"])
    return status.OK


def check(args: Any) -> None:
    """Refuse what cannot be had without a terminal."""
    if args.json == "-":
        raise ConfigError("--json - needs somebody who reads it; with --detach name a file")
    if args.summary:
        raise ConfigError("--summary needs a terminal; leave it away, or --detach")


def request(plan: Plan, *, empty: bool = True) -> bytes:
    """Return a message: the record of the VM, the options of its run, whether the log is emptied,
    and what else of this process the run is to have.
    """
    mask = os.umask(0)
    os.umask(mask)
    return packed(
        {
            "config": to_plain(plan.config, raw=True),
            "options": vars(plan.args),
            "umask": mask,
            "environment": dict(os.environb),
            "empty": empty,
        }
    )


def packed(message: Any) -> bytes:
    """Put the length of a message before it.

    Raise HostError (EMSGSIZE) for one that is too long.
    """
    data = marshal.dumps(message)
    if len(data) > LARGEST:
        raise HostError(
            errno.EMSGSIZE, f"a VM of {len(data)} bytes, its initial RAM disk among them"
        )
    return len(data).to_bytes(LENGTH, "little") + data


def unpacked(connection: socket.socket, begun: bytes = b"") -> Any:
    """Return the next message of a connection, of whose length the beginning was read; None at the
    end.

    Raise ValueError or EOFError for what is none.
    """
    head = begun + received(connection, LENGTH - len(begun))
    size = int.from_bytes(head, "little")
    if size > LARGEST:
        raise ValueError(f"a message of {size} bytes")
    data = received(connection, size)
    return marshal.loads(data) if len(head) == LENGTH and len(data) == size else None


def received(connection: socket.socket, size: int) -> bytes:
    """Read so many bytes; fewer at the end of the connection."""
    parts = []
    while size and (part := connection.recv(min(size, PIECE))):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def identity() -> str:
    """Return a name for all that has to be the same in a server: the program, and what its children
    inherit.
    """
    spaces = []
    for name in NAMESPACES:
        try:
            spaces.append(os.readlink(f"/proc/self/ns/{name}"))
        except OSError:
            spaces.append("")
    of_program = (
        pyvmm.__version__, pyvmm.__file__, sys.executable, sys.path, os.stat(core()).st_mtime_ns,
    )  # fmt: skip
    of_process = (
        os.geteuid(), os.getegid(), sorted(os.getgroups()), spaces, _read("/proc/self/cgroup"),
        _read("/proc/self/oom_score_adj"), sorted(os.sched_getaffinity(0)), os.nice(0),
        [resource.getrlimit(number) for number in LIMITS], _capabilities(),
    )  # fmt: skip
    return hashlib.sha256(repr((of_program, of_process)).encode()).hexdigest()[:16]


def core() -> str:
    """Return the path of the compiled part, found without loading it."""
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        path = os.path.join(os.path.dirname(pyvmm.__file__), f"_core{suffix}")
        if os.path.exists(path):
            return path
    raise HostError(errno.ENOENT, "pyvmm._core is not built; run: make build")


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def _capabilities() -> list[str]:
    """Read the capabilities and seccomp filters of this process (proc_pid_status(5))."""
    names = ("Cap", "NoNewPrivs", "Seccomp")
    return [line for line in _read("/proc/self/status").splitlines() if line.startswith(names)]


def hand_over(message: bytes, log: int) -> dict[str, Any]:
    """Return the answer of the process that took the run."""
    name = PREFIX + identity()
    here = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with RuntimeDir() as directory:
            for _ in range(TRIES):
                with connection(directory, name) as server:
                    answer = exchange(server, message, (log, here))
                if answer is not None:
                    return answer
    finally:
        os.close(here)
    raise HostError(
        errno.ECONNREFUSED,
        f"the fork server ended {TRIES} times before it took the run; without --detach there is more to see",
    )


def hand_over_alone(message: bytes, log: int) -> dict[str, Any]:
    """Return the answer of a process of its own, which nobody forked: no other VM has its
    addresses.
    """
    ours, theirs = socket.socketpair()
    here = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with ours, theirs:
            spawn(theirs, ALONE)
            theirs.close()
            answer = exchange(ours, message, (log, here))
    finally:
        os.close(here)
    if answer is None:
        raise HostError(
            errno.ECHILD, "the VM's process did not start; without --detach there is more to see"
        )
    return answer


def connection(directory: RuntimeDir, name: str) -> socket.socket:
    """Connect to the server, which is started if nobody listens."""
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
    """Start a server in a session of its own, which outlives us; by the name of `ALONE` a run,
    which has one visitor.
    """
    import subprocess

    fd = listener.fileno()
    words = [ALONE, str(fd)] if name == ALONE else [str(fd), name]
    subprocess.Popen(
        [sys.executable, "-m", "pyvmm.launch.forkserver", *words],
        pass_fds=[fd],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def exchange(server: socket.socket, message: bytes, fds: tuple[int, int]) -> dict[str, Any] | None:
    """Ask the server, and return its child's answer; None if there never was one, so that nothing
    was begun.
    """
    server.settimeout(PATIENCE)
    try:
        sent = socket.send_fds(server, [message], list(fds))
        server.sendall(message[sent:])
        if unpacked(server) is None:
            return None
        server.settimeout(None)  # a start takes as long as its images and disks
        answer: dict[str, Any] | None = unpacked(server)
    except (BrokenPipeError, ConnectionResetError):
        return None
    except TimeoutError as error:
        raise HostError(
            errno.ETIMEDOUT,
            f"no process took the run in {PATIENCE:g} s; is the fork server stopped? Without --detach there is none",
        ) from error
    return answer or {"error": "the VM's process ended before its guest ran", "status": status.VMM}
