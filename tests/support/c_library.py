# SPDX-License-Identifier: Apache-2.0
"""A few C files of the engine as a library of their own, for functions that Python does not see otherwise."""

from __future__ import annotations

import platform
import re
import subprocess
from pathlib import Path
from typing import Any

from cffi import FFI

from tests.support.tree import ROOT

CSRC = ROOT / "csrc"
SUPPORT = ROOT / "tests" / "support"
#: The ioctls of a vCPU without KVM, where ioctl is defined as fake_ioctl.
FAKE_KVM = SUPPORT / "fake_kvm.c"
MARKED = re.compile(r"/\* cffi: begin \*/(.*?)/\* cffi: end \*/", re.DOTALL)

#: The vCPU loop and what it calls.
VCPU = ("machine/bus", "machine/exit", "machine/vcpu")

#: The same with symcalls.
LOOP = (
    *("machine/memory", *VCPU),
    *("symbiotic/symspy", "symbiotic/watch", "symbiotic/context", "symbiotic/hold"),
    *("symbiotic/replay", "symbiotic/frame", "symbiotic/symcall", "symbiotic/begin"),
    *("symbiotic/end", "symbiotic/local", "symbiotic/queue", "symbiotic/overlay"),
    "symbiotic/entry",
    "host/thread",
)

#: The virtio devices but for the network card, and what they stand on.
DEVICES = (
    *("machine/memory", "host/iothread", "host/thread", "host/iovec", "host/stream"),
    *("host/terminal", "host/framing", "host/guard"),
    *("virtio/blockfile", "virtio/blockmemory", "virtio/queue", "virtio/device", "virtio/serve"),
    *("virtio/mmio", "virtio/blk", "virtio/rng", "virtio/console"),
)


def load(
    folder: Path,
    parts: tuple[str, ...],
    more: str,
    *,
    extra: tuple[Path, ...] = (),
    defines: tuple[str, ...] = (),
) -> tuple[Any, Any]:
    """(ffi, lib) of csrc/PART.c for each part; `more` declares what stands outside the headers' marks.

    `extra` are further C files, `defines` macros as in "ioctl=fake_ioctl".
    """
    ffi = FFI()
    for part in parts:
        header = CSRC / f"{part}.h"
        if header.exists():
            ffi.cdef("\n".join(MARKED.findall(header.read_text())))
    ffi.cdef(more)
    library = folder / "library.so"
    flags = [
        "-std=gnu11",
        "-D_GNU_SOURCE",
        "-O1",
        "-g",
        "-Wall",
        "-Werror",
        "-fPIC",
        "-shared",
        "-pthread",
    ]
    flags += [f"-I{CSRC}", f"-I{SUPPORT}", *(f"-D{define}" for define in defines)]
    sources = [*(str(CSRC / f"{part}.c") for part in parts), *map(str, extra)]
    subprocess.run(["gcc", *flags, "-o", str(library), *sources], check=True)
    return ffi, ffi.dlopen(str(library))


def sanitized(
    folder: Path,
    source: Path,
    parts: tuple[str, ...],
    sanitizer: str,
    *defines: str,
    extra: tuple[Path, ...] = (),
) -> list[str]:
    """The command that runs a C program of the tests, built with csrc/PART.c for each part and a sanitizer."""
    program = folder / source.stem
    flags = ["-std=gnu11", "-D_GNU_SOURCE", "-g", "-O1", "-Wall", "-Werror", "-pthread"]
    # The thread sanitizer does not look at fences. Those of the engine stand between threads and a guest.
    flags += ["-Wno-tsan"] if sanitizer == "thread" else []
    flags += [f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all", f"-I{CSRC}", f"-I{SUPPORT}"]
    flags += [f"-D{define}" for define in defines]
    sources = [str(source), *(str(CSRC / f"{part}.c") for part in parts), *map(str, extra)]
    subprocess.run(["gcc", *flags, "-o", str(program), *sources], check=True)
    # The thread sanitizer's memory map leaves little room for a random one.
    return ["setarch", platform.machine(), "-R", str(program)]
