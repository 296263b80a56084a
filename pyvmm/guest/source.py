# SPDX-License-Identifier: Apache-2.0
"""Kernel sources: where they come from, what identifies them, and a patched tree to build from."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pyvmm.cachefolder import cache_root
from pyvmm.debian import packages, suites, tools
from pyvmm.errors import ConfigError, HostError

if TYPE_CHECKING:
    from collections.abc import Sequence

INSTALLED = Path("/usr/src")
PACKAGE = "linux-source-"


class Source(NamedTuple):
    """Kernel sources before unpacking: a tar archive or a directory, and a digest of it."""

    path: Path
    identity: str


class Patch(NamedTuple):
    """One patch of a series."""

    name: str  # of its file; part of the key of what is built with it
    text: bytes


def locate(linux: str, given: str | os.PathLike[str] | None = None) -> Source:
    """Return the sources for ``linux``: what the caller gave, else Debian's linux-source package,
    installed or fetched.

    Raise ConfigError if ``given`` is no kernel source, HostError if the package cannot be had.
    """
    if given is not None:
        path = Path(given).absolute()
        if path.is_dir():
            source_version(path)
            return Source(path, directory_identity(path))
        if not path.is_file():
            raise ConfigError(f"no such kernel source: {path}")
        return Source(path, file_identity(path))
    archive = installed(linux)
    if not archive.is_file():
        archive = packages.tree([package_of(linux)], keep=["usr/src"]) / "usr/src" / archive.name
    if not archive.is_file():
        package = package_of(linux).name
        raise HostError(f"package {package} has no {archive.name}; give the sources by --source")
    return Source(archive, file_identity(archive))


def package_of(linux: str) -> packages.Package:
    """Return the Debian package with the sources of a version. Raise HostError if there is none."""
    return packages.find(f"{PACKAGE}{linux}", suites.WITH_KERNELS)


def installed(linux: str) -> Path:
    """Return where that package has its archive when it is installed."""
    return INSTALLED / f"{PACKAGE}{linux}.tar.xz"


def is_here(linux: str, given: str | os.PathLike[str] | None = None) -> bool:
    """Return whether `locate` would fetch nothing. Raise HostError if there is no such package."""
    if given is not None or installed(linux).is_file():
        return True
    return packages.tree_of(package_of(linux)).is_dir()


def file_identity(path: Path) -> str:
    """Hash a file: SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def directory_identity(path: Path) -> str:
    """Return a digest of names, sizes and modification times: any edit changes it, and it needs no
    reading.
    """
    digest = hashlib.sha256()
    for folder, folders, files in os.walk(path):
        folders[:] = sorted(name for name in folders if name != ".git")
        for name in sorted(files):
            status = os.lstat(os.path.join(folder, name))
            line = f"{os.path.relpath(folder, path)}/{name} {status.st_size} {status.st_mtime_ns}\n"
            digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def source_version(tree: Path) -> str:
    """Return the version in the top Makefile, such as '6.12.117'.

    Raise ConfigError if this is no kernel tree.
    """
    try:
        text = (tree / "Makefile").read_text(encoding="utf-8", errors="replace")[:2000]
    except OSError:
        text = ""
    parts: dict[str, str] = dict(
        re.findall(r"^(VERSION|PATCHLEVEL|SUBLEVEL|EXTRAVERSION) =[ \t]*(\S*)", text, re.M)
    )
    if not parts.get("VERSION") or not parts.get("PATCHLEVEL") or not (tree / "Kconfig").exists():
        raise ConfigError(f"{tree} is not a Linux source tree")
    numbers = [parts["VERSION"], parts["PATCHLEVEL"], parts.get("SUBLEVEL") or "0"]
    return ".".join(numbers) + parts.get("EXTRAVERSION", "")


def pristine(source: Source) -> Path:
    """Return the unpacked sources, in the cache; a directory is copied, so that the original stays
    as it is.
    """
    name = source.path.name.split(".tar", 1)[0]
    final = Path(cache_root()) / "source" / f"{name}-{source.identity[:16]}"
    with tools.lock(f"source/{name}"):
        if not final.is_dir():
            tools.publish(final, lambda fresh: unpack(source, fresh))
    return final


def unpack(source: Source, target: Path) -> None:
    """Fill ``target`` with the kernel tree, without the directory an archive has around it."""
    if source.path.is_dir():
        tools.say(f"copying {source.path}")
        command = ["cp", "-a", "--reflink=auto", f"{source.path}/.", target]
        tools.run(command, what="copying the kernel sources")
        return
    tools.say(f"unpacking {source.path.name}")
    if source.path.suffix == ".xz":
        tools.tool("xz")
    command = ["tar", "-xf", source.path, "-C", target, "--strip-components=1", "--no-same-owner"]
    tools.run(command, what=f"unpacking {source.path}")
    source_version(target)


def patched(tree: Path, patches: Sequence[Patch], target: Path) -> Path:
    """Return a tree with the patches applied: ``tree`` itself if there are none, else made at
    ``target``.

    The copy is made of hard links, which takes a second or two; patch writes changed files anew and
    so leaves the originals alone.
    """
    if not patches:
        return tree
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    tools.run(["cp", "-al", tree, target], what="copying the kernel sources")
    path = target.with_name(f"{target.name}.patch")
    for patch in patches:
        tools.say(f"applying {patch.name}")
        path.write_bytes(patch.text)
        command = [
            "patch",
            "-p1",
            "--forward",
            "--batch",
            "--fuzz=0",
            "--no-backup-if-mismatch",
            "-i",
            path,
        ]
        tools.run(command, cwd=target, what=f"patch {patch.name} does not apply")
    path.unlink()
    return target
