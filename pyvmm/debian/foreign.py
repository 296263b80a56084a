# SPDX-License-Identifier: Apache-2.0
"""Programs of a newer release of Debian, made to run here: by the C library of their own release,
which lies in the same tree.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from pyvmm.debian import tools
from pyvmm.errors import HostError

#: Where this architecture's programs look for their loader: part of its binary interface.
LOADER = "/lib64/ld-linux-x86-64.so.2"
LIBRARIES = "usr/lib/x86_64-linux-gnu"
OWN_LOADER = f"{LIBRARIES}/ld-linux-x86-64.so.2"
#: Of the system, after those of the tree.
MORE_LIBRARIES = ("/usr/lib/x86_64-linux-gnu", "/lib/x86_64-linux-gnu")
#: The program itself has this behind its name from then on.
SUFFIX = ".elf"
#: Such a program finds what belongs to it by its own name, which it is told.
SCRIPT = """\
#!/bin/sh
self=$(readlink -f "$0")
tree=$(dirname "$self")/{up}
exec "$tree/{loader}" --library-path "{libraries}" --argv0 "$0" "$self{suffix}" "$@"
"""


def strangers(tree: Path) -> list[Path]:
    """Return the programs in a tree that cannot run here, for want of a library or its version."""
    found = [path for path in sorted(tree.rglob("*")) if is_program(path)]
    return [path for path in found if complaint([LOADER, "--list", str(path)])]


def is_program(path: Path) -> bool:
    """Return whether a file is an executable one, linked for this machine."""
    if path.is_symlink() or not path.is_file() or ".so" in path.name:
        return False
    if not os.access(path, os.X_OK):
        return False
    with path.open("rb") as file:
        head = file.read(20)
    return head[:5] == b"\x7fELF\2" and head[18:20] == b"\x3e\0"


def complaint(command: list[str]) -> str:
    """Return what a loader says where it cannot load a program; "" where it can.

    A library that lacks a version that is wanted is no failure when it only lists.
    """
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    said = (done.stderr + done.stdout).strip()
    if done.returncode == 0 and "not found" not in said:
        return ""
    return said or f"status {done.returncode}"


def adopt(tree: Path, programs: list[Path]) -> None:
    """Put a script in the place of each of these programs of a tree, which starts it.

    Raise HostError where a library is missing still.
    """
    libraries = ":".join([str(tree / LIBRARIES), *MORE_LIBRARIES])
    for program in programs:
        command = [str(tree / OWN_LOADER), "--library-path", libraries, "--list", str(program)]
        said = complaint(command)
        if said:
            raise HostError(
                f"{program.name} of a newer Debian does not run here, though with its own C library: "
                f"install the Debian package 'gcc'; it says:\n  {said}"
            )
        up = os.path.relpath(tree, program.parent)
        text = SCRIPT.format(
            up=up,
            loader=OWN_LOADER,
            libraries=":".join([f"$tree/{LIBRARIES}", *MORE_LIBRARIES]),
            suffix=SUFFIX,
        )
        program.rename(program.with_name(program.name + SUFFIX))
        tools.write_whole(program, text)
        program.chmod(0o755)
