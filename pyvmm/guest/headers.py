# SPDX-License-Identifier: Apache-2.0
"""The headers that modules for a Debian kernel are built against: Debian's packages, put together
in the cache.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pyvmm.cachefolder import cache_root
from pyvmm.debian import foreign, packages, suites, tools
from pyvmm.errors import HostError

if TYPE_CHECKING:
    from pyvmm.debian.kernels import KernelFiles

#: The build folder's makefile names its companion by where the package manager would put it.
COMPANION = re.compile(r"^include /usr/src/(linux-headers-[^/\s]+)/Makefile$", re.MULTILINE)
PLACE = "/usr/src/"
PROGRAMS = re.compile(r"(linux-kbuild-[^/]+)/scripts$")
COMPILER = re.compile(r"\bgcc-\d+\b")
#: What a compiler's packages are called; of older ones there are fewer.
OF_COMPILER = (
    *("{}", "{}-x86-64-linux-gnu", "cpp-{version}", "cpp-{version}-x86-64-linux-gnu"),
    "libgcc-{version}-dev",
)


class Headers(NamedTuple):
    """The headers of a kernel as put together in the cache."""

    folder: Path  # for ``make -C``
    programs: Path  # the compiler is there, if the machine does not have it


def headers(kernel: KernelFiles) -> Headers:
    """Return the headers that belong to a kernel, put together once out of their packages.

    Raise HostError if apt does not have the headers of exactly this kernel.
    """
    final = Path(cache_root()) / "debian" / f"headers-for-{package_of(kernel)}"
    with tools.lock(f"debian/headers-{kernel.release}"):
        if not final.is_dir():
            tools.publish(final, lambda fresh: put_together(kernel.release, fresh))
    folder = final / "usr" / "src" / f"linux-headers-{kernel.release}"
    return Headers(folder, final / "usr" / "bin")


def package_of(kernel: KernelFiles) -> str:
    """Return name and version of the package that a kernel came in: what its folder in the cache is
    called.
    """
    return Path(kernel.vmlinuz).relative_to(Path(cache_root()) / "debian").parts[0]


def put_together(release: str, target: Path) -> None:
    """Fill ``target`` with the tree that the packages would install, made of hard links.

    What this machine lacks is among them: the compiler, and the C library of programs that are made
    for a newer one.
    """
    own = package(f"linux-headers-{release}", release)
    folder = own / "usr" / "src" / f"linux-headers-{release}"
    companion, programs = needs(folder)
    gather(target, own, package(companion, release), package(programs, release))
    gather(target, *compiler_trees(compiler(folder)))
    strangers = foreign.strangers(target)
    if strangers:
        library = packages.find_in(suites.named(suites.NEWER), ["libc6"])
        gather(target, packages.tree(library, keep=("usr/lib",)))
        foreign.adopt(target, strangers)
    makefile = target / folder.relative_to(own) / "Makefile"
    here = "here := $(dir $(abspath $(lastword $(MAKEFILE_LIST))))../\n"
    text = makefile.read_text(encoding="utf-8").replace(PLACE, "$(here)")
    tools.write_whole(makefile, here + text)


def gather(target: Path, *trees: Path) -> None:
    """Add trees to another, made of hard links."""
    for tree in trees:
        tools.run(["cp", "-al", f"{tree}/usr", target], what=f"putting {tree.name} together")


def package(name: str, release: str) -> Path:
    """Return one of the packages; HostError with the remedy for a kernel that has been superseded."""
    try:
        found = packages.find(name, suites.WITH_KERNELS)
    except HostError as error:
        raise HostError(
            f"apt has no package '{name}', the headers of kernel {release}: run 'apt-get update'; "
            "if the kernel has been superseded, 'pyvmm guest stock --force' takes the newest"
        ) from error
    return packages.tree([found], keep=("usr/src", "usr/lib"))


def compiler_trees(name: str) -> list[Path]:
    """Return the unpacked packages of a compiler that this machine does not have."""
    if tools.found(name):
        return []
    first = packages.find(name, suites.WITH_KERNELS)
    found = []
    for form in OF_COMPILER:
        part = form.format(name, version=name.removeprefix("gcc-"))
        version = packages.candidate_version(part, first.options)
        if version is not None:
            found.append(packages.Package(part, version, first.options))
    return [packages.tree(found, keep=("usr/bin", "usr/lib", "usr/libexec"))]


def needs(folder: Path) -> tuple[str, str]:
    """Return the packages that a build folder leans on: the common headers, and the programs."""
    try:
        makefile = COMPANION.search((folder / "Makefile").read_text(encoding="utf-8"))
        programs = PROGRAMS.search(os.readlink(folder / "scripts"))
    except OSError as error:
        raise HostError(f"{folder}: not what a headers package has: {error.strerror}") from error
    if makefile is None or programs is None:
        raise HostError(f"{folder}: its makefile or 'scripts' is not as pyvmm knows it")
    return makefile[1], programs[1]


def compiler(folder: Path) -> str:
    """Return the name of the compiler that the kernel's makefiles will call, such as 'gcc-12'."""
    try:
        found = COMPILER.search((folder / ".kernelvariables").read_text(encoding="utf-8"))
    except OSError:
        found = None
    return found[0] if found is not None else "gcc"
