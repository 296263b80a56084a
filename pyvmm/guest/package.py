# SPDX-License-Identifier: Apache-2.0
"""The guest driver as a Debian package, for guests that nobody here has built: dkms makes the module
there, for each of the guest's kernels.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import NamedTuple

from pyvmm import __version__
from pyvmm.debian import tools
from pyvmm.errors import HostError
from pyvmm.guest import cache

NAME = "symbiotic-dkms"
PACKAGE = "module/package"
#: dpkg runs the first after the installation, the second before the removal.
SCRIPTS = ("postinst", "prerm")
#: Of everything in the package, so that the same sources make the same package: 1 January 2000.
DATE = "946684800"
CONTROL = """\
Package: {name}
Version: {version}
Architecture: all
Section: kernel
Priority: optional
Maintainer: pyvmm <pyvmm@localhost>
Installed-Size: {kibibytes}
Depends: dkms, kmod, make
Recommends: linux-headers-amd64 | linux-headers-cloud-amd64 | linux-headers-generic
Description: guest driver of symbiotic virtual machine monitors
 The sources of the kernel module "symbiotic", which dkms builds for each
 kernel whose headers are installed. By it the virtual machine monitor pyvmm
 can call into the kernel of this machine. Elsewhere it does not load, and
 changes nothing.
"""
COPYRIGHT = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
Copyright: the authors of pyvmm
License: GPL-2
 This is free software, under version 2 of the GNU General Public License;
 /usr/share/common-licenses/GPL-2 has the text. Each file's SPDX line says so.

Files: usr/src/symbiotic-{version}/include/symbiotic.h
Copyright: the authors of pyvmm
License: GPL-2 or Apache-2.0
"""


class File(NamedTuple):
    """One file of the package."""

    path: str
    text: str
    mode: int = 0o644


def package(folder: str | os.PathLike[str] = ".") -> str:
    """Write the package into a folder, made if need be, and return its path.

    Raise HostError if a file of the driver or the program dpkg-deb is missing, or it cannot be
    written.
    """
    tools.tool("dpkg-deb")
    target = Path(folder) / f"{NAME}_{__version__}_all.deb"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as place:
            for file in files():
                write(Path(place), file)
            tools.run(
                ["dpkg-deb", "--root-owner-group", "-Zgzip", "--build", place, target],
                env={"SOURCE_DATE_EPOCH": DATE},
                what=f"packing {target.name}",
            )
    except OSError as error:
        raise HostError(error.errno, str(error.strerror), error.filename) from error
    return str(target)


def files() -> list[File]:
    """Return everything that is in the package, its own notes included."""
    source = f"usr/src/symbiotic-{__version__}"
    inside = [
        *(File(f"{source}/{place_of(name)}", read(name)) for name in cache.module_files(tree())),
        File(f"{source}/dkms.conf", filled("module/dkms.conf")),
        File(f"{source}/COPYING", read("COPYING")),
        File("usr/lib/modules-load.d/symbiotic.conf", read(f"{PACKAGE}/symbiotic.conf")),
        File(f"usr/share/doc/{NAME}/copyright", COPYRIGHT.format(version=__version__)),
    ]
    kibibytes = sum(-(-len(file.text.encode()) // 1024) for file in inside)
    control = CONTROL.format(name=NAME, version=__version__, kibibytes=kibibytes)
    scripts = [File(f"DEBIAN/{name}", filled(f"{PACKAGE}/{name}"), 0o755) for name in SCRIPTS]
    return [*inside, File("DEBIAN/control", control), *scripts]


def tree() -> str:
    """Return the folder with the driver's files, `guest-linux-patch`."""
    return cache.patch_tree()


def place_of(name: str) -> str:
    """Return where a file of the driver lies in the package: the interface's header beside it."""
    return "include/symbiotic.h" if name == cache.HEADER_HERE else name


def read(name: str) -> str:
    """Return one of the files. Raise HostError if it is missing."""
    try:
        return Path(tree(), name).read_text(encoding="utf-8")
    except OSError as error:
        raise HostError(
            error.errno, f"part of the driver's package: {error.strerror}", error.filename
        ) from error


def filled(name: str) -> str:
    """Return one of the files with the version in it."""
    return read(name).replace("@VERSION@", __version__)


def write(root: Path, file: File) -> None:
    """Write one file, with the rights that it has once it is installed, whatever the umask is."""
    path = root / file.path
    for folder in reversed(path.relative_to(root).parents):
        (root / folder).mkdir(exist_ok=True)
        (root / folder).chmod(0o755)
    path.write_text(file.text, encoding="utf-8")
    path.chmod(file.mode)
