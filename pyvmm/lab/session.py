# SPDX-License-Identifier: Apache-2.0
"""A lab that is up, and commands in it."""

from __future__ import annotations

import os
import select
import shutil
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

from pyvmm.errors import ConfigError, StateError
from pyvmm.lab import image, protocol, qemu, streams, surroundings, terminal, vmx
from pyvmm.lab.errors import LabError, LabTimeout
from pyvmm.lab.outer import Outer, Spawned
from pyvmm.outfile import OutFile, refuse_streams

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from types import TracebackType

    from pyvmm.lab.streams import Stream

BOOT_TIMEOUT = 120.0  # seconds, with SVM; it takes about 4 on an idle machine
CPUS = 2
MEMORY = "4G"
ARCHES = ("svm", "vmx")
GOODBYE_TIMEOUT = 20.0
MAX_CPUS = 64


class Lab:
    """An outer Linux with emulated SVM or VT-x in which any number of commands run, one after
    another.

    Use it in a `with`; it starts there and is gone after it. ``arch`` is "svm" or "vmx". ``memory``
    is a size such as "8G", of which the host gives only what is touched. ``npt`` off makes KVM in
    the lab use shadow paging. With ``icount`` its time is what its CPUs have executed, so that
    figures can be repeated. ``share`` names directories that are writable besides the project's
    own. ``log`` is a file for the outer console. With VT-x the lab has a copy of some files only:
    ``pack`` names what is to be among them (docs/lab.md); what commands write is gone with it, and
    there is no ``share`` and no ``icount``. One lab serves one thread.
    """

    def __init__(
        self,
        *,
        arch: str = "svm",
        cpus: int | None = None,
        memory: str | int | None = None,
        npt: bool = True,
        icount: bool = False,
        share: str | Iterable[str] | None = None,
        pack: str | Iterable[str] | None = None,
        log: str | None = None,
        boot_timeout: float | None = None,
    ) -> None:
        if "PYVMM_LAB" in os.environ:
            raise StateError("this already is a lab (PYVMM_LAB is set); run the command as it is")
        if arch not in ARCHES:
            raise ConfigError(f"a lab is one of {', '.join(ARCHES)}, not '{arch}'")
        self.arch = arch
        is_vmx = arch == "vmx"
        self.cpus = (vmx.CPUS if is_vmx else CPUS) if cpus is None else cpus
        most = vmx.CPUS if is_vmx else MAX_CPUS
        if not 1 <= self.cpus <= most:
            raise ConfigError(f"a lab with {arch} has {numbers(most)}, not {self.cpus}")
        self.memory = mebibytes((vmx.MEMORY if is_vmx else MEMORY) if memory is None else memory)
        self.npt = npt
        self.icount = icount
        self._folder = os.getcwd()
        extra, self._pack = listed(share), listed(pack)
        if is_vmx:
            refuse(self.memory, icount=icount, share=extra)
        elif self._pack:
            raise ConfigError("a lab with svm sees all files: pack is for vmx")
        self.shares = [] if is_vmx else surroundings.writable_folders(self._folder, extra)
        self._log_path = log
        usual = vmx.BOOT_TIMEOUT if is_vmx else BOOT_TIMEOUT
        self._boot_timeout = usual if boot_timeout is None else boot_timeout
        self._stack = ExitStack()
        self._outer: Outer | None = None

    def __enter__(self) -> Lab:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(graceful=error is None)

    def start(self) -> None:
        """Boot the outer machine and wait for it.

        Raise LabError with the end of its console when it does not come up.
        """
        if self._outer is not None:
            raise StateError("the lab is already started")
        log = self._open_log()
        try:
            spawned, verbs = self._spawn()
            if log is not None:
                log.begin()
            self._outer = Outer(spawned, log=log)
            self._stack.callback(self._outer.kill)
            self._bring_up(verbs)
        except BaseException:
            self.close(graceful=False)
            raise

    def _spawn(self) -> tuple[Spawned, list[tuple[str, ...]]]:
        """Start the emulator; return it and what the first process is to set up."""
        if self.arch == "vmx":
            spawned = vmx.spawn(
                cpus=self.cpus,
                memory=self.memory,
                ept=self.npt,
                folder=self._folder,
                pack=self._pack,
            )
            return spawned, []
        files = image.image()
        spawned = qemu.spawn(
            files,
            cpus=self.cpus,
            memory=self.memory,
            icount=self.icount,
            npt=self.npt,
            shares=self.shares,
        )
        return spawned, self._setup_verbs(files)

    def _open_log(self) -> OutFile | None:
        """Raise ConfigError if it cannot be written."""
        if self._log_path is None:
            return None
        log = self._stack.enter_context(OutFile("--log", self._log_path))
        refuse_streams(log)
        log.lock()
        return log

    def _bring_up(self, verbs: list[tuple[str, ...]]) -> None:
        deadline = time.monotonic() + self._boot_timeout
        self._expect(protocol.HELLO, deadline)
        self._machine().send(protocol.setup(verbs, time.time_ns()))
        self._expect(protocol.READY, deadline)

    def _setup_verbs(self, files: image.Image) -> list[tuple[str, ...]]:
        verbs: list[tuple[str, ...]] = []
        for folder in surroundings.uncovered_folders(self.shares):
            verbs.append(("overlay", folder))
        for number, folder in enumerate(self.shares):
            verbs.append(("share", f"share{number}", folder))
        verbs.append(("modules", files.modules_dir, files.release))
        for path in files.late:
            options = f"npt={int(self.npt)}" if path.endswith("/kvm_amd.ko") else ""
            verbs.append(("load", path, options))
        return verbs

    def _expect(self, type: bytes, deadline: float) -> None:
        """Wait for one frame while the machine comes up or goes down."""
        outer = self._machine()
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise LabError(outer.failure("the outer machine did not answer in time"))
            frames, _ = outer.exchange({}, left)
            for one in frames:
                refuse_failure(outer, one)
                if one.type == type:
                    return

    def _machine(self) -> Outer:
        if self._outer is None:
            raise StateError("the lab is not running: use it inside a `with`, or call start()")
        return self._outer

    @property
    def pid(self) -> int:
        """The emulator's process id."""
        return self._machine().pid

    def run(
        self,
        command: Sequence[str],
        *,
        timeout: float | None = None,
        stdin: Stream = None,
        stdout: Stream = None,
        stderr: Stream = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> int:
        """Run a command and return its exit status, 128+n when signal n ended it.

        The streams are as in subprocess: None for our own, DEVNULL, a descriptor, a file; outputs
        also take an object with ``write(bytes)``. Where stdin and stdout are the same kind of
        thing, a terminal, the command gets one too. ``env`` is added to what is passed on
        (docs/lab.md). What the command leaves running is killed when it ends. Raise LabTimeout
        after ``timeout`` seconds, and LabError when the machine fails; in both cases the lab is
        over.
        """
        if not command or any("\0" in word for word in command):
            raise ConfigError("a command is at least one word, and no word has a zero byte in it")
        if timeout is not None and not timeout > 0:
            raise ConfigError(f"a timeout is a number of seconds above 0, not {timeout}")
        flow = Flow(
            streams.Source(stdin, protocol.STDIN_WINDOW),
            streams.Sink(stdout, 1),
            streams.Sink(stderr, 2),
        )
        outer = self._machine()
        surrounding = surroundings.environment(
            os.environ,
            env,
            arch=self.arch,
            npt=self.npt,
            icount=self.icount,
            threads=outer.threads,
        )
        deadline = None if timeout is None else time.monotonic() + timeout
        with ExitStack() as stack:
            tty = (
                stack.enter_context(terminal.RawTerminal(flow.terminal()))
                if flow.is_terminal()
                else None
            )
            size = tty.size() if tty is not None else None
            folder = os.path.abspath(cwd or self._folder)
            outer.send(protocol.run(command, surrounding, folder, size))
            try:
                return self._serve(flow, tty, deadline)
            except BaseException:
                self.close(graceful=False)
                raise

    def _serve(self, flow: Flow, tty: terminal.RawTerminal | None, deadline: float | None) -> int:
        outer = self._machine()
        status: int | None = None
        while status is None or flow.pending():
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise LabTimeout("the command did not end in the time it had")
            wanted = flow.wanted(reading=status is None)
            if tty is not None:
                wanted[tty.wakeup] = select.POLLIN
            frames, events = outer.exchange(
                wanted, left, listen=status is None and not flow.pending()
            )
            flow.drain(events)
            for one in frames:
                refuse_failure(outer, one)
                if one.type == protocol.EXIT:
                    status = one.number()
                else:
                    flow.take(one)
            if status is None:
                self._pass_input(flow, tty, events)
        return status

    def _pass_input(
        self, flow: Flow, tty: terminal.RawTerminal | None, events: dict[int, int]
    ) -> None:
        outer = self._machine()
        source = flow.source
        if source.wants() and (source.fd is None or source.fd in events):
            typed = source.read()
            outer.send(protocol.frame(protocol.STDIN, typed))
            if tty is not None and tty.escaped(typed):
                raise KeyboardInterrupt
        if tty is not None and tty.wakeup in events:
            outer.send(protocol.frame(protocol.WINSIZE, protocol.strings(tty.size())))

    def close(self, *, graceful: bool = True) -> None:
        """End the outer machine; everything written to shares is on the host then, if ``graceful``."""
        try:
            if graceful and self._outer is not None:
                self._outer.send(protocol.frame(protocol.END))
                self._expect(protocol.BYE, time.monotonic() + GOODBYE_TIMEOUT)
        finally:
            self._outer = None
            self._stack.close()


def refuse_failure(outer: Outer, frame: protocol.Frame) -> None:
    """Raise LabError if the lab says that it cannot go on."""
    if frame.type == protocol.FAIL:
        reason = frame.payload.decode("utf-8", "replace")
        raise LabError(outer.failure(f"the lab gave up: {reason}"))


class Flow(NamedTuple):
    """The three streams of one command."""

    source: streams.Source
    out: streams.Sink
    err: streams.Sink

    def is_terminal(self) -> bool:
        """Return whether the command is to have a terminal: input and output both are one."""
        fds = (self.source.fd, self.out.fd)
        return all(fd is not None and os.isatty(fd) for fd in fds)

    def terminal(self) -> int:
        """Return the terminal's descriptor."""
        assert self.source.fd is not None
        return self.source.fd

    def pending(self) -> bool:
        """Return whether output waits for its reader."""
        return bool(self.out.pending or self.err.pending)

    def wanted(self, *, reading: bool) -> dict[int, int]:
        """Return the descriptors to poll, each with its events."""
        wanted = {
            sink.fd: select.POLLOUT
            for sink in (self.out, self.err)
            if sink.fd is not None and sink.pending
        }
        source = self.source
        if reading and source.fd is not None and source.wants():
            wanted[source.fd] = wanted.get(source.fd, 0) | select.POLLIN
        return wanted

    def drain(self, events: Mapping[int, int]) -> None:
        """Write to those outputs that are ready."""
        for sink in (self.out, self.err):
            if sink.pending and sink.fd in events:
                sink.drain()

    def take(self, frame: protocol.Frame) -> None:
        """Handle a frame that belongs to the streams."""
        if frame.type == protocol.OUT:
            self.out.take(frame.payload)
        elif frame.type == protocol.ERR:
            self.err.take(frame.payload)
        elif frame.type == protocol.CREDIT:
            self.source.credit += frame.number()
        else:
            raise LabError(f"the lab sent an unexpected frame of type {frame.type!r}")


def listed(paths: str | Iterable[str] | None) -> list[str]:
    """Make a list of one path, of several or of none."""
    return [paths] if isinstance(paths, str) else list(paths or ())


def numbers(most: int) -> str:
    """Say how many CPUs there can be."""
    return f"1 to {most} CPUs" if most > 1 else "one CPU"


def refuse(memory: int, *, icount: bool, share: Sequence[str]) -> None:
    """Raise ConfigError for what a lab with VT-x does not have."""
    if icount:
        raise ConfigError("a lab with vmx counts instructions always: icount is for svm")
    if share:
        raise ConfigError(
            f"a lab with vmx brings no files back, so that '{share[0]}' cannot be shared: let the command print what "
            "is wanted, and pack what it needs"
        )
    if memory > vmx.LARGEST_MEMORY:
        raise ConfigError(f"a lab with vmx has at most {vmx.LARGEST_MEMORY} MiB of memory")


def mebibytes(size: str | int) -> int:
    """Return a memory size for QEMU; a bare number is MiB.

    Raise ConfigError below 512 MiB, where the outer Linux leaves too little.
    """
    from pyvmm.quantity import parse_size

    mib = size if isinstance(size, int) else parse_size(size, "memory") >> 20
    if mib < 512:
        raise ConfigError(f"a lab needs at least 512M of memory, not {size}")
    return mib


def run(
    command: Sequence[str],
    *,
    arch: str = "svm",
    cpus: int | None = None,
    memory: str | int | None = None,
    npt: bool = True,
    icount: bool = False,
    timeout: float | None = None,
    share: str | Iterable[str] | None = None,
    pack: str | Iterable[str] | None = None,
    log: str | None = None,
    stdin: Stream = None,
    stdout: Stream = None,
    stderr: Stream = None,
    env: Mapping[str, str] | None = None,
) -> int:
    """Run one command in a lab of its own: `Lab` and `Lab.run` in one.

    The program itself is packed.
    """
    packed = listed(pack)
    program = shutil.which(command[0]) if arch == "vmx" and command else None
    with Lab(
        arch=arch,
        cpus=cpus,
        memory=memory,
        npt=npt,
        icount=icount,
        share=share,
        pack=[*packed, program] if program else packed,
        log=log,
    ) as lab:
        return lab.run(command, timeout=timeout, stdin=stdin, stdout=stdout, stderr=stderr, env=env)
