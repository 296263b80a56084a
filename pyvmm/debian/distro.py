# SPDX-License-Identifier: Apache-2.0
"""A disk with programs of Debian and the libraries that they need, for guests to mount and chroot
into.

The packages are downloaded with apt and unpacked, without root and without installation. Of their
files only the programs are taken, and what those load: a few megabytes, which a guest reads as it
needs them.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pyvmm.cachefolder import cache_root
from pyvmm.debian import packages, tools
from pyvmm.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

#: The serial number by which a guest finds the disk.
SERIAL = "pyvmm-programs"
IMAGE = "disk.img"
#: Raise it when the same packages make another disk.
SCHEMA = 1
PROGRAMS, LIBRARIES, LOADER = "usr/bin", "lib", "lib64"
#: Where packages have libraries, before and after Debian merged the two.
LIBRARY_FOLDERS = ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu", "usr/lib64", "lib64")
#: Where a guest mounts something of its own.
EMPTY = ("proc", "sys", "dev", "tmp", "run", "etc")
MIB = 1 << 20
#: Beside the files: what an ext4 without a journal takes for itself.
ROOM = 4 * MIB

#: Shell functions: `start_programs` mounts the disk, `program NAME ...` runs one of its programs.
SHELL = f"""
start_programs() {{
    for disk in /sys/block/vd*; do
        [ "$(cat $disk/serial 2> /dev/null)" = {SERIAL} ] && programs=/dev/${{disk##*/}}
    done
    mkdir -p /programs && mount -t ext4 -o ro $programs /programs &&
        for place in proc sys dev tmp; do mount -o rbind /$place /programs/$place || return 1; done
}}
program() {{ chroot /programs /{PROGRAMS}/"$@"; }}
"""


def disk(wanted: Mapping[str, Sequence[str]], *, force: bool = False) -> Path:
    """Return the image, an ext4 to be mounted read-only, with some programs of some packages:
    {package: names}.

    One that was made before is used with no look at the network; ``force`` asks apt for the newest
    packages. Raise HostError if apt does not have or cannot fetch one, a program or a library is in
    none of them, or mke2fs is missing.
    """
    names = repr(sorted((package, sorted(programs)) for package, programs in wanted.items()))
    pointer = Path(cache_root()) / "debian" / f"disk-{digest(names)}"
    if not force:
        known = remembered(pointer)
        if known is not None:
            return known
    trees = fetch(wanted)
    versions = sorted(tree.name for tree in trees)
    final = pointer.with_name(f"{pointer.name}-{digest(*versions)}")
    with tools.lock(f"debian/{pointer.name}"):
        if force or not (final / IMAGE).is_file():
            tools.publish(final, lambda fresh: make(fresh, trees, wanted))
        tools.write_whole(pointer, final.name + "\n")
    return final / IMAGE


def digest(*words: str) -> str:
    """Name what a disk is made of."""
    return hashlib.sha256("\0".join((str(SCHEMA), *words)).encode()).hexdigest()[:16]


def remembered(pointer: Path) -> Path | None:
    """Return the image that was made before, if it is still there."""
    try:
        image = pointer.with_name(pointer.read_text(encoding="utf-8").strip()) / IMAGE
    except OSError:
        return None
    return image if image.is_file() else None


def fetch(wanted: Mapping[str, Sequence[str]]) -> list[Path]:
    """Return the trees of the packages, and of those that they depend on, as far as there are
    libraries to be found.
    """
    trees = {package: packages.unpacked(package) for package in wanted}
    names = [name for programs in wanted.values() for name in programs]
    while missing := closure(list(trees.values()), names).missing:
        users = [path for paths in missing.values() for path in paths]
        owners = [
            package
            for package, tree in trees.items()
            if any(path.is_relative_to(tree) for path in users)
        ]
        more = [name for name in dependencies(owners) if name not in trees]
        if not more:
            raise HostError(
                f"{', '.join(owners)}: no package that they depend on has {', '.join(missing)}"
            )
        trees |= {package: packages.unpacked(package) for package in more}
    return list(trees.values())


def dependencies(names: Iterable[str]) -> list[str]:
    """Return the packages of libraries that packages themselves depend on: lib... or zlib1g.

    Of alternatives the first.
    """
    command = ["apt-cache", "-o", "APT::Cache::Important=true", "depends", *names]
    said = tools.run(command, what="asking apt what packages depend on")
    found = re.findall(r"^ [ |](?:Pre)?Depends: (z?lib[^\s:]+)$", said, re.MULTILINE)
    return list(dict.fromkeys(found))


class Closure(NamedTuple):
    """Programs and their libraries: the files by their places on the disk, and who wants libraries
    that are not there.
    """

    files: dict[str, Path]
    missing: dict[str, list[Path]]


def closure(trees: Sequence[Path], programs: Iterable[str]) -> Closure:
    """Find it in the trees of packages. Raise HostError if a program is in none."""
    files: dict[str, Path] = {}
    missing: dict[str, list[Path]] = {}
    for name in programs:
        files[f"{PROGRAMS}/{name}"] = find(trees, (PROGRAMS,), name) or no_program(name, trees)
    waiting = list(files.values())
    while waiting:
        user = waiting.pop()
        for name in needed(user):
            path = find(trees, LIBRARY_FOLDERS, name)
            place = f"{LOADER if name.startswith('ld-linux') else LIBRARIES}/{name}"
            if path is None:
                missing.setdefault(name, []).append(user)
            elif place not in files:
                files[place] = path
                waiting.append(path)
    return Closure(files, missing)


def no_program(name: str, trees: Iterable[Path]) -> Path:
    """Raise the error."""
    raise HostError(f"none of {', '.join(tree.name for tree in trees)} has {PROGRAMS}/{name}")


def find(trees: Sequence[Path], folders: Iterable[str], name: str) -> Path | None:
    """Return the file of that name in one of the folders, whichever package has it; None if none
    has.
    """
    return next(filter(None, (follow(trees, f"{folder}/{name}") for folder in folders)), None)


def follow(trees: Sequence[Path], place: str) -> Path | None:
    """Return the file at a place of the packages' common tree, behind as many as 8 links; None if
    there is none.
    """
    for _ in range(8):
        path = next((tree / place for tree in trees if os.path.lexists(tree / place)), None)
        if path is None or not path.is_symlink():
            return path if path is not None and path.is_file() else None
        place = os.path.normpath(os.path.join("/", os.path.dirname(place), os.readlink(path)))
        place = place.lstrip("/")
    return None


@functools.cache
def needed(path: Path) -> list[str]:
    """Return the libraries that a program or a library names, its loader among them (ELF, DT_NEEDED
    and PT_INTERP).
    """
    said = tools.run(["readelf", "-W", "-d", "-l", path], what=f"looking at {path.name}")
    loader = re.findall(r"program interpreter: /\S*?([^/\s]+)\]", said)
    return [*re.findall(r"\(NEEDED\)\s+Shared library: \[([^\]]+)\]", said), *loader]


def make(fresh: Path, trees: Sequence[Path], wanted: Mapping[str, Sequence[str]]) -> None:
    """Make the image in that folder."""
    names = [name for programs in wanted.values() for name in programs]
    files = closure(trees, names).files
    root = fresh / "root"
    for place in EMPTY:
        (root / place).mkdir(parents=True)
    for place, path in files.items():
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, root / place)
        (root / place).chmod(0o755)
    size = sum((path.stat().st_size + 4095) // 4096 * 4096 for path in files.values())
    image = fresh / IMAGE
    # 5 % of all for inodes and bitmaps; no journal, for nobody writes to it.
    mib = (int(size * 1.05) + ROOM) // MIB + 1
    options = ["-q", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-b", "4096", "-d", root]
    tools.run(["mke2fs", *options, image, f"{mib}M"], what="making a disk of Debian's programs")
    shutil.rmtree(root)
