# SPDX-License-Identifier: Apache-2.0
"""The folder for what pyvmm fetches and builds."""

from __future__ import annotations

import errno
import os

from pyvmm.errors import ConfigError, HostError

#: Of letters: the kernel's Makefile refuses a colon, and the shells of its rules the others.
MAKES_OWN = ":#%$\\'\"*?[]()&;|<>`"


def cache_root() -> str:
    """Return ``$PYVMM_CACHE``, else ``$XDG_CACHE_HOME/pyvmm``, else ``~/.cache/pyvmm``; it may not
    exist yet.

    Raise HostError where it cannot be read, which is not the same as a cache that has nothing.
    """
    root = named_root()
    refuse_unreadable(root)
    return root


def named_root() -> str:
    """Return what `cache_root` returns, whatever is there."""
    chosen = os.environ.get("PYVMM_CACHE")
    if chosen:
        return folder_of("PYVMM_CACHE", chosen)
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # of one that is relative nothing is to be made (XDG specification)
        base = folder_of("the cache", "~/.cache")
    return os.path.join(os.path.normpath(base), "pyvmm")


def refuse_unreadable(root: str) -> None:
    """Raise HostError for a cache that is there and is no folder, or one that may not be read."""
    try:
        os.stat(os.path.join(root, "."))
        reason = "" if os.access(root, os.R_OK | os.X_OK) else os.strerror(errno.EACCES)
    except FileNotFoundError:
        return  # made once there is something to keep
    except OSError as error:
        reason = error.strerror or str(error)
    if reason:
        raise HostError(
            f"cannot read the cache {root}: {reason}; "
            "set PYVMM_CACHE to a directory that you can read and write"
        )


def folder_of(what: str, path: str) -> str:
    """Return an absolute path.

    Raise HostError where it begins with a home folder and there is none.
    """
    found = os.path.expanduser(path)
    if found.startswith("~"):
        whose = f"user {os.geteuid()} has no home (neither HOME nor an entry in passwd)"
        if not path.startswith("~/"):
            whose = "there is no user of that name"
        raise HostError(
            f"{what} is {path}, and {whose}; set PYVMM_CACHE to a folder for what pyvmm fetches and builds"
        )
    return os.path.abspath(found)


def refuse_for_make() -> None:
    """Raise ConfigError for a cache in which nothing can be compiled: the kernel's makefiles
    cannot.
    """
    root = cache_root()
    bad = [letter for letter in root if letter.isspace() or letter in MAKES_OWN]
    if bad:
        raise ConfigError(
            f"nothing can be compiled in {root!r}: make takes {bad[0]!r} in a folder's name for something else; "
            "set PYVMM_CACHE to another folder"
        )
