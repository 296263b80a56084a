# SPDX-License-Identifier: Apache-2.0
"""Debian packages unpacked into the cache, without root and without installation, and the modules
of their kernels.
"""

from __future__ import annotations

import os
import re
import shutil
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pyvmm.cachefolder import cache_root
from pyvmm.debian import suites, tools
from pyvmm.errors import ConfigError, HostError, ImageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

KEEP_OF_KERNEL = ("boot", "lib", "usr/lib")
REMEDY = (
    "pyvmm takes it from the apt sources of a Debian machine; "
    "run 'apt-get update', or add the suite that has it (bookworm-security, trixie)"
)


class KernelFiles(NamedTuple):
    """A Debian kernel as unpacked in the cache."""

    vmlinuz: str  # path of the bzImage
    modules_dir: str  # path of lib/modules/<release>, with modules.dep made
    release: str  # what `uname -r` says under it


def candidate_version(package: str, options: Sequence[str] = ()) -> str | None:
    """Return the version that apt would install, or None if apt does not know the package."""
    command = ["apt-cache", *options, "policy", package]
    said = tools.run(command, what=f"looking up package {package}")
    # A name with a dot that apt does not know is an expression to it: 6.1 would be found in linux-source-6.12.
    own = re.search(rf"^{re.escape(package)}:$((?:\n .*)*)", said, re.MULTILINE)
    match = re.search(r"^\s*Candidate:\s*(\S+)", own[1], re.MULTILINE) if own else None
    return None if match is None or match[1] == "(none)" else match[1]


class Package(NamedTuple):
    """A package as it can be had: by apt with these options, in that version."""

    name: str
    version: str
    options: tuple[str, ...] = ()


def find(name: str) -> Package:
    """Return the package that apt would install, or that of the older release whose packages are
    used too (`suites.older`).

    Raise HostError if neither is there.
    """
    version = candidate_version(name)
    if version is not None:
        return Package(name, version)
    options = of_older_release(f"apt has no package '{name}'")
    version = candidate_version(name, options)
    if version is None:
        raise HostError(f"neither apt nor Debian {suites.OLDER} has a package '{name}': {REMEDY}")
    return Package(name, version, options)


def find_in(suite: suites.Suite, names: Iterable[str]) -> list[Package]:
    """Return the packages of a suite that apt does not have among its sources.

    Raise HostError if one is not there.
    """
    options = suites.look_up(suite)
    found = []
    for name in names:
        version = candidate_version(name, options)
        if version is None:
            raise HostError(f"{suite.name} has no package '{name}'")
        found.append(Package(name, version, options))
    return found


def of_older_release(reason: str) -> tuple[str, ...]:
    """Return the options with which apt knows that release.

    Raise HostError, with the reason that it is wanted for.
    """
    try:
        return suites.look_up(suites.older())
    except HostError as error:
        raise HostError(f"{reason}: {REMEDY} ({error})") from error


def tree_of(package: Package) -> Path:
    """Return where a package is unpacked in the cache, or would be."""
    version = package.version.replace(":", "%3a")
    return Path(cache_root()) / "debian" / f"{package.name}_{version}"


def unpacked(package: str, *, keep: Iterable[str] = (), force: bool = False) -> Path:
    """Return the tree of a Debian package in the cache, downloaded with apt if need be.

    ``keep`` limits what stays to some top directories. Raise HostError if apt has no such package
    or cannot fetch it.
    """
    found = find(package)
    final = tree_of(found)
    with tools.lock(f"debian/{package}"):
        if force or not final.is_dir():
            tools.publish(final, lambda fresh: fetch(found, fresh, tuple(keep)))
    return final


def unpacked_together(packages: Sequence[Package], *, keep: Iterable[str], into: str) -> Path:
    """Return one tree of several packages, ``<cache>/<into>-<version of the first>``; fetched if it
    is not there.

    Raise HostError where they cannot be had now. Call it with a lock of the caller's held.
    """
    version = packages[0].version.replace(":", "%3a")
    final = Path(cache_root()) / f"{into}-{version}"
    if not final.is_dir():

        def fill(fresh: Path) -> None:
            for package in packages:
                fetch(package, fresh, tuple(keep))

        tools.publish(final, fill)
    return final


def fetch(package: Package, target: Path, keep: tuple[str, ...]) -> None:
    """Download one package and unpack it into ``target``, beside what is there."""
    tools.say(f"fetching Debian package {package.name} {package.version}")
    parcel = target / "parcel"
    parcel.mkdir()
    as_root = ["-o", "APT::Sandbox::User=root"]
    tools.run(
        [
            "apt-get",
            "-q",
            *as_root,
            *package.options,
            "download",
            f"{package.name}={package.version}",
        ],
        cwd=parcel,
        what=f"downloading Debian package {package.name}",
    )
    archive = next(parcel.glob("*.deb"))
    tree = target / "tree"
    tools.run(["dpkg-deb", "-x", archive, tree], what=f"unpacking {archive.name}")
    for name in keep or os.listdir(tree):
        if (tree / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).rename(target / name)
    shutil.rmtree(tree)
    shutil.rmtree(parcel)


def kernel_image_package(linux: str) -> str:
    """Return the package name of Debian's current plain amd64 kernel of a version such as '6.12'.

    The metapackages say which one it is: 'linux-image-<version>-amd64' where the version is a
    backport, else 'linux-image-amd64'. Where apt has no such version, that of the older release is
    taken.
    """
    wanted_for = f"no Debian kernel of version {linux} in the apt sources"
    found = kernel_image_among(linux) or kernel_image_among(linux, of_older_release(wanted_for))
    if found is None:
        raise HostError(f"{wanted_for}: {REMEDY}")
    return found


def kernel_image_among(linux: str, options: Sequence[str] = ()) -> str | None:
    """Return the package among those that apt knows with these options."""
    wanted = re.compile(
        rf"^\s*Depends:\s*(linux-image-{re.escape(linux)}[.+][^\s|]*)", re.MULTILINE
    )
    for meta in (f"linux-image-{linux}-amd64", "linux-image-amd64"):
        if candidate_version(meta, options) is None:
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
    tree = unpacked(kernel_image_package(linux), keep=KEEP_OF_KERNEL, force=force)
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


def module_name(text: str) -> str:
    """Return the kernel's own spelling of a module name, from a name or a file name."""
    base = text.rsplit("/", 1)[-1]
    return base.split(".ko", 1)[0].replace("-", "_")


class ModuleIndex:
    """The files that depmod wrote about the modules of one kernel."""

    def __init__(self, modules_dir: str) -> None:
        self.folder = Path(modules_dir)
        self.path_of: dict[str, str] = {}
        self.needs: dict[str, list[str]] = {}
        self.first: dict[str, list[str]] = {}  # soft dependencies to load before
        self.aliases: dict[str, list[str]] = {}
        self.built_in = {module_name(line) for line in self._lines("modules.builtin")}
        self._read_dependencies()
        self._read_soft_dependencies()

    def _lines(self, name: str) -> list[str]:
        try:
            text = (self.folder / name).read_text(encoding="utf-8", errors="surrogateescape")
            return text.splitlines()
        except FileNotFoundError:
            return []

    def _read_dependencies(self) -> None:
        lines = self._lines("modules.dep")
        if not lines:
            raise HostError(f"no modules.dep in {self.folder}: run depmod for it")
        for line in lines:
            path, _, needs = line.partition(":")
            name = module_name(path)
            self.path_of[name] = path
            self.needs[name] = [module_name(need) for need in needs.split()]

    def _read_soft_dependencies(self) -> None:
        for line in self._lines("modules.softdep"):
            match = re.match(r"softdep\s+(\S+)\s+(?:.*\s)?pre:\s*(.*?)(?:\s*post:.*)?$", line)
            if match is not None:
                self.first.setdefault(module_name(match[1]), []).extend(match[2].split())
        for line in self._lines("modules.alias"):
            fields = line.split()
            if len(fields) == 3 and fields[0] == "alias":
                self.aliases.setdefault(fields[1], []).append(module_name(fields[2]))

    def providers(self, name: str) -> list[str]:
        """Return the modules behind a soft dependency: the module itself, or of those with that
        alias the one that works on every CPU. An accelerated one would refuse to load on a CPU
        without its instructions.
        """
        plain = module_name(name)
        if plain in self.path_of:
            return [plain]
        if plain in self.built_in:
            return []
        behind = self.aliases.get(name, [])
        generic = [module for module in behind if module.endswith("_generic")]
        return generic or behind[:1]


def module_closure(
    modules_dir: str, names: Iterable[str], *, missing: Callable[[str], None] | None = None
) -> list[str]:
    """Return the paths of the named modules and of all they need, in an order in which they can be
    loaded.

    Built-in modules are left out. A name that is neither a module nor built in is handed to
    ``missing``; without it, HostError is raised.
    """
    index = ModuleIndex(modules_dir)
    order: list[str] = []
    seen: set[str] = set()

    def visit(name: str) -> None:
        if name in seen:
            return  # done, or a cycle of soft dependencies, which the kernel tolerates
        seen.add(name)
        if name not in index.needs:
            raise HostError(
                f"modules.dep in {index.folder} does not list {name}: run depmod for it"
            )
        for soft in index.first.get(name, []):
            for provider in index.providers(soft):
                visit(provider)
        for need in index.needs[name]:
            visit(need)
        order.append(str(index.folder / index.path_of[name]))

    for wanted in names:
        name = module_name(wanted)
        if name in index.path_of:
            visit(name)
        elif name not in index.built_in:
            if missing is None:
                raise HostError(f"kernel {index.folder.name} has no module '{wanted}'")
            missing(wanted)
    return order


def module_bytes(path: str) -> bytes:
    """Return the ELF object of a module file, decompressed if the distribution compressed it (.xz,
    .zst, .gz). Raise HostError if it cannot be read, ImageError if it is damaged.
    """
    import gzip
    import lzma
    import subprocess

    try:
        if path.endswith(".zst"):
            command = [tools.tool("zstd"), "-dcq", path]
            return subprocess.run(command, capture_output=True, check=True).stdout
        data = Path(path).read_bytes()
        if path.endswith(".xz"):
            return lzma.decompress(data)
        return gzip.decompress(data) if path.endswith(".gz") else data
    except OSError as error:
        raise HostError(error.errno, f"module {path}: {error.strerror or error}") from error
    except (EOFError, lzma.LZMAError, zlib.error, subprocess.CalledProcessError) as error:
        raise ImageError(f"module {path} is damaged ({error}); install it again") from error
