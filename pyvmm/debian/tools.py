# SPDX-License-Identifier: Apache-2.0
"""Tools that all steps of a guest build share: external programs, locks, and putting results into the
cache at once.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from pyvmm.cachefolder import cache_root
from pyvmm.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

#: Between lines of what takes long, where no terminal shows it moving.
QUIET_SECONDS = 30
LOCK_POLL = 0.2
# Debian keeps depmod out of an ordinary user's path.
SYSTEM_PATH = ("/usr/sbin", "/sbin")
PACKAGE_OF = {
    "apt-cache": "apt",
    "apt-get": "apt",
    "bc": "bc",
    "bison": "bison",
    "depmod": "kmod",
    "dpkg-deb": "dpkg",
    "flex": "flex",
    "gcc": "gcc",
    "lz4": "lz4",
    "make": "make",
    "mke2fs": "e2fsprogs",
    "patch": "patch",
    "readelf": "binutils",
    "strip": "binutils",
    "tar": "tar",
    "xz": "xz-utils",
    "zstd": "zstd",
}


def found(name: str) -> str | None:
    """Return the path of an external program; None if this machine does not have it."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *SYSTEM_PATH])
    return shutil.which(name, path=path)


def tool(name: str) -> str:
    """Return the path of an external program.

    Raise HostError naming the Debian package that has it.
    """
    path = found(name)
    if path is None:
        package = PACKAGE_OF.get(name, name)
        raise HostError(f"the program '{name}' is missing: install the Debian package '{package}'")
    return path


def run(
    command: Sequence[object],
    *,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    what: str,
) -> str:
    """Run a short command, its words given as text or paths, and return its standard output.

    Raise HostError with ``what`` and the end of what the command printed when it fails.
    """
    argv = [tool(str(command[0])), *map(str, command[1:])]
    surroundings = {**os.environ, "LC_ALL": "C", **(env or {})}
    done = subprocess.run(
        argv,
        cwd=cwd,
        env=surroundings,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        said = (done.stderr + done.stdout).strip().splitlines()[-15:]
        detail = "\n  ".join(said) or "it printed nothing"
        raise HostError(f"{what}: '{' '.join(argv)}' ended with {done.returncode}:\n  {detail}")
    return done.stdout


def say(message: str) -> None:
    """Print one line about progress, to standard error."""
    print(f"pyvmm guest: {message}", file=sys.stderr, flush=True)


@contextmanager
def lock(name: str) -> Iterator[None]:
    """Hold ``<cache>/<name>.lock``, so that two builders do not do the same work; waits, and says
    so.
    """
    root = Path(cache_root())
    try:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        file = open(root / f"{name}.lock", "a", encoding="utf-8")  # noqa: SIM115
    except OSError as error:
        raise HostError(
            f"cannot write to the cache {root}: {error.strerror}; "
            "set PYVMM_CACHE to a directory that you can write"
        ) from error
    with file:
        if not locked(file):
            say(f"another process is at work on {name}, waiting for it")
            wait_for_lock(file, name)
        yield


def locked(file: IO[str]) -> bool:
    """Return whether the lock could be taken."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def wait_for_lock(file: IO[str], name: str) -> None:
    """Take it when it is free.

    Says now and then that it waits: who watches a build may take silence for a hang.
    """
    started = said = time.monotonic()
    while not locked(file):
        time.sleep(LOCK_POLL)
        now = time.monotonic()
        if now - said >= QUIET_SECONDS:
            said = now
            say(f"waiting for {name}, {now - started:.0f} s")


def publish(final: Path, fill: Callable[[Path], None]) -> None:
    """Make directory ``final`` all at once: ``fill`` writes into a neighbour, which then takes the
    name.

    Call it with the lock held. What was there before is replaced; on failure nothing of the attempt
    is left.
    """
    fresh = final.with_name(f"{final.name}.new.{os.getpid()}")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        fill(fresh)
        if final.exists():
            old = final.with_name(f"{final.name}.old.{os.getpid()}")
            final.rename(old)
            fresh.rename(final)
            shutil.rmtree(old, ignore_errors=True)
        else:
            fresh.rename(final)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def write_whole(path: Path, text: str) -> None:
    """Replace a small file in one step."""
    fresh = path.with_name(f"{path.name}.new.{os.getpid()}")
    fresh.write_text(text, encoding="utf-8")
    fresh.rename(path)
