# SPDX-License-Identifier: Apache-2.0
"""The modules of a kernel: their order, by what depmod wrote about them, and their bytes."""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from pyvmm.debian import tools
from pyvmm.errors import HostError, ImageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


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
