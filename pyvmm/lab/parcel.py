# SPDX-License-Identifier: Apache-2.0
"""The files of this machine that go along into a lab which cannot see them: an initramfs with a
small copy of the tree.

Bochs has no shared folder, so everything that a command may want is packed before: this Python with
its library and the packages that pyvmm and its tests depend on, the project, the current guests of
the cache, programs that scripts use, and what the caller names; and of all these the shared
libraries.
"""

from __future__ import annotations

import fnmatch
import importlib.metadata
import importlib.util
import marshal
import os
import re
import shutil
import stat
import struct
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pyvmm.cachefolder import cache_root
from pyvmm.debian import tools
from pyvmm.errors import ConfigError
from pyvmm.guest import cache, cpio, initramfs, inventory
from pyvmm.lab import surroundings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PLACE = "root"  # in the initramfs; the first process makes it the root
LARGEST = 512 << 20  # bytes; all of it is in the lab's memory
DIRECTORIES = ("dev", "proc", "sys", "tmp", "run", "etc", "usr/bin", "bin", "sbin", "usr/sbin")
#: The host's own, where it has them; busybox stands in for the rest.
PROGRAMS = (
    *("sh", "bash", "env", "timeout", "setsid", "true", "false", "cat", "ls", "stty", "sleep"),
    *("as", "ld", "nm", "objcopy", "ip", "setpriv"),
)
ETC = ("passwd", "group", "nsswitch.conf", "ld.so.cache", "localtime", "os-release")
#: Distributions that come with all that they require.
DISTRIBUTIONS = ("pyvmm-kvm", "pytest", "hypothesis", "psutil")
#: Directories that hold nothing a command wants.
LEFT_OUT = (
    *("__pycache__", ".git", ".venv", "venv", "node_modules", ".mypy_cache", ".ruff_cache"),
    *(".pytest_cache", ".hypothesis"),
)
#: And those of Python's library, and extension modules that pull in what nothing here uses.
NOT_OF_LIBRARY = (
    *LEFT_OUT,
    *("site-packages", "dist-packages", "test", "idlelib", "tkinter", "ensurepip", "lib2to3"),
    *("turtledemo", "config-*", "_tkinter.*", "nis.*", "_test*", "_ctypes_test.*", "xx*", "_xx*"),
)
PYC_HEAD = struct.Struct("<4sI8s")  # magic, flags, hash of the source (PEP 552)
UNCHECKED = 1  # in the flags: the hash is there and is not compared
GUESTS = (cache.DEFAULT_LINUX,)
LARGE_ELF = 8 << 20  # bytes; above it debugging information is worth looking for


class Parcel:
    """Collects files under the names that they have here; `finish` returns the archive."""

    def __init__(self) -> None:
        self._archive = cpio.Archive()
        self._archive.directory(PLACE)
        self._programs: list[str] = []
        self._size = 0
        for name in DIRECTORIES:
            self.folder(f"/{name}")

    def __contains__(self, path: str) -> bool:
        return f"{PLACE}{path}" in self._archive

    def take(self, path: str | os.PathLike[str], without: Iterable[str] = LEFT_OUT) -> None:
        """Pack a file, or a directory with what is below it; links on the way there come too, and
        are followed.

        ``without`` are patterns of names below the directory that are left out.
        """
        real = self._arrive(os.path.abspath(path))
        if os.path.isdir(real):
            unwanted = re.compile("|".join(map(fnmatch.translate, without)))
            for folder, folders, files in os.walk(real):
                folders[:] = sorted(name for name in folders if not unwanted.match(name))
                for name in sorted([*files, *folders]):
                    if not unwanted.match(name):
                        self._enter(os.path.join(folder, name))
        elif os.path.lexists(real):
            self._enter(real)

    def folder(self, path: str) -> None:
        """Make sure of a directory, and of those above it."""
        self._enter_folder(self._arrive(os.path.abspath(path)))

    def put(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Pack a file that this machine does not have there."""
        real = self._place(path)
        if real not in self:
            self._archive.file(f"{PLACE}{real}", data, mode)

    def link(self, path: str, target: str) -> None:
        """Pack a symbolic link, unless something is there."""
        real = self._place(path)
        if real not in self:
            self._archive.symlink(f"{PLACE}{real}", target)

    def libraries(self) -> None:
        """Pack the shared libraries that the programs and libraries in here are linked with."""
        done: set[str] = set()
        while todo := [path for path in self._programs if path not in done]:
            done.update(todo)
            for library in linked(todo):
                if os.path.realpath(library) not in done:
                    self.take(library)

    def finish(self) -> bytes:
        """Return the archive. Raise ConfigError if it is too large for a lab."""
        if self._size > LARGEST:
            raise ConfigError(
                f"{self._size >> 20} MiB of files would go into the lab's memory, more than {LARGEST >> 20} MiB: "
                "start it from a smaller project folder, or pack less"
            )
        return self._archive.finish()

    def _arrive(self, path: str) -> str:
        """Pack the links on the way to ``path``, and the directories; return where it really is."""
        at = "/"
        parts = [part for part in path.split("/") if part]
        while parts:
            here = os.path.join(at, parts.pop(0))
            if os.path.islink(here):
                target = os.readlink(here)
                if here not in self:
                    self._enter_folder(at)
                    self._archive.symlink(f"{PLACE}{here}", target)
                parts = [part for part in target.split("/") if part] + parts
                at = "/" if target.startswith("/") else at
                continue
            at = os.path.normpath(here)
            if parts:
                self._enter_folder(at)
        return at

    def _place(self, path: str) -> str:
        """Return where something new would really be; its directory is packed."""
        folder = self._arrive(os.path.dirname(path))
        self._enter_folder(folder)
        return os.path.join(folder, os.path.basename(path))

    def _enter_folder(self, path: str) -> None:
        if path != "/" and path not in self:
            self._archive.parents(f"{PLACE}{path}")
            self._archive.directory(f"{PLACE}{path}")

    def _enter(self, path: str) -> None:
        """Pack one thing that is no link on its way."""
        status = os.lstat(path)
        if path in self:
            return
        self._archive.parents(f"{PLACE}{path}")
        if stat.S_ISLNK(status.st_mode):
            self._archive.symlink(f"{PLACE}{path}", os.readlink(path))
            self.take(os.path.join(os.path.dirname(path), os.readlink(path)))
        elif stat.S_ISDIR(status.st_mode):
            self._archive.directory(f"{PLACE}{path}", status.st_mode)
        elif stat.S_ISREG(status.st_mode):
            self._enter_file(path, status)

    def _enter_file(self, path: str, status: os.stat_result) -> None:
        if path.endswith(".pyc"):
            return
        data = Path(path).read_bytes()
        if path.endswith(".py"):
            self._enter_compiled(path, data, status)
        if data.startswith(b"\x7fELF"):
            self._programs.append(path)
            if len(data) > LARGE_ELF:
                data = without_debugging(path)
        self._size += len(data)
        self._archive.file(f"{PLACE}{path}", data, status.st_mode)

    def _enter_compiled(self, path: str, source: bytes, status: os.stat_result) -> None:
        """Pack what Python makes of a module: an emulated CPU takes seconds for what is done here
        at once.
        """
        name = importlib.util.cache_from_source(path)
        data = compiled(path, source, name, status)
        if data:
            self._archive.parents(f"{PLACE}{name}")
            self._archive.file(f"{PLACE}{name}", data)


def compiled(path: str, source: bytes, name: str, status: os.stat_result) -> bytes:
    """Return the compiled form of a module, marked as good whatever the time of the source; empty
    if there is none.

    Files of an initramfs have the time of the boot. What Python keeps is taken where it is up to
    date.
    """
    magic = importlib.util.MAGIC_NUMBER
    times = (int(status.st_mtime) & 0xFFFFFFFF, len(source) & 0xFFFFFFFF)
    head = PYC_HEAD.pack(magic, UNCHECKED, importlib.util.source_hash(source))
    try:
        data = Path(name).read_bytes()
    except OSError:
        data = b""
    if data.startswith(magic + struct.pack("<III", 0, *times)):
        return head + data[PYC_HEAD.size :]
    try:
        code = compile(source, path, "exec", dont_inherit=True, optimize=0)
    except (SyntaxError, ValueError):
        return b""
    return head + marshal.dumps(code)


def without_debugging(path: str) -> bytes:
    """Return a program or library without debugging information."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "stripped"
        command = ["strip", "--strip-debug", "-o", target, path]
        tools.run(command, what=f"making {os.path.basename(path)} smaller")
        return target.read_bytes()


def linked(programs: list[str]) -> set[str]:
    """Return the libraries of programs, and of those theirs, as the loader would find them."""
    said = subprocess.run(
        [tools.tool("ldd"), *programs], capture_output=True, text=True, check=False
    ).stdout
    return set(re.findall(r"^\t(?:\S+ => )?(/\S+) \(0x", said, re.MULTILINE))


def parcel(folder: str, extra: Iterable[str]) -> bytes:
    """Return the archive for commands in ``folder``, and for what else is named.

    Raise ConfigError for something named that is not there.
    """
    made = Parcel()
    take_python(made)
    take_project(made, folder)
    take_cache(made)
    for path in extra:
        if not os.path.exists(path):
            raise ConfigError(f"cannot pack '{path}' for the lab: there is no such file")
        made.take(path)
    take_programs(made)
    for name in ETC:
        if os.path.exists(f"/etc/{name}"):
            made.take(f"/etc/{name}")
    made.libraries()
    return made.finish()


def take_python(made: Parcel) -> None:
    """Take this interpreter, its library, and the distributions that are needed."""
    names = (f"python{sys.version_info[0]}.{sys.version_info[1]}", "python3", "python", "pytest")
    for prefix in {sys.prefix, sys.base_prefix}:
        for name in (*(f"bin/{program}" for program in names), "pyvenv.cfg"):
            if os.path.exists(os.path.join(prefix, name)):
                made.take(os.path.join(prefix, name))
    made.take(sys.executable)
    for kind in ("stdlib", "platstdlib"):
        library = sysconfig.get_path(kind, vars={"platbase": sys.base_prefix})
        made.take(library, NOT_OF_LIBRARY)
    made.take(Path(__file__).parents[1])  # this package, which need not be in the project
    for path in distribution_files(DISTRIBUTIONS):
        made.take(path)


def distribution_files(names: Iterable[str]) -> Iterator[str]:
    """Yield the files of installed distributions and of what they require, but not of folders that
    .pth files name.
    """
    todo, seen = list(names), set()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            one = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        for requirement in one.requires or ():
            if "extra ==" not in requirement:
                todo.append(re.split(r"[^\w.-]", requirement, maxsplit=1)[0])
        for file in one.files or ():
            path = str(one.locate_file(file))
            if os.path.isfile(path):
                yield path


def take_project(made: Parcel, folder: str) -> None:
    """Take the project that ``folder`` belongs to; of another folder nothing but the folder itself."""
    project = surroundings.project_folder(folder)
    marked = any(os.path.exists(os.path.join(project, marker)) for marker in surroundings.MARKERS)
    made.folder(folder)
    if marked and project != "/":
        made.take(project)


def take_cache(made: Parcel) -> None:
    """Take the current guests and the programs that run in guests."""
    root = Path(cache_root())
    for linux in GUESTS:
        for path in inventory.guest_files(linux):
            made.take(path)
    for name in ("program", "tests"):
        if (root / name).is_dir():
            made.take(root / name)


def take_programs(made: Parcel) -> None:
    """Take programs of this machine that scripts use, and busybox for all others."""
    for name in PROGRAMS:
        found = shutil.which(name)
        if found is not None:
            made.take(found)
    busybox = initramfs.find_busybox()
    made.put("/bin/busybox", busybox.read_bytes(), 0o755)
    for link in initramfs.applets(busybox):
        made.link(f"/{link}", "/bin/busybox")
