# SPDX-License-Identifier: Apache-2.0
"""Debian's own kernels, fetched into the cache."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pyvmm.cachefolder import cache_root
from pyvmm.debian import packages, suites, tools
from pyvmm.errors import ConfigError, HostError

if TYPE_CHECKING:
    from collections.abc import Sequence

KEEP_OF_KERNEL = ("boot", "lib", "usr/lib")
#: A version, and a flavour: Debian's kernel for the machines of cloud providers has fewer drivers.
NAME = re.compile(r"(\d+\.\d+)(-cloud)?")


class KernelFiles(NamedTuple):
    """A Debian kernel as unpacked in the cache."""

    vmlinuz: str  # path of the bzImage
    modules_dir: str  # path of lib/modules/<release>, with modules.dep made
    release: str  # what `uname -r` says under it


def check_name(linux: str) -> None:
    """Raise ConfigError for what is no name of a Debian kernel."""
    if not NAME.fullmatch(linux):
        raise ConfigError(
            f"'{linux}' is not a kernel version: say something like 6.12 or 6.12-cloud"
        )


def kernel_image(linux: str) -> packages.Package:
    """Return Debian's current amd64 kernel of a version such as '6.12', or of '6.12-cloud'.

    Where apt has no such version, that of another suite is taken.
    """
    wanted_for = f"no Debian kernel of version {linux} in the apt sources"
    found = kernel_image_among(linux)
    if found is not None:
        return found
    for options in packages.options_of(suites.WITH_KERNELS, wanted_for):
        found = kernel_image_among(linux, options)
        if found is not None:
            return found
    raise HostError(f"{wanted_for}: {packages.REMEDY}")


def kernel_image_among(linux: str, options: Sequence[str] = ()) -> packages.Package | None:
    """Return the package among those that apt knows with these options.

    The metapackages say which one it is: 'linux-image-<version>-amd64' where the version is a
    backport, else 'linux-image-amd64'. Where they have gone on to a later version, the packages of
    this one may still be there.
    """
    version, _, cloud = linux.partition("-")
    flavour = f"{cloud}-amd64" if cloud else "amd64"
    wanted = rf"linux-image-{re.escape(version)}[.+][^\s|]*"
    names = []
    for meta in (f"linux-image-{version}-{flavour}", f"linux-image-{flavour}"):
        if packages.candidate_version(meta, options) is not None:
            names += depends(meta, wanted, options)
    for name in (*names, *images_named(version, flavour, options)):
        found = packages.candidate_version(name, options)
        if found is not None:
            return packages.Package(name, found, tuple(options))
    return None


def images_named(version: str, flavour: str, options: Sequence[str]) -> list[str]:
    """Return the kernels of a version that apt knows with these options, the newest first."""
    command = ["apt-cache", *options, "pkgnames", f"linux-image-{version}."]
    said = tools.run(command, what=f"looking for kernels of version {version}")
    own = re.compile(rf"linux-image-{re.escape(version)}\.[\d.]+(?:\+[a-z]+[\d.]+|-\d+)?-{flavour}")
    names = filter(own.fullmatch, said.split())
    return sorted(names, key=lambda name: [int(part) for part in re.findall(r"\d+", name)])[::-1]


def depends(package: str, wanted: str, options: Sequence[str] = ()) -> list[str]:
    """Return what a package depends on, as far as it matches a regular expression."""
    command = ["apt-cache", *options, "depends", package]
    said = tools.run(command, what=f"resolving package {package}")
    return re.findall(rf"^\s*Depends:\s*({wanted})\s*$", said, re.MULTILINE)


def with_parts(image: packages.Package) -> list[packages.Package]:
    """Return the package of a kernel, and those of the same release that its files are in: since
    Linux 7.3 it has none of its own.
    """
    release = re.escape(image.name.removeprefix("linux-image-"))
    names = depends(image.name, rf"linux-(?:base|binary|modules)-{release}", image.options)
    return [image, *(packages.Package(name, image.version, image.options) for name in names)]


def kernel_package(linux: str, *, force: bool = False) -> KernelFiles:
    """Return Debian's stock amd64 kernel of version ``linux``, fetched into the cache once.

    ``force`` asks apt for the newest; otherwise one that is cached is used with no look at the
    network. Raise HostError if it cannot be had, ConfigError if ``linux`` is not like '6.12'.
    """
    check_name(linux)
    if not force:
        known = remembered_kernel(linux)
        if known is not None:
            return known
    tree = packages.tree(with_parts(kernel_image(linux)), keep=KEEP_OF_KERNEL, force=force)
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
    """Find kernel and modules in an unpacked package, and make modules.dep, which packages do not
    carry.
    """
    image, release = image_in(tree)
    for base in (tree, tree / "usr"):
        modules = base / "lib" / "modules" / release
        if modules.is_dir():
            break
    else:
        raise HostError(f"no lib/modules/{release} in {tree}: remove that directory and try again")
    if not (modules / "modules.dep").exists():
        with tools.lock(f"debian/depmod-{release}"):
            tools.run(["depmod", "-b", base, release], what=f"listing the modules of {release}")
    return KernelFiles(str(image), str(modules), release)


def image_in(tree: Path) -> tuple[Path, str]:
    """Return the kernel in an unpacked package, and its release: since Linux 7.3 it lies beside its
    modules.
    """
    images = sorted(tree.glob("boot/vmlinuz-*"))
    if len(images) == 1:
        return images[0], images[0].name.removeprefix("vmlinuz-")
    images = sorted(tree.glob("usr/lib/modules/*/vmlinuz"))
    if len(images) == 1:
        return images[0], images[0].parent.name
    raise HostError(f"no single kernel in {tree}: remove that directory and try again")
