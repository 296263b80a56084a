# SPDX-License-Identifier: Apache-2.0
"""The process that VMs of `pyvmm run --detach` are forked from: what they have in common is in
memory once.

The server forks a child for each connection, and the child reads what it is to do. It loads what
every run needs, and learns the rest: a child whose guest runs tells which modules it had to import,
and the server imports them for the next child. The server goes when none of its children runs and
nobody has come for a while.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import importlib
import marshal
import os
import select
import signal
import socket
import sys
import traceback

from pyvmm.config import from_plain
from pyvmm.control.runtime_dir import RuntimeDir, default_name
from pyvmm.control.server import peer_uid
from pyvmm.errors import HostError
from pyvmm.launch import detach, status
from pyvmm.launch.launch import run
from pyvmm.launch.options import Options
from pyvmm.launch.plan import Plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any, NoReturn

#: Seconds without a child and without a visitor before it goes.
IDLE = 30.0
#: How long a client may take to say what it wants, seconds.
PATIENCE = 30.0
#: Bytes by which a child shifts its heap, and its mappings: these by as much as the kernel does for a new program (28
#: bits of pages, vm.mmap_rnd_bits), the heap less, as it is accounted for where memory is not overcommitted.
PAGE = 4096
HEAP = 64 << 20
MAPPINGS = 1 << 40
#: The modules that every run needs, and the first question over its control socket; children teach the rest.
COMMON = ("pyvmm.vm", "pyvmm.control.operations")
#: Of a lesson, bytes.
LESSON = 1 << 16


class ForkServer:
    """Serves a listening socket until it is idle."""

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self.children: set[int] = set()
        self.lessons, self.teacher = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self.lessons, self.teacher):
            end.setblocking(False)

    def serve(self) -> None:
        """Serve until there is nothing more to do; return with the socket's name still there."""
        signal.signal(signal.SIGCHLD, lambda *_: self.reap())
        while True:
            ready, _, _ = select.select([self.listener, self.lessons], [], [], IDLE)
            if self.lessons in ready:
                self.hear()
            if self.listener in ready:
                self.attend(self.listener.accept()[0])
            if not ready and not self.children:
                return

    def hear(self) -> None:
        """Learn what the children taught."""
        with contextlib.suppress(BlockingIOError):
            while True:
                learn(self.lessons.recv(LESSON))

    def drain(self) -> None:
        """Serve those who came before the name was gone."""
        self.listener.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                self.attend(self.listener.accept()[0])

    def reap(self) -> None:
        """Forget the children that have ended."""
        for pid in tuple(self.children):
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(pid, os.WNOHANG)[0] == 0:
                    continue
            self.children.discard(pid)

    def attend(self, visitor: socket.socket) -> None:
        """Give a visitor a child, if its user is ours. In the child it does not return."""
        with visitor:
            if peer_uid(visitor) != os.geteuid():
                return
            # One that ends at once is to be known before it is reaped.
            with held_back(signal.SIGCHLD):
                try:
                    pid = os.fork()
                except OSError:
                    return  # the visitor sees that nothing was begun
                if pid:
                    self.children.add(pid)
                    return
            self.listener.close()
            self.lessons.close()
            become(visitor, self.teacher)


def learn(lesson: bytes) -> None:
    """Import the modules that a child had to, so that the next one has them."""
    for name in marshal.loads(lesson):
        if name.startswith("pyvmm.") or name.partition(".")[0] in sys.stdlib_module_names:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
    settle()


def settle() -> None:
    """Let the collector look at all there is once more, and then never: it would write to it in
    each child.
    """
    gc.collect()
    gc.freeze()


@contextlib.contextmanager
def held_back(number: signal.Signals) -> Iterator[None]:
    """Hold the signal back meanwhile."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})


def shift_layout() -> None:
    """Shift the child's layout, so that its RAM, devices and stacks lie elsewhere than another
    child's.
    """
    from pyvmm._core import lib

    heap, mappings = (
        int.from_bytes(os.urandom(8), "little") % (most // PAGE) * PAGE for most in (HEAP, MAPPINGS)
    )
    lib.layout_shift(heap, mappings)


def become(visitor: socket.socket, teacher: socket.socket | None = None) -> NoReturn:
    """Become the run that the visitor wants, and end this process: nothing of the server's is to be
    unwound.

    A child that was forked has a `teacher`, to tell the server what it imports.
    """
    code = status.VMM
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if teacher is not None:
            os.setsid()
            shift_layout()
        code = Child(visitor, teacher).run()
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


class Child:
    """One run.

    Its visitor hears a first word when there is a child, and a second when the guest runs or
    cannot.
    """

    def __init__(self, visitor: socket.socket, teacher: socket.socket | None = None) -> None:
        self.visitor = visitor
        self.teacher = teacher
        self.known = set(sys.modules)
        visitor.settimeout(PATIENCE)
        visitor.sendall(detach.packed({}))

    def run(self) -> int:
        """Return the exit status of the run."""
        args = Options()
        try:
            plan = self.take_over(args)
            args.name = args.name or default_name()  # type: ignore[attr-defined]
            return run(plan, self.started)
        except Exception as error:
            from pyvmm.launch import failure

            # The visitor says it; the log of a run that did not start is left as it was.
            text, code = failure.judge(error)
            if self.say({"error": text, "status": code}):
                return code
            return failure.told(error, verbose=args.verbose)  # type: ignore[attr-defined]

    def take_over(self, args: Options) -> Plan:
        """Become what the visitor is: its folder, its environment, its log as output. Return the run
        that it planned, whose options go to `args`.
        """
        begun, fds, _, _ = socket.recv_fds(self.visitor, detach.LENGTH, 2)
        message = detach.unpacked(self.visitor, begun)
        if message is None:
            raise HostError(errno.EPROTO, "the client did not say what to run")
        log, here = fds
        os.fchdir(here)
        for fd in (1, 2):
            os.dup2(log, fd)
        os.close(log)
        os.close(here)
        os.umask(message["umask"])
        os.environ.clear()
        os.environb.update(message["environment"])
        vars(args).update(message["options"], log=None, log_to_empty=message["empty"])
        return Plan(args, from_plain(message["config"]))

    def started(self, name: str) -> None:
        """Tell the visitor that its guest runs. Raise HostError if nobody wants to know any more."""
        # The lesson goes first: who hears that this guest runs, and asks for another, finds it learnt.
        self.teach()
        if not self.say({"name": name, "pid": os.getpid()}):
            raise HostError(errno.EPIPE, "the one who wanted this VM has gone")
        self.visitor.close()

    def teach(self) -> None:
        """Tell the server what it did not have; it may be gone, or have other lessons to hear."""
        if self.teacher is None:
            return
        new = sorted(sys.modules.keys() - self.known)
        with contextlib.suppress(OSError):
            if new:
                self.teacher.send(marshal.dumps(new))
        self.teacher.close()

    def say(self, answer: dict[str, Any]) -> bool:
        """Send the visitor a message. Return whether it is still there."""
        try:
            self.visitor.sendall(detach.packed(answer))
        except OSError:
            return False
        return True


def main(argv: Sequence[str]) -> None:
    """Serve, given the number of a listening socket and its name in the runtime directory, or
    `ALONE` and that of a visitor.
    """
    if argv[0] == detach.ALONE:
        become(socket.socket(fileno=int(argv[1])))
    listener = socket.socket(fileno=int(argv[0]))
    learn(marshal.dumps(COMMON))
    os.chdir("/")
    server = ForkServer(listener)
    server.serve()
    with RuntimeDir() as directory:
        directory.give_up(argv[1])
    server.drain()


if __name__ == "__main__":
    main(sys.argv[1:])
