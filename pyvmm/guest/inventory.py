# SPDX-License-Identifier: Apache-2.0
"""The contents of the cache, and making it smaller."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from pyvmm.cachefolder import cache_root
from pyvmm.debian import tools
from pyvmm.errors import ConfigError, HostError
from pyvmm.guest import cache
from pyvmm.guest.cache import Guest

# Made by this package; nothing else in the cache directory is ever removed.
PARTS = ("guest", "debian", "source")
NOTE = "info.json"  # beside what was built


class Entry(NamedTuple):
    """One guest that can be found by name."""

    name: str  # '6.12'; 'stock-6.12' or 'stock-6.12-symbiotic' for a Debian kernel
    guest: Guest
    state: str  # 'current', 'stale' (the recipe changed since) or 'broken' (files are missing)
    size: int  # bytes of kernel and initramfs


def entries() -> list[Entry]:
    """Return the guests in the cache, by name."""
    folder = Path(cache_root()) / "guest"
    found = []
    for path in sorted(folder.glob("current-*")):
        entry = read_entry(path.name.removeprefix("current-"))
        if entry is not None:
            found.append(entry)
    return found


def read_entry(name: str) -> Entry | None:
    """Return one guest; None if its note cannot be read."""
    pointer = cache.read_pointer(name)
    if pointer is None:
        return None
    if name.startswith(cache.STOCK):
        guest = cache.assemble_stock(pointer)
    else:
        guest = cache.assemble(pointer.version, pointer.kernel_key, pointer.initramfs_key)
    try:
        files = cache.files_of(cache.patch_tree(), name)
    except OSError:
        files = []
    sizes = [file_size(path) for path in (guest.kernel, guest.initramfs)]
    state = "current" if cache.is_current(pointer, files) else "stale"
    if None in sizes:
        state = "broken"
    return Entry(name, guest, state, sum(size or 0 for size in sizes))


def path_of(linux: str, file: str, *, stock: bool = False, symbiotic: bool = False) -> str:
    """Return the path of a file of a current guest: "bzImage", "initramfs", or one beside the kernel.

    `stock` means the guest with Debian's kernel, `symbiotic` the one of those with the module. Raise
    ConfigError if there is no such guest or file.
    """
    stock = stock or symbiotic
    guest = cache.find_stock(linux, symbiotic) if stock else cache.find(linux)
    if guest is None:
        action = "stock --symbiotic" if symbiotic else "stock" if stock else "build"
        raise ConfigError(
            f"no current guest for Linux {linux}: run 'pyvmm guest {action} --linux {linux}'"
        )
    beside = os.path.join(os.path.dirname(guest.kernel), file)
    path = {"bzImage": guest.kernel, "initramfs": guest.initramfs}.get(file, beside)
    if not os.path.exists(path):
        raise ConfigError(f"this guest has no {file}")
    return path


def guest_files(name: str) -> list[str]:
    """Return the files that a current guest is found and started by, and the notes of its making."""
    entry = read_entry(name)
    if entry is None or entry.state != "current":
        return []
    guest = entry.guest
    notes = [str(Path(path).with_name(NOTE)) for path in (guest.kernel, guest.initramfs)]
    wanted = [cache.pointer_path(name), guest.kernel, guest.vmlinux, guest.initramfs, *notes]
    return [path for path in wanted if os.path.isfile(path)]


def file_size(path: str) -> int | None:
    """Return the size of a file in bytes; None if it is not there."""
    try:
        return os.stat(path).st_size
    except OSError:
        return None


def clean(everything: bool = False) -> int:
    """Remove builds that no name leads to any more, and left-overs of builds that were killed.

    ``everything`` removes all guests, unpacked sources and Debian packages. Return the bytes
    freed. Raise HostError if something cannot be removed.
    """
    root = Path(cache_root())
    if not root.is_dir():
        return 0
    freed = 0
    with ExitStack() as stack:
        # In this order: a build that holds the lock of a kernel may go on to that of its sources.
        for lock in sorted(path for part in PARTS for path in (root / part).glob("*.lock")):
            stack.enter_context(tools.lock(str(lock.relative_to(root).with_suffix(""))))
        for path in victims(root, everything):
            freed += tree_size(path)
            remove(path)
    return freed


def victims(root: Path, everything: bool) -> list[Path]:
    """Return what `clean` removes. Locks stay: another process may be waiting for one."""
    if everything:
        found = [path for part in PARTS for path in (root / part).glob("*")]
        return sorted(path for path in found if path.suffix != ".lock")
    used = set()
    for entry in entries():
        used.add(Path(entry.guest.kernel).parent.name)
        used.add(Path(entry.guest.initramfs).parent.name)
        used.update(Path(path).parent.name for path in modules_of(Path(entry.guest.initramfs)))
    kinds = ("kernel-*/", "initramfs-*/", "module-*/")
    builds = [path for kind in kinds for path in (root / "guest").glob(kind)]
    unused = [path for path in builds if path.name not in used]
    marks = ("*.new.*", "*.old.*", "work-*")
    left = [path for part in PARTS for mark in marks for path in (root / part).glob(mark)]
    return sorted({*unused, *left})


def modules_of(initramfs: Path) -> list[str]:
    """Return the module files that went into an initramfs."""
    try:
        info = json.loads(initramfs.with_name(NOTE).read_text(encoding="utf-8"))
        return [str(path) for path in info.get("modules", [])]
    except (OSError, ValueError):
        return []


def tree_size(path: Path) -> int:
    """Add up the regular files at or below a path, in bytes."""
    if not path.is_dir():
        return path.lstat().st_size
    return sum(file.lstat().st_size for file in path.rglob("*") if file.is_file())


def remove(path: Path) -> None:
    """Remove a file or a tree."""
    try:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    except OSError as error:
        raise HostError(error.errno, f"cannot remove: {error.strerror}", str(path)) from error
