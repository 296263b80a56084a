# SPDX-License-Identifier: Apache-2.0
"""The process that VMs of `pyvmm run --detach` are forked from: what they have in common is in memory once.

It loads all that a run needs, then does nothing but fork: a child for each connection, which reads what it is to
do itself. It goes when none of its children runs and nobody has come for a while.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import importlib
import os
import signal
import socket
import sys
import traceback

from pyvmm.control.runtime_dir import RuntimeDir, default_name
from pyvmm.control.server import peer_uid
from pyvmm.errors import HostError
from pyvmm.launch import detach, status

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
#: What a run loads, and the first question over its control socket.
MODULES = (
    "json", "threading", "signal",
    "pyvmm.launch.launch", "pyvmm.launch.options", "pyvmm.launch.plan",
    "pyvmm.vm", "pyvmm.boot.pvh", "pyvmm.boot.bzimage", "pyvmm.boot.flat",
    "pyvmm.boot.load", "pyvmm.boot.acpi", "pyvmm.control.operations", "pyvmm.launch.terminal",
    "pyvmm.devices.virtio_blk", "pyvmm.devices.virtio_console", "pyvmm.devices.virtio_net", "pyvmm.devices.virtio_rng",
    "pyvmm.guest.cache", "pyvmm.guest.overlay", "pyvmm.swap.bypass", "pyvmm.swap.governor",
    "pyvmm.symbiotic.calls", "pyvmm.swap.evictor",
)  # fmt: skip


class ForkServer:
    """Serves a listening socket until it is idle."""

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self.children: set[int] = set()

    def serve(self) -> None:
        """Comes back when there is nothing more to do, with the socket's name still there."""
        signal.signal(signal.SIGCHLD, lambda *_: self.reap())
        self.listener.settimeout(IDLE)
        while True:
            try:
                visitor, _ = self.listener.accept()
            except TimeoutError:
                if not self.children:
                    return
                continue
            self.attend(visitor)

    def drain(self) -> None:
        """Serves those who came before the name was gone."""
        self.listener.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                self.attend(self.listener.accept()[0])

    def reap(self) -> None:
        """Forgets the children that have ended."""
        for pid in tuple(self.children):
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(pid, os.WNOHANG)[0] == 0:
                    continue
            self.children.discard(pid)

    def attend(self, visitor: socket.socket) -> None:
        """A child for them, if they are who we are. In the child it does not come back."""
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
            become(visitor)


@contextlib.contextmanager
def held_back(number: signal.Signals) -> Iterator[None]:
    """The signal waits meanwhile."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})


def shift_layout() -> None:
    """What a child adds to its memory lies elsewhere than what another one does: RAM, devices, stacks."""
    from pyvmm._core import lib

    heap, mappings = (
        int.from_bytes(os.urandom(8), "little") % (most // PAGE) * PAGE for most in (HEAP, MAPPINGS)
    )
    lib.layout_shift(heap, mappings)


def become(visitor: socket.socket, *, forked: bool = True) -> NoReturn:
    """The run that the visitor wants, and the end of this process: nothing of the server's is to be unwound."""
    code = status.VMM
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if forked:
            os.setsid()
            shift_layout()
        code = Child(visitor).run()
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


class Child:
    """One run. Its visitor hears a first word when there is a child, and a second when the guest runs or cannot."""

    def __init__(self, visitor: socket.socket) -> None:
        self.visitor = visitor
        visitor.settimeout(PATIENCE)
        visitor.sendall(detach.packed({}))

    def run(self) -> int:
        """The exit status of the run."""
        from pyvmm.launch.launch import launch
        from pyvmm.launch.options import Options

        args = Options()
        try:
            vars(args).update(self.take_over())
            args.name = args.name or default_name()  # type: ignore[attr-defined]
            return launch(args, self.started)
        except Exception as error:
            from pyvmm.launch import failure

            # The visitor says it; the log of a run that did not start is left as it was.
            text, code = failure.judge(error)
            if self.say({"error": text, "status": code}):
                return code
            return failure.told(error, verbose=args.verbose)  # type: ignore[attr-defined]

    def take_over(self) -> dict[str, Any]:
        """Becomes what the visitor is: its folder, its environment, its log as output. The options of its run."""
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
        return {
            **message["options"], "log": None, "detach": False, "no_fork": False,
            "log_to_empty": message["empty"],
        }  # fmt: skip

    def started(self, name: str) -> None:
        """Its guest runs. HostError if nobody wants to know any more."""
        if not self.say({"name": name, "pid": os.getpid()}):
            raise HostError(errno.EPIPE, "the one who wanted this VM has gone")
        self.visitor.close()

    def say(self, answer: dict[str, Any]) -> bool:
        """A message for the visitor; whether it is still there."""
        try:
            self.visitor.sendall(detach.packed(answer))
        except OSError:
            return False
        return True


def main(argv: Sequence[str]) -> None:
    """With the number of a listening socket and its name in the runtime directory, or `ALONE` and that of a visitor."""
    if argv[0] == detach.ALONE:
        become(socket.socket(fileno=int(argv[1])), forked=False)
    listener = socket.socket(fileno=int(argv[0]))
    for name in MODULES:
        importlib.import_module(name)
    os.chdir("/")
    # What the collector has looked at once it would write to, in each child, until nothing is shared.
    gc.collect()
    gc.freeze()
    server = ForkServer(listener)
    server.serve()
    with RuntimeDir() as directory:
        directory.give_up(argv[1])
    server.drain()


if __name__ == "__main__":
    main(sys.argv[1:])
