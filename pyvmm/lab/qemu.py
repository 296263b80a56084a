# SPDX-License-Identifier: Apache-2.0
"""The QEMU that is the outer machine: its command line, and its start."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
from typing import TYPE_CHECKING

from pyvmm._core import lib
from pyvmm.lab import emulator
from pyvmm.lab.errors import LabError
from pyvmm.lab.outer import Spawned

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvmm.lab.image import Image

# docs/lab.md says what each word is for.
KERNEL_WORDS = (
    "console=ttyS0 panic=-1 quiet nokaslr mitigations=off tsc=reliable no_timer_check "
    "cryptomgr.notests rodata=off clearcpuid=rep_good"
)
# QEMU's TCG does not intercept XSETBV: KVM would never learn the guest's XCR0, load its own idea of it at each entry,
# and the guest's XSAVE would leave SSE registers behind. Without XSAVE guests use FXSAVE, which is right.
NO_XSAVE = "-xsave,-xsaveopt,-xsavec,-xsaves,-xgetbv1,-avx,-avx2,-fma,-f16c,-vaes,-vpclmulqdq,-pku"
# REP STOS and REP MOVS run byte by byte under TCG: without these two (and rep_good) kernels clear and copy pages with
# plain moves, several times faster here.
NO_FAST_STRINGS = ",-erms,-fsrm"
CPU = "max,+svm,+npt,-la57," + NO_XSAVE + NO_FAST_STRINGS
MACHINE = "pc"
THREADS = "tcg,thread="  # "single" or "multi" follows
TSC_MS = 50  # of measuring
#: With the clock that counts instructions one takes 2 to the power of this, in nanoseconds: about what it takes here.
ICOUNT_SHIFT = 2
#: The TSC then counts that clock's nanoseconds.
ICOUNT_TSC_KHZ = 1_000_000


def kernel_words(icount: bool = False) -> str:
    """Return the outer kernel's command line.

    The rate of the TSC, which is this machine's, is told and not left to it to find. On a busy
    machine it finds one that is off by a thousandth, and corrects itself after a second; a KVM that
    was loaded before then gives its guests the old rate, and their timers come seconds late or
    never.
    """
    return f"{KERNEL_WORDS} tsc_early_khz={ICOUNT_TSC_KHZ if icount else lib.tsc_khz(TSC_MS)}"


def quoted(path: str) -> str:
    """Return a path as part of an option: QEMU reads a doubled comma as one."""
    return path.replace(",", ",,")


def tied() -> list[str]:
    """Return a prefix that has the kernel kill the program when the thread that started it is gone."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []


def spawn(
    image: Image, *, cpus: int, memory: int, icount: bool, npt: bool, shares: Sequence[str]
) -> Spawned:
    """Start QEMU, which inherits a socket for the port and one for the console; it says its own
    messages there.
    """
    with contextlib.ExitStack() as undo:
        pairs = [socket.socketpair() for _ in range(2)]
        (port, far_port), (console, far_console) = pairs
        for near, _ in pairs:
            undo.enter_context(near)
        with far_port, far_console:
            ends = (far_port.fileno(), far_console.fileno())
            argv = command(
                image,
                cpus=cpus,
                memory=memory,
                icount=icount,
                npt=npt,
                shares=shares,
                port_fd=ends[0],
                console_fd=ends[1],
            )
            process = start(argv, *ends)
        undo.pop_all()
    threads = argv[argv.index("-accel") + 1].removeprefix(THREADS)
    return Spawned(process, port, console, threads=threads)


def start(argv: list[str], port: int, console: int) -> subprocess.Popen[bytes]:
    """Start QEMU, which inherits the two descriptors. What it says itself goes to the console too."""
    try:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            pass_fds=(port, console),
            start_new_session=True,  # the terminal's Ctrl-C is for us, and we end it
        )
    except OSError as error:
        raise LabError(f"cannot start '{argv[0]}': {error.strerror}") from error


def command(
    image: Image,
    *,
    cpus: int,
    memory: int,
    shares: Sequence[str],
    port_fd: int,
    console_fd: int,
    icount: bool = False,
    npt: bool = True,
) -> list[str]:
    """Return the argument vector.

    ``memory`` is in MiB; the two descriptors are sockets that QEMU inherits.

    Without ``npt`` KVM is to shadow page tables, for which another QEMU may be taken.

    With ``icount`` time is what the CPUs have executed, and goes on as the host's only while they
    all sleep.
    """
    chosen = emulator.find(shadow=not npt)
    thread = "single" if chosen.one_thread or icount else "multi"
    argv = [*tied(), chosen.path, "-nodefaults", "-no-user-config", "-no-reboot"]
    argv += ["-display", "none", "-machine", MACHINE]
    argv += ["-accel", THREADS + thread, "-cpu", CPU]
    argv += ["-smp", str(cpus), "-m", str(memory)]
    argv += ["-kernel", image.kernel, "-initrd", image.initramfs, "-append", kernel_words(icount)]
    argv += ["-icount", f"shift={ICOUNT_SHIFT},sleep=on"] if icount else []
    argv += ["-chardev", f"socket,id=console,fd={console_fd}", "-serial", "chardev:console"]
    argv += ["-chardev", f"socket,id=port,fd={port_fd}"]
    argv += ["-device", "virtio-serial-pci,max_ports=2"]
    argv += ["-device", "virtserialport,nr=1,chardev=port,name=pyvmm"]
    argv += share("base", "/", "on")
    for number, path in enumerate(shares):
        argv += share(f"share{number}", path, "off")
    return argv


def share(tag: str, path: str, readonly: str) -> list[str]:
    """Return a directory of the host as a 9p device.

    ``multidevs=remap`` keeps files of different host file systems from sharing an inode number.
    """
    store = f"local,id={tag},path={quoted(path)},security_model=none,readonly={readonly}"
    return [
        "-fsdev",
        f"{store},multidevs=remap",
        "-device",
        f"virtio-9p-pci,fsdev={tag},mount_tag={tag}",
    ]
