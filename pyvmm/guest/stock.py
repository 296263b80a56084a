# SPDX-License-Identifier: Apache-2.0
"""Guests with a kernel that knows nothing of pyvmm: Debian's own."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pyvmm.cachefolder import cache_root
from pyvmm.debian import kernelmodules, kernels, tools
from pyvmm.guest import cache, initramfs, modular, module, pointer

if TYPE_CHECKING:
    from pyvmm.guest.cache import Guest


def stock(linux: str | None = None, *, symbiotic: bool = False, force: bool = False) -> Guest:
    """Return Debian's own kernel of a version with an initramfs that loads the virtio modules it
    needs.

    ``symbiotic`` adds the guest driver as a module, which init loads first of all. ``force`` asks
    apt for the newest kernel. Raise ConfigError and HostError as `build` does.
    """
    version = linux or cache.DEFAULT_LINUX
    name = cache.stock_name(version, symbiotic)
    stamps = pointer.take_stamps(cache.files_of(cache.patch_tree(), name))
    files = kernels.kernel_package(version, force=force)
    modules = kernelmodules.module_closure(files.modules_dir, modular.NEEDED, missing=note_missing)
    if symbiotic:
        modules.insert(0, module.build(files, version, force=force))
    initramfs_key = initramfs.build(modules, force=force)
    kernel_key = os.path.relpath(files.vmlinuz, cache_root())
    note = cache.Pointer(files.release, kernel_key, initramfs_key, stamps)
    pointer.write(name, note)
    return cache.assemble_stock(note)


def note_missing(name: str) -> None:
    """Say that a kernel comes without a module; init does without it."""
    tools.say(f"this kernel has no module {name}")
