# SPDX-License-Identifier: Apache-2.0
"""The QEMU that emulates the outer machine: which one it is, and how it comes here."""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from pathlib import Path

from pyvmm.errors import HostError
from pyvmm.guest import backports, cache, tools
from pyvmm.lab.errors import LabError

NAME = "qemu-system-x86_64"
#: Before it TCG read code without the lock of its page, and missed what another CPU wrote there meanwhile.
MINIMUM = (8, 1)
PACKAGES = ("qemu-system-x86", "qemu-system-data", "seabios")
KEPT = (f"usr/bin/{NAME}", "usr/share/qemu", "usr/share/seabios")
PLACE = "lab/qemu"  # in the cache: PLACE-<version> is one that was fetched
TRY_AGAIN = 24 * 3600  # seconds before the network is asked once more


def find() -> str:
    """The path of the QEMU to use.

    That is ``$PYVMM_QEMU``; else the path's, if it is new enough; else one from Debian's backports, in the cache;
    else the path's all the same, with a warning. Raises LabError naming what to install.
    """
    chosen = os.environ.get("PYVMM_QEMU")
    found = shutil.which(chosen or NAME)
    if chosen:
        if found is None:
            raise LabError(f"PYVMM_QEMU is '{chosen}', which is not a program that can be run")
        return found
    if found is None:
        raise LabError(f"{NAME} is missing: install the Debian package '{PACKAGES[0]}'")
    if is_good(found):
        return found
    try:
        return from_backports()
    except HostError as error:
        reason = str(error).splitlines()[0]
    print(f"pyvmm lab: {warning(found, reason)}", file=sys.stderr, flush=True)
    return found


def warning(found: str, reason: str) -> str:
    """What is said where only an old QEMU can be had."""
    least = ".".join(map(str, MINIMUM))
    return (
        f"{found} is older than {least}, with which two CPUs now and then run code that is gone; set PYVMM_QEMU to a "
        f"newer one, or see docs/lab.md (none from Debian's backports: {reason})"
    )


def version(path: str) -> tuple[int, int]:
    """Major and minor version of a QEMU.

    Raises HostError if it does not run, or says something else.
    """
    match = re.search(r"version (\d+)\.(\d+)", tools.run([path, "--version"], what="asking QEMU"))
    if match is None:
        raise HostError(f"'{path} --version' names no version")
    return int(match[1]), int(match[2])


def is_good(path: str) -> bool:
    """Whether a QEMU runs here and is new enough."""
    try:
        return version(path) >= MINIMUM
    except HostError:
        return False


def from_backports() -> str:
    """The QEMU of Debian's backports, from the cache or fetched now.

    It uses the libraries that the installed one needs too. Raises HostError if it cannot be had; that is remembered,
    and said again without a look at the network until ``TRY_AGAIN`` has passed.
    """
    root = Path(cache.cache_root())
    failed = root / f"{PLACE}.failed"
    with tools.lock(PLACE):
        for tree in sorted(root.glob(f"{PLACE}-*/usr")):
            if is_good(str(tree.parent / KEPT[0])):
                return str(tree.parent / KEPT[0])
        if failed.exists() and abs(time.time() - failed.stat().st_mtime) < TRY_AGAIN:
            raise HostError(failed.read_text(encoding="utf-8").strip())
        try:
            path = fetched()
        except HostError as error:
            tools.write_whole(failed, f"{error}\n")
            raise
        failed.unlink(missing_ok=True)
        return path


def fetched() -> str:
    """Fetches it."""
    path = str(backports.unpacked(PACKAGES, keep=KEPT, into=PLACE) / KEPT[0])
    newest = version(path)
    if newest < MINIMUM:
        raise HostError(f"Debian's backports have QEMU {newest[0]}.{newest[1]}")
    return path
