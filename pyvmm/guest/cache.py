# SPDX-License-Identifier: Apache-2.0
"""Where built guests are kept, and the quick look-up of one on the way to a launch.

The cache is ``$PYVMM_CACHE``, else ``$XDG_CACHE_HOME/pyvmm``, else ``~/.cache/pyvmm``; in it::

    guest/current-<name>         what `find` hands out, and the recipe it was made from
    guest/kernel-<key>/          bzImage, vmlinux, vmlinux.debug, config, ...
    guest/initramfs-<key>/       initramfs, init
    guest/module-<key>/          symbiotic.ko for a Debian kernel
    debian/<package>_<version>/  unpacked Debian packages
    debian/disk-<hashes>/        a disk image with programs of some of them
    source/<name>/               unpacked kernel sources

This module is on the launch path of ``pyvmm run``: it imports nothing heavy, and hashes only when a
file of the recipe was touched since the build.
"""

from __future__ import annotations

import os

from pyvmm.cachefolder import cache_root, folder_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple
else:
    from pyvmm.record import NamedTuple

DEFAULT_LINUX = "6.12"
VERSIONS = ("6.12", "6.1")
POINTER_HEAD = "pyvmm guest 1"
INIT = "init"
PLAIN = "-plain"
#: After the version, and the fragment that it adds: kernels that check their own locking, or their use of memory; and
#: one without the patches, to compare with.
VARIANTS = {
    "-debug": "config/debug.config",
    "-kasan": "config/kasan.config",
    PLAIN: "config/plain.config",
}
STOCK = "stock-"  # before the version: the pointer to a stock Debian guest
SYMBIOTIC = "-symbiotic"  # after it: the same with the guest driver as a module
MODULE = ("module/Makefile", "module/reach.h", "module/extract.sh")


class Guest(NamedTuple):
    """The files of one bootable guest, all paths.

    ``vmlinux`` is a stripped ELF kernel with a PVH note. A stock Debian kernel has none: "" then.
    """

    kernel: str
    vmlinux: str
    initramfs: str
    version: str
    key: str


class Stamp(NamedTuple):
    """One file of the recipe as it was when the guest was built: enough to tell that it was not
    touched.
    """

    path: str
    size: int
    mtime_ns: int
    digest: str


class Pointer(NamedTuple):
    """What ``guest/current-<version>`` says."""

    version: str
    kernel_key: str
    initramfs_key: str
    stamps: tuple[Stamp, ...]


def patch_tree() -> str:
    """The ``guest-linux-patch`` directory: ``$PYVMM_GUEST_PATCH``, else the installed package's own copy,
    else the one beside the package in its source tree.
    """
    chosen = os.environ.get("PYVMM_GUEST_PATCH")
    if chosen:
        return folder_of("PYVMM_GUEST_PATCH", chosen)
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    installed = os.path.join(package, "guest_linux_patch")
    if os.path.isdir(installed):
        return installed
    return os.path.join(os.path.dirname(package), "guest-linux-patch")


def kernel_dir(key: str) -> str:
    """Where the kernel of that key is, or would be."""
    return os.path.join(cache_root(), "guest", "kernel-" + key)


def initramfs_dir(key: str) -> str:
    """Where the initramfs of that key is, or would be."""
    return os.path.join(cache_root(), "guest", "initramfs-" + key)


def module_dir(key: str) -> str:
    """Where the module of that key is, or would be."""
    return os.path.join(cache_root(), "guest", "module-" + key)


def pointer_path(linux: str) -> str:
    """The file that says which guest is current for ``linux``."""
    return os.path.join(cache_root(), "guest", "current-" + linux)


def series(tree: str, linux: str) -> list[str]:
    """The patches of ``series-<linux>``, in order, as paths relative to the tree. None at all is
    fine.
    """
    folder = "series-" + linux
    try:
        with open(os.path.join(tree, folder, "series"), encoding="utf-8") as file:
            lines = [line.split("#", 1)[0].strip() for line in file]
    except FileNotFoundError:
        return []
    return [folder + "/" + line for line in lines if line]


def guest_series(tree: str, name: str) -> list[str]:
    """The patches of the guest of that name."""
    return [] if variant(name) == PLAIN else series(tree, base_version(name))


def base_version(name: str) -> str:
    """The Linux version of a guest that is built here: '6.12' for '6.12-debug' and '6.12-kasan'."""
    return name.removesuffix(variant(name))


def variant(name: str) -> str:
    """What follows the version in a guest's name: a key of VARIANTS, or nothing."""
    return next((suffix for suffix in VARIANTS if name.endswith(suffix)), "")


def config_files(name: str) -> list[str]:
    """The fragments of its configuration, relative to the tree; the last has the last word."""
    files = ["config/base.config", f"config/{base_version(name)}.config"]
    suffix = variant(name)
    return [*files, VARIANTS[suffix]] if suffix else files


def recipe_files(tree: str, name: str) -> list[str]:
    """The small files that decide what a guest is, relative to the tree, in a fixed order."""
    patches = [] if variant(name) == PLAIN else series_files(tree, base_version(name))
    return [*config_files(name), *init_files(tree), *patches]


def init_files(tree: str) -> list[str]:
    """The sources of the guest's first process, relative to the tree, in a fixed order."""
    try:
        names = os.listdir(os.path.join(tree, INIT))
    except OSError:
        return []
    return [f"{INIT}/{name}" for name in sorted(names) if name.endswith((".c", ".h"))]


def series_files(tree: str, linux: str) -> list[str]:
    """The patches of a version and the list of them, relative to the tree."""
    listed = os.path.exists(os.path.join(tree, "series-" + linux, "series"))
    return [*([f"series-{linux}/series"] if listed else []), *series(tree, linux)]


def stock_name(linux: str, symbiotic: bool) -> str:
    """What a Debian guest is found under."""
    return STOCK + linux + (SYMBIOTIC if symbiotic else "")


def files_of(tree: str, name: str) -> list[str]:
    """The small files that decide what the guest of that name is, relative to the tree."""
    if not name.startswith(STOCK):
        return recipe_files(tree, name)
    if not name.endswith(SYMBIOTIC):
        return init_files(tree)
    linux = name.removeprefix(STOCK).removesuffix(SYMBIOTIC)
    return [*init_files(tree), *MODULE, *series_files(tree, linux)]


def file_digest(path: str) -> str:
    """SHA-256 of a small file, in hexadecimal."""
    import hashlib

    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def read_pointer(linux: str) -> Pointer | None:
    """Reads ``guest/current-<linux>``; None if it is missing or not in the form written by this
    version.
    """
    path = pointer_path(linux)
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().split("\n")
    except (OSError, ValueError):
        return None
    if len(lines) < 4 or lines[0] != POINTER_HEAD:
        return None
    stamps = []
    for line in lines[4:]:
        if not line:
            continue
        fields = line.split(" ", 3)
        if len(fields) != 4 or not (fields[0].isdigit() and fields[1].isdigit()):
            return None
        stamps.append(Stamp(fields[3], int(fields[0]), int(fields[1]), fields[2]))
    return Pointer(lines[1], lines[2], lines[3], tuple(stamps))


def is_current(pointer: Pointer, files: list[str]) -> bool:
    """Whether the recipe, ``files`` in the tree, is still the one the guest was built from.

    Sizes and times first; only a file whose time differs is read and hashed. Without a tree (an
    installed package) there is nothing to be stale against.
    """
    tree = patch_tree()
    if not os.path.isdir(tree):
        return True
    if [stamp.path for stamp in pointer.stamps] != files:
        return False
    for stamp in pointer.stamps:
        path = os.path.join(tree, stamp.path)
        try:
            status = os.stat(path)
            if status.st_size != stamp.size:
                return False
            if status.st_mtime_ns != stamp.mtime_ns and file_digest(path) != stamp.digest:
                return False
        except OSError:
            return False
    return True


def find(linux: str = DEFAULT_LINUX) -> Guest | None:
    """The guest that ``pyvmm guest build`` made for ``linux``; None if there is none or the recipe
    changed since.
    """
    pointer = read_pointer(linux)
    if pointer is None or not is_current(pointer, recipe_files(patch_tree(), linux)):
        return None
    guest = assemble(pointer.version, pointer.kernel_key, pointer.initramfs_key)
    complete = all(map(os.path.isfile, (guest.kernel, guest.vmlinux, guest.initramfs)))
    return guest if complete else None


def config_text(kernel: str) -> str:
    """The configuration beside a kernel of the cache, or ""."""
    folder, name = os.path.split(kernel)
    own = name.replace("vmlinuz", "config") if name.startswith("vmlinuz") else "config"
    try:
        with open(os.path.join(folder, own), encoding="utf-8") as file:
            return file.read()
    except (OSError, ValueError):
        return ""


def most_cpus(kernel: str) -> int | None:
    """The CPUs that a kernel of the cache can use, by the configuration beside it; None if there is none."""
    text = config_text(kernel)
    if not text:
        return None
    if "\nCONFIG_SMP=y\n" not in text:
        return 1
    _, found, rest = text.partition("\nCONFIG_NR_CPUS=")
    number = rest.partition("\n")[0]
    return int(number) if found and number.isdigit() else None


def find_stock(linux: str = DEFAULT_LINUX, symbiotic: bool = False) -> Guest | None:
    """The guest that ``pyvmm guest stock`` made, with the driver as a module if ``symbiotic``.

    None if there is none or its recipe changed since.
    """
    name = stock_name(linux, symbiotic)
    pointer = read_pointer(name)
    if pointer is None or not is_current(pointer, files_of(patch_tree(), name)):
        return None
    guest = assemble_stock(pointer)
    return guest if os.path.isfile(guest.kernel) and os.path.isfile(guest.initramfs) else None


def assemble_stock(pointer: Pointer) -> Guest:
    """The paths of a stock guest; its kernel's key is the kernel's path in the cache."""
    return Guest(
        kernel=os.path.join(cache_root(), pointer.kernel_key),
        vmlinux="",
        initramfs=os.path.join(initramfs_dir(pointer.initramfs_key), "initramfs"),
        version=pointer.version,
        key=pointer.kernel_key + "-" + pointer.initramfs_key,
    )


def assemble(version: str, kernel_key: str, initramfs_key: str) -> Guest:
    """The paths of the guest made of that kernel and that initramfs."""
    kernel = kernel_dir(kernel_key)
    return Guest(
        kernel=os.path.join(kernel, "bzImage"),
        vmlinux=os.path.join(kernel, "vmlinux"),
        initramfs=os.path.join(initramfs_dir(initramfs_key), "initramfs"),
        version=version,
        key=kernel_key + "-" + initramfs_key,
    )
