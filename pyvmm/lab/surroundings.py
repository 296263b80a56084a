# SPDX-License-Identifier: Apache-2.0
"""The surroundings of a command in the lab: writable folders, visible folders, environment."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from pyvmm.cachefolder import cache_root
from pyvmm.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

PASSED = frozenset(
    [
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TZ"),
        *("TERM", "COLORTERM", "NO_COLOR", "CI"),
        *("VIRTUAL_ENV", "PYTHONPATH", "XDG_CACHE_HOME"),
    ]
)
PASSED_PREFIXES = ("PYVMM_", "LC_")
HIDDEN = ("/tmp", "/run", "/dev", "/proc", "/sys")  # the lab has its own
OVERLAYS_OWN = ",:\\"  # in the options of its mount
MARKERS = (".git", "pyproject.toml", "setup.py")
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def environment(
    given: Mapping[str, str],
    extra: Mapping[str, str] | None,
    *,
    npt: bool,
    icount: bool = False,
    arch: str = "svm",
    threads: str = "single",
) -> dict[str, str]:
    """Return the command's environment: the part of ``given`` that means something in the lab, and
    ``extra``.
    """
    kept = {
        name: value
        for name, value in given.items()
        if name in PASSED or name.startswith(PASSED_PREFIXES)
    }
    kept.setdefault("PATH", DEFAULT_PATH)
    kept["PYVMM_LAB"] = arch + "-shadow" * (not npt) + "-icount" * icount
    kept["PYVMM_LAB_THREADS"] = threads  # what the emulator has, whatever was asked for
    return {**kept, **(extra or {})}


def project_folder(folder: str) -> str:
    """Return the nearest folder from ``folder`` upwards that looks like the top of a project, else
    ``folder``.
    """
    at = folder
    while at != "/":
        if any(os.path.exists(os.path.join(at, marker)) for marker in MARKERS):
            return at
        at = os.path.dirname(at)
    return folder


def within(path: str, folder: str) -> bool:
    """Return whether ``path`` is ``folder`` or below it."""
    return folder == "/" or path == folder or path.startswith(folder + "/")


def writable_folders(folder: str, extra: Iterable[str]) -> list[str]:
    """Return the directories that the lab shares writable: the project's of ``folder``, and
    ``extra``.

    Outer ones first, none twice. Raise ConfigError for one that is no directory, or is the root.
    """
    wanted = []
    for path in extra:
        real = os.path.realpath(path)
        if not os.path.isdir(real):
            raise ConfigError(f"cannot share '{path}' with the lab: it is not a directory")
        if real == "/" or any(within(real, system) for system in ("/dev", "/proc", "/sys")):
            raise ConfigError(f"cannot share '{path}' with the lab: share a directory below it")
        wanted.append(real)
    project = project_folder(folder)
    if not any(within(project, system) for system in ("/dev", "/proc", "/sys")) and project != "/":
        wanted.append(project)
    chosen: list[str] = []
    for path in sorted(set(wanted)):
        if not any(within(path, outer) for outer in chosen):
            chosen.append(path)
    return chosen


def uncovered_folders(shares: Sequence[str]) -> list[str]:
    """Return the directories that are needed in the lab but lie where it has its own: the guests,
    this Python, pyvmm.

    Outer ones first, none within another. Raise ConfigError for one whose name cannot be mounted.
    """
    chosen: list[str] = []
    for root in sorted({os.path.realpath(path) for path in needed_folders()}):
        hidden = any(within(root, place) and root != place for place in HIDDEN)
        shown = any(within(root, other) for other in (*shares, *chosen))
        if not hidden or shown or not os.path.isdir(root):
            continue
        if set(root) & set(OVERLAYS_OWN):
            raise ConfigError(
                f"the lab cannot show {root!r}: there is a comma, a colon or a backslash in it; "
                "move it, or rename it"
            )
        chosen.append(root)
    return chosen


def needed_folders() -> list[str]:
    """List the folders of this machine that `pyvmm` in the lab reads, wherever they are."""
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    return [cache_root(), sys.prefix, sys.base_prefix, package]
