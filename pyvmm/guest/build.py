# SPDX-License-Identifier: Apache-2.0
"""Makes guests: a kernel and an initramfs, and the note in the cache that says they belong
together.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pyvmm.errors import ConfigError
from pyvmm.guest import cache, debian, initramfs, kconfig, kernel, source, tools

if TYPE_CHECKING:
    from pyvmm.guest.cache import Guest

# What a stock kernel needs for the devices of the VMM, and for a disk.
STOCK_MODULES = (
    *("virtio_mmio", "virtio_pci", "virtio_console", "virtio_blk", "virtio_net", "virtio_rng"),
    *("virtio_balloon", "ext4", "pvpanic_mmio"),
)


def build(
    linux: str | None = None,
    *,
    source_path: str | os.PathLike[str] | None = None,
    jobs: int | None = None,
    config: str | os.PathLike[str] | None = None,
    force: bool = False,
) -> Guest:
    """Builds the guest for a Linux version, or takes it from the cache, and makes it the one that
    `find` returns.

    ``linux`` is '6.12' or '6.1' (default: the version of ``source_path`` if that is a directory,
    else 6.12).
    ``source_path`` is a kernel source directory or tar archive in place of Debian's package,
    ``config`` a file with further kernel options, ``jobs`` the number of compilers at once
    (default: the CPUs there are). ``force`` builds even what the cache has.

    Raises ConfigError for inputs that cannot work, HostError if the machine lacks something or the
    build fails.
    """
    if jobs is not None and jobs < 1:
        raise ConfigError(f"the number of jobs must be at least 1, not {jobs}")
    version = linux or default_version(source_path)
    # The cheap things that can be wrong come before a download.
    options, patches = kconfig.fragment(version, config), source.read_series(version)
    plan = kernel.Plan(version, source.locate(version, source_path), patches, options)
    stamps = take_stamps(cache.recipe_files(cache.patch_tree(), version))
    kernel_key = kernel.build(plan, jobs=jobs, force=force)
    initramfs_key = initramfs.build(force=force)
    number = kernel.read_info(kernel_key)["version"]
    write_pointer(version, cache.Pointer(number, kernel_key, initramfs_key, stamps))
    return cache.assemble(number, kernel_key, initramfs_key)


def stock(linux: str | None = None, *, force: bool = False) -> Guest:
    """Debian's own kernel of a version with an initramfs that loads the virtio modules it needs.

    ``force`` asks apt for the newest one. Raises ConfigError and HostError as `build` does.
    """
    version = linux or cache.DEFAULT_LINUX
    stamps = take_stamps([cache.INIT])
    files = debian.kernel_package(version, force=force)
    modules = debian.module_closure(files.modules_dir, STOCK_MODULES, missing=note_missing)
    initramfs_key = initramfs.build(modules, force=force)
    kernel_key = os.path.relpath(files.vmlinuz, cache.cache_root())
    pointer = cache.Pointer(files.release, kernel_key, initramfs_key, stamps)
    write_pointer(cache.STOCK + version, pointer)
    return cache.assemble_stock(pointer)


def note_missing(module: str) -> None:
    """Says that a kernel comes without a module; init does without it."""
    tools.say(f"this kernel has no module {module}")


def default_version(source_path: str | os.PathLike[str] | None) -> str:
    """The version to build when none was named."""
    if source_path is None or not Path(source_path).is_dir():
        return cache.DEFAULT_LINUX
    return ".".join(source.source_version(Path(source_path)).split(".")[:2])


def take_stamps(files: list[str]) -> tuple[cache.Stamp, ...]:
    """The recipe as it is now. Taken before the build, so that an edit during it counts as a
    change.
    """
    tree = cache.patch_tree()
    stamps = []
    for name in files:
        path = os.path.join(tree, name)
        status = os.stat(path)
        digest = cache.file_digest(path)
        stamps.append(cache.Stamp(name, status.st_size, status.st_mtime_ns, digest))
    return tuple(stamps)


def write_pointer(name: str, pointer: cache.Pointer) -> None:
    """Makes a guest the one that is found under a name."""
    head = [cache.POINTER_HEAD, pointer.version, pointer.kernel_key, pointer.initramfs_key]
    body = [
        f"{stamp.size} {stamp.mtime_ns} {stamp.digest} {stamp.path}" for stamp in pointer.stamps
    ]
    tools.write_whole(Path(cache.pointer_path(name)), "\n".join([*head, *body, ""]))
