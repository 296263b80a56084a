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
INCLUDES = [f"-I{folder}" for folder in (CSRC, ROOT / "include", SUPPORT)]
MARKED = re.compile(r"/\* cffi: begin \*/(.*?)/\* cffi: end \*/", re.DOTALL)

INCLUDED = re.compile(r'^#include "(\w+/\w+)\.h"$', re.MULTILINE)


def needed(*names: str) -> list[str]:
    """The files of csrc that these need, WING/NAME, each behind those that it uses, which it includes."""
    found: dict[str, None] = {}

    def visit(name: str) -> None:
        for path in existing(name, ".h", ".c"):
            for used in included(path):
                if used not in found and used != name:
                    visit(used)
        found[name] = None

    for name in names:
        visit(name)
    return list(found)


def included(path: Path) -> list[str]:
    return [name for name in INCLUDED.findall(path.read_text()) if existing(name, ".h")]


def existing(name: str, *endings: str) -> list[Path]:
    return [path for path in (CSRC / f"{name}{ending}" for ending in endings) if path.exists()]


def load(
    folder: Path,
    parts: tuple[str, ...],
    more: str,
    *,
    extra: tuple[Path, ...] = (),
    defines: tuple[str, ...] = (),
) -> tuple[Any, Any]:
    """(ffi, lib) of csrc/PART.c for each part and all that it needs; `more` declares what stands
    outside the headers' marks.

    `extra` are further C files, `defines` macros as in "ioctl=fake_ioctl".
    """
    ffi = FFI()
    names = needed(*parts)
    for name in names:
        for header in existing(name, ".h"):
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
    flags += [*INCLUDES, *(f"-D{define}" for define in defines)]
    sources = [*(source for name in names for source in existing(name, ".c")), *extra]
    subprocess.run(["gcc", *flags, "-o", library, *sources], check=True)
    return ffi, ffi.dlopen(str(library))


def sanitized(
    folder: Path,
    source: Path,
    sanitizer: str,
    *defines: str,
    extra: tuple[Path, ...] = (),
) -> list[str]:
    """The command that runs a C program of the tests, built with the files of csrc that it needs and a sanitizer."""
    program = folder / source.stem
    flags = ["-std=gnu11", "-D_GNU_SOURCE", "-g", "-O1", "-Wall", "-Werror", "-pthread"]
    # The thread sanitizer does not look at fences. Those of the engine stand between threads and a guest.
    flags += ["-Wno-tsan"] if sanitizer == "thread" else []
    flags += [f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all", *INCLUDES]
    flags += [f"-D{define}" for define in defines]
    names = needed(*included(source))
    sources = [source, *(each for name in names for each in existing(name, ".c")), *extra]
    subprocess.run(["gcc", *flags, "-o", program, *sources], check=True)
    # The thread sanitizer's memory map leaves little room for a random one.
    return ["setarch", platform.machine(), "-R", str(program)]
