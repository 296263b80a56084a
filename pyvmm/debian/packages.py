# SPDX-License-Identifier: Apache-2.0
"""Debian packages, unpacked into the cache without root and without installation."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pyvmm.cachefolder import cache_root
from pyvmm.debian import suites, tools
from pyvmm.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

REMEDY = (
    "pyvmm takes it from the apt sources of a Debian machine; "
    "run 'apt-get update', or add the suite that has it (bookworm-security, trixie, trixie-backports)"
)


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


def find(name: str, beyond: Sequence[str] = (suites.OLDER,)) -> Package:
    """Return the package that apt would install, or that of the first of the suites ``beyond`` its
    sources that has it.

    Raise HostError if none has.
    """
    version = candidate_version(name)
    if version is not None:
        return Package(name, version)
    for options in options_of(beyond, f"apt has no package '{name}'"):
        version = candidate_version(name, options)
        if version is not None:
            return Package(name, version, options)
    raise HostError(f"neither apt nor Debian {', '.join(beyond)} has a package '{name}': {REMEDY}")


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


def options_of(names: Iterable[str], reason: str) -> Iterator[tuple[str, ...]]:
    """Return the options with which apt knows each of these suites, one after the other.

    Raise HostError, with the reason that they are wanted for, where none can be looked at.
    """
    errors = []
    reached = False
    for name in names:
        try:
            options = suites.look_up(suites.named(name))
        except HostError as error:
            errors.append(str(error))
            continue
        reached = True
        yield options
    if not reached:
        raise HostError(f"{reason}: {REMEDY} ({'; '.join(errors)})")


def tree_of(package: Package) -> Path:
    """Return where a package is unpacked in the cache, or would be."""
    version = package.version.replace(":", "%3a")
    return Path(cache_root()) / "debian" / f"{package.name}_{version}"


def unpacked(package: str, *, keep: Iterable[str] = (), force: bool = False) -> Path:
    """Return the tree of a Debian package in the cache, downloaded with apt if need be.

    ``keep`` limits what stays to some top directories. Raise HostError if apt has no such package
    or cannot fetch it.
    """
    return tree([find(package)], keep=keep, force=force)


def tree(packages: Sequence[Package], *, keep: Iterable[str] = (), force: bool = False) -> Path:
    """Return the tree of the first package in the cache, with the files of the others in it;
    downloaded if need be.
    """
    final = tree_of(packages[0])
    with tools.lock(f"debian/{packages[0].name}"):
        if force or not final.is_dir():
            tools.publish(final, lambda fresh: fetch_all(packages, fresh, tuple(keep)))
    return final


def unpacked_together(packages: Sequence[Package], *, keep: Iterable[str], into: str) -> Path:
    """Return one tree of several packages, ``<cache>/<into>-<version of the first>``; fetched if it
    is not there.

    Raise HostError where they cannot be had now. Call it with a lock of the caller's held.
    """
    version = packages[0].version.replace(":", "%3a")
    final = Path(cache_root()) / f"{into}-{version}"
    if not final.is_dir():
        tools.publish(final, lambda fresh: fetch_all(packages, fresh, tuple(keep)))
    return final


def fetch_all(packages: Iterable[Package], target: Path, keep: tuple[str, ...]) -> None:
    """Download packages, and unpack them into one tree."""
    for package in packages:
        fetch(package, target, keep)


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
            move(tree / name, target / name)
    shutil.rmtree(tree)
    shutil.rmtree(parcel)


def move(source: Path, target: Path) -> None:
    """Move a file or a folder; a folder's contents where there is one of that name."""
    if target.is_dir() and source.is_dir() and not source.is_symlink():
        for path in source.iterdir():
            move(path, target / path.name)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    source.rename(target)
