# SPDX-License-Identifier: Apache-2.0
"""Kernel configuration: fragments put together, turned into a .config, and checked to have taken
effect.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from pyvmm.debian import tools
from pyvmm.errors import ConfigError
from pyvmm.guest import cache

if TYPE_CHECKING:
    from collections.abc import Mapping

ASSIGNMENT = re.compile(r"(CONFIG_[A-Za-z0-9_]+)=(.+)")
UNSET = re.compile(r"# (CONFIG_[A-Za-z0-9_]+) is not set")
# The fastest to decompress comes first; the compressor has to be on the build machine.
#: Of a configuration, letters; a whole one of Debian's has a fourth of them.
LARGEST = 1 << 20
COMPRESSION = (
    ("lz4", "CONFIG_KERNEL_LZ4"),
    ("zstd", "CONFIG_KERNEL_ZSTD"),
    ("gzip", "CONFIG_KERNEL_GZIP"),
)


def fragment(linux: str, extra: str | os.PathLike[str] | None = None) -> str:
    """Return what the kernel of the guest ``linux`` is to have: the tree's fragments, the
    compression, and the caller's own file, whose word is the last.

    Raise ConfigError for a version without a configuration and for files that are none.
    """
    tree = Path(cache.patch_tree())
    files = [tree / name for name in cache.config_files(linux)]
    if not files[1].is_file():
        raise ConfigError(missing_version(tree, linux))
    texts = [read_fragment(path) for path in files] + [f"{compression()}=y\n"]
    if extra is not None:
        texts.append(read_fragment(Path(extra)))
    return "\n".join(texts)


def read_fragment(path: Path) -> str:
    """Return the text of a file of options. Raise ConfigError, which names the line, for what is
    none.
    """
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(LARGEST + 1)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the kernel configuration {path}: {error}") from error
    if len(text) > LARGEST:
        raise ConfigError(f"{path} is no kernel configuration: it has more than {LARGEST} letters")
    parse(text, str(path))
    return text


def missing_version(tree: Path, linux: str) -> str:
    """Return the message for a kernel version that this tree has no configuration for."""
    if not (tree / "config").is_dir():
        return (
            f"no kernel configurations in {tree}: build guests from a source checkout, "
            "or point PYVMM_GUEST_PATCH at its guest-linux-patch directory"
        )
    known = cache.versions(str(tree))
    return (
        f"no configuration for Linux {linux}; there is one for {', '.join(known)}, "
        f"each also with {' or '.join(cache.VARIANTS)} after it"
    )


def compression() -> str:
    """Return the option for the fastest decompression that this machine can make."""
    for program, option in COMPRESSION:
        try:
            tools.tool(program)
        except OSError:
            continue
        return option
    return COMPRESSION[-1][1]


def parse(text: str, name: str) -> dict[str, str]:
    """Read the options and values of a fragment; 'n' for one that is to be off. The last mention of
    an option counts.

    Raise ConfigError with the line for anything that is neither.
    """
    wanted = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if match := ASSIGNMENT.fullmatch(line):
            wanted[match[1]] = match[2]
        elif match := UNSET.fullmatch(line):
            wanted[match[1]] = "n"
        elif line and not line.startswith("#"):
            raise ConfigError(f"{name}, line {number} is not a kernel option: {line!r}")
    return wanted


def dropped(wanted: Mapping[str, str], config: str) -> list[str]:
    """Return the options that did not come out as wanted, each with what it became."""
    real = {match[1]: match[2] for match in map(ASSIGNMENT.fullmatch, config.splitlines()) if match}
    return [
        f"{option}={value} (is {real.get(option, 'n')})"
        for option, value in wanted.items()
        if real.get(option, "n") != value
    ]


def configure(tree: Path, build: Path, text: str, env: Mapping[str, str]) -> None:
    """Write ``build/.config`` for the kernel in ``tree``.

    Everything that the fragment does not ask for is off. Raise ConfigError naming the options that
    the kernel's own rules dropped: one they depend on is missing, or this version has no such
    option.
    """
    wanted = parse(text, "the kernel configuration")
    build.mkdir(parents=True, exist_ok=True)
    chosen = build / "wanted.config"
    chosen.write_text("".join(as_line(*item) for item in wanted.items()), encoding="utf-8")
    make: list[object] = ["make", "-C", tree, f"O={build}", "-s", f"KCONFIG_ALLCONFIG={chosen}"]
    tools.run([*make, "allnoconfig"], env=env, what="configuring the kernel")
    tools.run([*make, "olddefconfig"], env=env, what="configuring the kernel")
    lost = dropped(wanted, (build / ".config").read_text(encoding="utf-8"))
    if lost:
        raise ConfigError(
            "the kernel's configuration did not accept these options (a dependency is missing, "
            "or this version does not have them): " + ", ".join(lost)
        )


def as_line(option: str, value: str) -> str:
    """Return the option's line of a .config, with its newline."""
    return f"# {option} is not set\n" if value == "n" else f"{option}={value}\n"
