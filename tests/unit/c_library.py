# SPDX-License-Identifier: Apache-2.0
"""A few C files of the engine as a library of their own, for functions that Python does not see otherwise."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

from cffi import FFI

CSRC = Path(__file__).resolve().parents[2] / "csrc"
MARKED = re.compile(r"/\* cffi: begin \*/(.*?)/\* cffi: end \*/", re.DOTALL)

#: The vCPU loop and what it calls.
LOOP = (
    *("memory", "bus", "vcpu", "vcpu_exit", "symspy", "symcall", "symcall_watch", "thread"),
    *("symcall_entry", "symcall_queue", "frame", "context", "replay", "hold"),
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
    flags += [f"-I{CSRC}", *(f"-D{define}" for define in defines)]
    sources = [*(str(CSRC / f"{part}.c") for part in parts), *map(str, extra)]
    subprocess.run(["gcc", *flags, "-o", str(library), *sources], check=True)
    return ffi, ffi.dlopen(str(library))
