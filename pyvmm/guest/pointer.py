# SPDX-License-Identifier: Apache-2.0
"""Writes the notes that `pyvmm.guest.cache` reads: which build is the current one."""

from __future__ import annotations

import os
from pathlib import Path

from pyvmm.debian import tools
from pyvmm.errors import HostError
from pyvmm.guest import cache


def take_stamps(files: list[str]) -> tuple[cache.Stamp, ...]:
    """Return the recipe as it is now, for later comparison. Raise HostError if a file is missing."""
    tree = cache.patch_tree()
    stamps = []
    for name in files:
        path = os.path.join(tree, name)
        try:
            status, digest = os.stat(path), cache.file_digest(path)
        except OSError as error:
            raise HostError(error.errno, f"part of the recipe: {error.strerror}", path) from error
        stamps.append(cache.Stamp(name, status.st_size, status.st_mtime_ns, digest))
    return tuple(stamps)


def write(name: str, pointer: cache.Pointer) -> None:
    """Make a guest the one that is found under a name."""
    head = [cache.POINTER_HEAD, pointer.version, pointer.kernel_key, pointer.initramfs_key]
    body = [
        f"{stamp.size} {stamp.mtime_ns} {stamp.digest} {stamp.path}" for stamp in pointer.stamps
    ]
    tools.write_whole(Path(cache.pointer_path(name)), "\n".join([*head, *body, ""]))
