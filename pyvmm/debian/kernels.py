# SPDX-License-Identifier: Apache-2.0
"""Debian's own kernels, fetched into the cache."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pyvmm.cachefolder import cache_root
from pyvmm.debian import tools
from pyvmm.errors import ConfigError, HostError

if TYPE_CHECKING:
    from collections.abc import Sequence

from pyvmm.debian import packages

KEEP_OF_KERNEL = ("boot", "lib", "usr/lib")


class KernelFiles(NamedTuple):
    """A Debian kernel as unpacked in the cache."""

    vmlinuz: str  # path of the bzImage
    modules_dir: str  # path of lib/modules/<release>, with modules.dep made
    release: str  # what `uname -r` says under it


def kernel_image_package(linux: str) -> str:
    """Return the package name of Debian's current plain amd64 kernel of a version such as '6.12'.

    The metapackages say which one it is: 'linux-image-<version>-amd64' where the version is a
    backport, else 'linux-image-amd64'. Where apt has no such version, that of the older release is
    taken.
    """
    wanted_for = f"no Debian kernel of version {linux} in the apt sources"
    found = kernel_image_among(linux) or kernel_image_among(
        linux, packages.of_older_release(wanted_for)
    )
    if found is None:
        raise HostError(f"{wanted_for}: {packages.REMEDY}")
    return found


def kernel_image_among(linux: str, options: Sequence[str] = ()) -> str | None:
    """Return the package among those that apt knows with these options."""
    wanted = re.compile(
        rf"^\s*Depends:\s*(linux-image-{re.escape(linux)}[.+][^\s|]*)", re.MULTILINE
    )
    for meta in (f"linux-image-{linux}-amd64", "linux-image-amd64"):
        if packages.candidate_version(meta, options) is None:
            continue
        command = ["apt-cache", *options, "depends", meta]
        match = wanted.search(tools.run(command, what=f"resolving package {meta}"))
        if match is not None:
            return match[1]
    return None


def kernel_package(linux: str, *, force: bool = False) -> KernelFiles:
    """Return Debian's stock amd64 kernel of version ``linux``, fetched into the cache once.

    ``force`` asks apt for the newest; otherwise one that is cached is used with no look at the
    network. Raise HostError if it cannot be had, ConfigError if ``linux`` is not like '6.12'.
    """
    if not re.fullmatch(r"\d+\.\d+", linux):
        raise ConfigError(f"'{linux}' is not a kernel version: say something like 6.12")
    if not force:
        known = remembered_kernel(linux)
        if known is not None:
            return known
    tree = packages.unpacked(kernel_image_package(linux), keep=KEEP_OF_KERNEL, force=force)
    files = kernel_files(tree)
    with tools.lock(f"debian/kernel-{linux}"):
        tools.write_whole(kernel_pointer(linux), tree.name + "\n")
    return files


def kernel_pointer(linux: str) -> Path:
    """Return the file that names the tree of the kernel that was fetched last."""
    return Path(cache_root()) / "debian" / f"kernel-{linux}"


def remembered_kernel(linux: str) -> KernelFiles | None:
    """Return the kernel that was fetched before, if all of it is still there."""
    pointer = kernel_pointer(linux)
    try:
        tree = pointer.with_name(pointer.read_text(encoding="utf-8").strip())
        return kernel_files(tree)
    except (OSError, HostError):
        return None


def kernel_files(tree: Path) -> KernelFiles:
    """Find kernel and modules in an packages.unpacked package, and make modules.dep, which packages do not
    carry.
    """
    images = sorted(tree.glob("boot/vmlinuz-*"))
    if len(images) != 1:
        raise HostError(f"no single boot/vmlinuz-* in {tree}: remove that directory and try again")
    release = images[0].name.removeprefix("vmlinuz-")
    for base in (tree, tree / "usr"):
        modules = base / "lib" / "modules" / release
        if modules.is_dir():
            break
    else:
        raise HostError(f"no lib/modules/{release} in {tree}: remove that directory and try again")
    if not (modules / "modules.dep").exists():
        with tools.lock(f"debian/depmod-{release}"):
            tools.run(["depmod", "-b", base, release], what=f"listing the modules of {release}")
    return KernelFiles(str(images[0]), str(modules), release)
