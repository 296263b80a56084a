# SPDX-License-Identifier: Apache-2.0
"""The Bochs that emulates the outer machine with VT-x: which one it is, how it comes here, and how
it is started.
"""

from __future__ import annotations

import os
import pty
import re
import select
import socket
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pyvmm.cachefolder import cache_root
from pyvmm.debian import packages, tools
from pyvmm.errors import HostError
from pyvmm.lab import bootdisk, qemu
from pyvmm.lab.errors import LabError
from pyvmm.lab.outer import Spawned, drawn_lines

if TYPE_CHECKING:
    from collections.abc import Iterator


PACKAGES = ("bochs", "bochs-term", "bochsbios", "vgabios")
PLACE = "lab/bochs"  # in the cache: PLACE-<version> is one that was fetched
LIBRARIES = "usr/lib/x86_64-linux-gnu"
PROGRAM = "usr/bin/bochs-bin"
BIOS = "usr/share/bochs/BIOS-bochs-latest"
VGA_BIOS = "usr/share/vgabios/vgabios.bin"
KEPT = ("usr/bin", "usr/lib", "lib", "usr/share/bochs", "usr/share/vgabios")
MODEL = "corei7_skylake_x"
#: Instructions in a second of the machine's own time. About what Bochs does in one of ours.
RATE = 50_000_000
CONNECT_SECONDS = 60.0
#: The debugger that Debian's Bochs has: let the machine go, and end if it ever stops.
DEBUGGER_COMMANDS = "c\nq\n"


class Bochs(NamedTuple):
    """The trees that hold it: one for each package, or the root."""

    trees: tuple[Path, ...]

    def file(self, name: str) -> Path:
        """Return the path of one of its files. Raise HostError if no tree has it."""
        for tree in self.trees:
            if (tree / name).exists():
                return tree / name
        raise HostError(
            f"Bochs is incomplete: no {name} in {self.trees[0].parent}; remove that directory"
        )

    def environment(self) -> dict[str, str]:
        """Return the variables that name its libraries and plugins, and a terminal that curses
        knows.
        """
        libraries = [str(tree / LIBRARIES) for tree in self.trees if (tree / LIBRARIES).is_dir()]
        return {
            **os.environ,
            "LD_LIBRARY_PATH": ":".join(libraries),
            "LTDL_LIBRARY_PATH": ":".join(f"{path}/bochs/plugins" for path in libraries),
            "TERM": "vt100",
        }


def find() -> Bochs:
    """Return the installed Bochs, if all of it is; else Debian's, in the cache, fetched now if need
    be.

    Raise HostError where apt does not have it.
    """
    installed = Bochs((Path("/"),))
    if is_good(installed):
        return installed
    if (found := kept()) is not None:
        return found
    with tools.lock(PLACE):
        return kept() or fetched()


def is_good(bochs: Bochs) -> bool:
    """Return whether it is all there and its libraries can be loaded."""
    try:
        bochs.file(BIOS)
        bochs.file(VGA_BIOS)
        bochs.file(f"{LIBRARIES}/bochs/plugins/libbx_term_gui.so")
        command = [str(bochs.file(PROGRAM)), "--help"]
        done = subprocess.run(command, env=bochs.environment(), capture_output=True, check=False)
    except OSError:
        return False
    return done.returncode == 0


def kept() -> Bochs | None:
    """Return a Bochs that was fetched before and runs; None if the cache has none."""
    for folder in sorted(Path(cache_root()).glob(f"{PLACE}-*")):
        if not folder.is_dir() or ".new." in folder.name or ".old." in folder.name:
            continue
        found = Bochs(tuple(sorted(folder.iterdir())))
        if is_good(found):
            return found
    return None


def fetched() -> Bochs:
    """Fetch it, with those libraries that this machine does not have."""
    version = packages.find(PACKAGES[0]).version
    final = Path(cache_root()) / f"{PLACE}-{version.replace(':', '%3a')}"

    def fill(fresh: Path) -> None:
        for name in needed():
            packages.fetch(packages.find(name), folder(fresh, name), KEPT)

    tools.publish(final, fill)
    found = kept()
    if found is None:
        raise HostError(
            f"the Bochs in {final} does not run: see what '{PROGRAM} --help' there says"
        )
    return found


def folder(above: Path, name: str) -> Path:
    """Make a directory for one package, and return it."""
    made = above / name
    made.mkdir()
    return made


def needed() -> list[str]:
    """List the packages that apt would install to have it; install nothing."""
    command = ["apt-get", "-s", "-q", "--no-install-recommends", "install", *PACKAGES]
    said = tools.run(command, what="asking apt what Bochs needs")
    return sorted({*re.findall(r"^Inst (\S+)", said, re.MULTILINE), *PACKAGES})


def settings(
    bochs: Bochs, *, memory: int, cpus: int, rom: str, disk: str, ports: tuple[int, int]
) -> str:
    """Return its configuration.

    ``memory`` is in MiB, ``ports`` are those of TCP for the two serial lines.
    """
    return f"""\
romimage: file={bochs.file(BIOS)}
vgaromimage: file={bochs.file(VGA_BIOS)}
optromimage1: file={rom}, address={bootdisk.ROM_ADDRESS:#x}
memory: guest={memory}, host={memory}
cpu: model={MODEL}, count={cpus}, ips={RATE}, reset_on_triple_fault=0
clock: sync=none
ata0-master: type=disk, path={disk}, mode=flat, cylinders=0
com1: enabled=1, mode=socket-client, dev=127.0.0.1:{ports[0]}
com2: enabled=1, mode=socket-client, dev=127.0.0.1:{ports[1]}
display_library: term
sound: driver=dummy
mouse: enabled=0
panic: action=fatal
error: action=ignore
info: action=ignore
debug: action=ignore
log: /dev/null
"""


def spawn(boot: bootdisk.Boot, *, cpus: int, memory: int) -> Spawned:
    """Start Bochs and wait for its two serial lines. Nothing of the machine is on disk.

    Raise LabError with what Bochs said if it ends before.
    """
    bochs = find()
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        ports = [one.getsockname()[1] for one in listeners]
        rom, disk = in_memory(stack, "rom", [boot.rom]), in_memory(stack, "disk", boot.parts)
        text = settings(
            bochs,
            memory=memory,
            cpus=cpus,
            rom=descriptor_path(rom),
            disk=descriptor_path(disk),
            ports=(ports[0], ports[1]),
        )
        config = in_memory(stack, "bochsrc", [text.encode()])
        commands = in_memory(stack, "commands", [DEBUGGER_COMMANDS.encode()])
        screen, terminal = pty.openpty()
        with ExitStack() as undo:
            undo.callback(os.close, screen)
            try:
                process = start(bochs, (config, commands, rom, disk), terminal)
            finally:
                os.close(terminal)
            undo.callback(end, process)
            console, port = accept(process, listeners, screen)
            undo.pop_all()
        return Spawned(process, port, console, screen)


def in_memory(stack: ExitStack, name: str, parts: list[bytes]) -> int:
    """Return the descriptor of a memfd with these bytes; the stack closes it."""
    fd = os.memfd_create(name)
    stack.callback(os.close, fd)
    for part in parts:
        view = memoryview(part)
        while view:
            view = view[os.write(fd, view) :]
    return fd


def descriptor_path(fd: int) -> str:
    """Return a path by which a program that inherits a descriptor can open it."""
    return f"/proc/self/fd/{fd}"


def start(bochs: Bochs, files: tuple[int, ...], terminal: int) -> subprocess.Popen[bytes]:
    """Start the program with its configuration and debugger commands, the first two of ``files``."""
    config, commands = map(descriptor_path, files[:2])
    argv = [*qemu.tied(), str(bochs.file(PROGRAM)), "-q", "-f", config, "-rc", commands]
    try:
        return subprocess.Popen(
            argv,
            env=bochs.environment(),
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            pass_fds=files,
            start_new_session=True,
        )
    except OSError as error:
        raise LabError(f"cannot start '{argv[0]}': {error.strerror}") from error


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that did not become a machine."""
    process.kill()
    process.wait()


def accept(
    process: subprocess.Popen[bytes], listeners: list[socket.socket], screen: int
) -> Iterator[socket.socket]:
    """Return the connections of the serial lines, in the order of the listeners."""
    said = b""
    lines: dict[int, socket.socket] = {}
    deadline = time.monotonic() + CONNECT_SECONDS
    while len(lines) < len(listeners):
        waiting = {one.fileno(): number for number, one in enumerate(listeners)}
        wanted = dict.fromkeys(fd for fd, number in waiting.items() if number not in lines)
        readable, _, _ = select.select([*wanted, screen], [], [], 1)
        if screen in readable:
            said = (said + read_screen(screen))[-4096:]
        for fd in wanted:
            if fd in readable:
                line = listeners[waiting[fd]].accept()[0]
                if is_ours(line):
                    lines[waiting[fd]] = line
                else:
                    line.close()
        if process.poll() is not None or time.monotonic() > deadline:
            for line in lines.values():
                line.close()
            raise LabError("\n".join(["Bochs did not start; it said last:", *drawn_lines(said)]))
    return iter([lines[0], lines[1]])


def is_ours(line: socket.socket) -> bool:
    """Return whether the other end of a connection on this machine belongs to this user; ports are
    open to all.

    Source: proc_net_tcp.rst of the kernel. Addresses are there as they are in memory, ports as
    numbers.
    """
    address, port = line.getpeername()
    end = f"{int.from_bytes(socket.inet_aton(address), 'little'):08X}:{port:04X}"
    for text in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]:
        fields = text.split()
        if fields[1] == end:
            return int(fields[7]) == os.getuid()
    return False


def read_screen(screen: int) -> bytes:
    """Read what a program wrote to its terminal; nothing once it has gone."""
    try:
        return os.read(screen, 65536)
    except OSError:
        return b""
