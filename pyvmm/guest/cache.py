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
from pyvmm.errors import HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple
else:
    from pyvmm.record import NamedTuple

#: Which of the project's guests, where nobody says. Not the newest: a version that is added is tried before it is
#: everybody's.
DEFAULT_LINUX = "6.12"
#: Before a version: the folder with all that is of it alone; and of that, its kernel options.
HOOKS = "hooks-"
OPTIONS = "config"
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
MODULE = ("module/Makefile", "module/reach.h")
#: The list of the driver's patches, and the folders of those of its files that a module is made of.
SERIES = "series"
OF_MODULE = ("drivers/", "include/")
#: The interface's header: where it lies in Linux, and beside the tree.
HEADER = "include/uapi/linux/symbiotic.h"
HEADER_HERE = "../include/symbiotic.h"


class Guest(NamedTuple):
    """The files of one bootable guest, all paths.

    ``vmlinux`` is a stripped ELF kernel with a PVH note. A stock Debian kernel has none: "" then.
    """

    kernel: str
    vmlinux: str
    initramfs: str
    version: str
    key: str


class Part(NamedTuple):
    """One patch of the guest driver: its name, and the files that it creates, as paths in Linux'
    tree.
    """

    name: str
    files: tuple[str, ...]

    @property
    def message(self) -> str:
        """The file with its text, relative to the tree."""
        return f"messages/{self.name}.txt"

    def hooks(self, linux: str) -> str:
        """Return the file with what it changes of Linux' own files, relative to the tree; not every
        patch has one.
        """
        return f"{hook_folder(linux)}/{self.name}.patch"


class Stamp(NamedTuple):
    """One file of the recipe as it was when the guest was built: enough to tell that it was not
    touched.
    """

    path: str
    size: int
    mtime_ns: int
    digest: str


class Pointer(NamedTuple):
    """The contents of ``guest/current-<version>``."""

    version: str
    kernel_key: str
    initramfs_key: str
    stamps: tuple[Stamp, ...]


def patch_tree() -> str:
    """Return the ``guest-linux-patch`` directory: ``$PYVMM_GUEST_PATCH``, else the installed
    package's own copy, else the one beside the package in its source tree.
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
    """Return where the kernel of that key is, or would be."""
    return os.path.join(cache_root(), "guest", "kernel-" + key)


def initramfs_dir(key: str) -> str:
    """Return where the initramfs of that key is, or would be."""
    return os.path.join(cache_root(), "guest", "initramfs-" + key)


def module_dir(key: str) -> str:
    """Return where the module of that key is, or would be."""
    return os.path.join(cache_root(), "guest", "module-" + key)


def pointer_path(linux: str) -> str:
    """Return the file that says which guest is current for ``linux``."""
    return os.path.join(cache_root(), "guest", "current-" + linux)


def series(tree: str) -> list[Part]:
    """Read the list of the driver's patches, in order. None at all is fine."""
    try:
        with open(os.path.join(tree, SERIES), encoding="utf-8") as file:
            lines = [line.split("#", 1)[0].rstrip() for line in file]
    except FileNotFoundError:
        return []
    found: list[tuple[str, list[str]]] = []
    for line in lines:
        if line[:1].isspace() and found:
            found[-1][1].append(line.strip())
        elif line:
            found.append((line.strip(), []))
    return [Part(name, tuple(files)) for name, files in found]


def guest_series(tree: str, name: str) -> list[Part]:
    """Return the patches of the guest of that name: none without hooks for its version."""
    if variant(name) == PLAIN or not hook_files(tree, base_version(name)):
        return []
    return series(tree)


def versions(tree: str) -> list[str]:
    """Return the versions of Linux that the tree has a folder with options for, newest first."""
    try:
        names = [name.removeprefix(HOOKS) for name in os.listdir(tree) if name.startswith(HOOKS)]
    except OSError:
        return []
    numbered = [name for name in names if all(part.isdigit() for part in name.split("."))]
    found = [name for name in numbered if os.path.isfile(os.path.join(tree, options_file(name)))]
    return sorted(found, key=lambda name: [int(part) for part in name.split(".")], reverse=True)


def hook_folder(linux: str) -> str:
    """Return the folder of all that is of that version of Linux alone, relative to the tree."""
    return HOOKS + linux


def options_file(linux: str) -> str:
    """Return the kernel options whose names that version of Linux has alone, relative to the tree."""
    return f"{hook_folder(linux)}/{OPTIONS}"


def hook_files(tree: str, linux: str) -> list[str]:
    """Return the changes to a version's own files, relative to the tree, in a fixed order."""
    try:
        names = os.listdir(os.path.join(tree, hook_folder(linux)))
    except OSError:
        return []
    return [f"{hook_folder(linux)}/{name}" for name in sorted(names) if name.endswith(".patch")]


def driver_file(path: str) -> str:
    """Return where a file lies that the patches create at that path, relative to the tree."""
    return HEADER_HERE if path == HEADER else "driver/" + path


def base_version(name: str) -> str:
    """Return the Linux version of a guest that is built here: '6.12' for '6.12-debug' and
    '6.12-kasan'.
    """
    return name.removesuffix(variant(name))


def variant(name: str) -> str:
    """Return what follows the version in a guest's name: a key of VARIANTS, or nothing."""
    return next((suffix for suffix in VARIANTS if name.endswith(suffix)), "")


def config_files(name: str) -> list[str]:
    """Return the fragments of its configuration, relative to the tree; the last has the last word."""
    files = ["config/base.config", options_file(base_version(name))]
    suffix = variant(name)
    return [*files, VARIANTS[suffix]] if suffix else files


def recipe_files(tree: str, name: str) -> list[str]:
    """Return the small files that decide what a guest is, relative to the tree, in a fixed order."""
    patches = series_files(tree, name)
    return [*config_files(name), *init_files(tree), *patches]


def init_files(tree: str) -> list[str]:
    """Return the sources of the guest's first process, relative to the tree, in a fixed order."""
    try:
        names = os.listdir(os.path.join(tree, INIT))
    except OSError:
        return []
    return [f"{INIT}/{name}" for name in sorted(names) if name.endswith((".c", ".h"))]


def series_files(tree: str, name: str) -> list[str]:
    """Return all that the patches of the guest of that name are made of, relative to the tree."""
    parts = guest_series(tree, name)
    if not parts:
        return []
    texts = [part.message for part in parts]
    files = [driver_file(path) for part in parts for path in part.files]
    return [SERIES, *texts, *hook_files(tree, base_version(name)), *files]


def module_files(tree: str) -> list[str]:
    """Return what the driver is made of as a module, relative to the tree."""
    paths = [path for part in series(tree) for path in part.files]
    return [*MODULE, *(driver_file(path) for path in paths if path.startswith(OF_MODULE))]


def stock_name(linux: str, symbiotic: bool) -> str:
    """Return what a Debian guest is found under."""
    return STOCK + linux + (SYMBIOTIC if symbiotic else "")


def files_of(tree: str, name: str) -> list[str]:
    """Return the small files that decide what the guest of that name is, relative to the tree."""
    if not name.startswith(STOCK):
        return recipe_files(tree, name)
    if not name.endswith(SYMBIOTIC):
        return init_files(tree)
    return [*init_files(tree), *module_files(tree)]


def file_digest(path: str) -> str:
    """Hash a small file: SHA-256, in hexadecimal."""
    import hashlib

    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def read_pointer(linux: str) -> Pointer | None:
    """Read ``guest/current-<linux>``; None if it is missing or not in the form written by this
    version.

    Raise HostError where it is there and cannot be read.
    """
    path = pointer_path(linux)
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().split("\n")
    except (FileNotFoundError, ValueError):
        return None
    except OSError as error:
        raise HostError(error.errno, f"cannot read the cache: {error.strerror}", path) from error
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
    """Return whether the recipe, ``files`` in the tree, is still the one the guest was built from.

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
    """Return the guest that ``pyvmm guest build`` made for ``linux``; None if there is none or the
    recipe changed since.
    """
    pointer = read_pointer(linux)
    if pointer is None or not is_current(pointer, recipe_files(patch_tree(), linux)):
        return None
    guest = assemble(pointer.version, pointer.kernel_key, pointer.initramfs_key)
    complete = all(map(os.path.isfile, (guest.kernel, guest.vmlinux, guest.initramfs)))
    return guest if complete else None


def config_text(kernel: str) -> str:
    """Return the configuration beside a kernel of the cache, or ""."""
    folder, name = os.path.split(kernel)
    own = name.replace("vmlinuz", "config") if name.startswith("vmlinuz") else "config"
    try:
        with open(os.path.join(folder, own), encoding="utf-8") as file:
            return file.read()
    except (OSError, ValueError):
        return ""


def most_cpus(kernel: str) -> int | None:
    """Return the CPUs that a kernel of the cache can use, by the configuration beside it; None if
    there is none.
    """
    text = config_text(kernel)
    if not text:
        return None
    if "\nCONFIG_SMP=y\n" not in text:
        return 1
    _, found, rest = text.partition("\nCONFIG_NR_CPUS=")
    number = rest.partition("\n")[0]
    return int(number) if found and number.isdigit() else None


def find_stock(linux: str = DEFAULT_LINUX, symbiotic: bool = False) -> Guest | None:
    """Return the guest that ``pyvmm guest stock`` made, with the driver as a module if
    ``symbiotic``.

    None if there is none or its recipe changed since.
    """
    name = stock_name(linux, symbiotic)
    pointer = read_pointer(name)
    if pointer is None or not is_current(pointer, files_of(patch_tree(), name)):
        return None
    guest = assemble_stock(pointer)
    return guest if os.path.isfile(guest.kernel) and os.path.isfile(guest.initramfs) else None


def assemble_stock(pointer: Pointer) -> Guest:
    """Return the paths of a stock guest; its kernel's key is the kernel's path in the cache."""
    return Guest(
        kernel=os.path.join(cache_root(), pointer.kernel_key),
        vmlinux="",
        initramfs=os.path.join(initramfs_dir(pointer.initramfs_key), "initramfs"),
        version=pointer.version,
        key=pointer.kernel_key + "-" + pointer.initramfs_key,
    )


def assemble(version: str, kernel_key: str, initramfs_key: str) -> Guest:
    """Return the paths of the guest made of that kernel and that initramfs."""
    kernel = kernel_dir(kernel_key)
    return Guest(
        kernel=os.path.join(kernel, "bzImage"),
        vmlinux=os.path.join(kernel, "vmlinux"),
        initramfs=os.path.join(initramfs_dir(initramfs_key), "initramfs"),
        version=version,
        key=kernel_key + "-" + initramfs_key,
    )
