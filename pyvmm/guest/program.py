# SPDX-License-Identifier: Apache-2.0
"""Programs of this package that run in guests: compiled at their first use, and kept in the cache by their content."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pyvmm.guest import cache, tools

COMMAND = ("gcc", "-std=gnu11", "-O2", "-Wall", "-static", "-s")


def source(name: str) -> Path:
    """Where the program's text is."""
    return Path(__file__).with_name("programs") / f"{name}.c"


def program(name: str) -> Path:
    """The path of a static program, made of programs/NAME.c.

    Raises HostError when there is no compiler, it fails, or the cache cannot be written.
    """
    text = source(name).read_bytes()
    key = hashlib.sha256("\0".join(COMMAND).encode() + b"\0" + text).hexdigest()[:16]
    folder = Path(cache.cache_root()) / "program" / f"{name}-{key}"
    if not folder.is_dir():
        with tools.lock(f"program/{name}"):
            if not folder.is_dir():
                tools.publish(folder, lambda fresh: compile_into(fresh, name))
    return folder / name


def compile_into(folder: Path, name: str) -> None:
    """Makes the program in a folder."""
    tools.run([*COMMAND, "-o", folder / name, source(name)], what=f"compiling {name} for the guest")
