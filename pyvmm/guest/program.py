# SPDX-License-Identifier: Apache-2.0
"""Static programs that run in guests: compiled at their first use, and kept in the cache by their
content.

In the lab a compiler is slow, so they are best compiled before it starts.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from pyvmm.cachefolder import cache_root
from pyvmm.debian import tools

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMAND = ("gcc", "-std=gnu11", "-O2", "-Wall", "-static", "-pthread", "-s")


def compiled(name: str, sources: Sequence[Path]) -> Path:
    """Return the path of a program made of these files, headers among them.

    Raise HostError when there is no compiler, it fails, or the cache cannot be written.
    """
    folder = Path(cache_root()) / "program" / f"{name}-{digest(sources)}"
    if not folder.is_dir():
        with tools.lock(f"program/{name}"):
            if not folder.is_dir():
                tools.publish(folder, lambda fresh: compile_into(fresh / name, sources))
    return folder / name


def digest(sources: Sequence[Path]) -> str:
    """Name what a program is made of."""
    sum = hashlib.sha256("\0".join(COMMAND).encode())
    for path in sources:
        sum.update(b"\0" + path.read_bytes())
    return sum.hexdigest()[:16]


def compile_into(target: Path, sources: Sequence[Path]) -> None:
    """Make the program."""
    units = [path for path in sources if path.suffix == ".c"]
    what = f"compiling {target.name} for the guest"
    tools.run([*COMMAND, "-o", target, *units], what=what)
