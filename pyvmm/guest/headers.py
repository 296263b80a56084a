# SPDX-License-Identifier: Apache-2.0
"""The headers that modules for a Debian kernel are built against: Debian's packages, put together
in the cache.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from pyvmm.cachefolder import cache_root
from pyvmm.debian import packages, tools
from pyvmm.errors import HostError

if TYPE_CHECKING:
    from pyvmm.debian.kernels import KernelFiles

#: The build folder's makefile names its companion by where the package manager would put it.
COMPANION = re.compile(r"^include /usr/src/(linux-headers-[^/\s]+)/Makefile$", re.MULTILINE)
PROGRAMS = re.compile(r"(linux-kbuild-[^/]+)/scripts$")
COMPILER = re.compile(r"\bgcc-\d+\b")


def headers(kernel: KernelFiles) -> Path:
    """Return the folder for ``make -C`` that belongs to a kernel, made once out of three packages.

    Raise HostError if apt does not have the headers of exactly this kernel.
    """
    final = Path(cache_root()) / "debian" / f"headers-for-{package_of(kernel)}"
    build = final / "usr" / "src" / f"linux-headers-{kernel.release}"
    with tools.lock(f"debian/headers-{kernel.release}"):
        if not final.is_dir():
            tools.publish(final, lambda fresh: put_together(kernel.release, fresh))
    return build


def package_of(kernel: KernelFiles) -> str:
    """Return name and version of the package that a kernel came in: what its folder in the cache is
    called.
    """
    return Path(kernel.vmlinuz).parents[1].name


def put_together(release: str, target: Path) -> None:
    """Fill ``target`` with the tree that the packages would install, made of hard links."""
    own = package(f"linux-headers-{release}", release)
    folder = own / "usr" / "src" / f"linux-headers-{release}"
    companion, programs = needs(folder)
    for tree in (own, package(companion, release), package(programs, release)):
        tools.run(["cp", "-al", f"{tree}/usr", target], what=f"gathering the headers of {release}")
    tools.write_whole(
        target / folder.relative_to(own) / "Makefile", f"include ../{companion}/Makefile\n"
    )


def package(name: str, release: str) -> Path:
    """Return one of the packages; HostError with the remedy for a kernel that has been superseded."""
    try:
        packages.find(name)
    except HostError as error:
        raise HostError(
            f"apt has no package '{name}', the headers of kernel {release}: run 'apt-get update'; "
            "if the kernel has been superseded, 'pyvmm guest stock --force' takes the newest"
        ) from error
    return packages.unpacked(name, keep=("usr/src", "usr/lib"))


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
