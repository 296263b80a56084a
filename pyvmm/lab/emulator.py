# SPDX-License-Identifier: Apache-2.0
"""The QEMU that emulates the outer machine: which one it is, and how it comes here."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import time
from pathlib import Path
from typing import NamedTuple

from pyvmm.cachefolder import cache_root
from pyvmm.debian import packages, suites, tools
from pyvmm.errors import HostError
from pyvmm.lab import correction
from pyvmm.lab.errors import LabError

NAME = "qemu-system-x86_64"
#: Before it TCG with a thread for each CPU read code without the lock of its page, and missed more of what another CPU
#: wrote there meanwhile.
MINIMUM = (8, 1)
#: Since then reads of control registers are mistaken for each other (correction.py).
BAD_READS = (9, 1)
NO_READS = (
    "{} cannot be corrected for shadow paging, with which Linux guests stand still in it: "
    "set PYVMM_QEMU to one before 9.1, or see docs/lab.md"
)
PACKAGES = ("qemu-system-x86", "qemu-system-data", "seabios")
KEPT = (f"usr/bin/{NAME}", "usr/share/qemu", "usr/share/seabios")
FORM = 1  # raise it when a corrected copy is made in another way
PLACE = "lab/qemu"  # in the cache: PLACE-<version> is one that was fetched
TRY_AGAIN = 24 * 3600  # seconds before the network is asked once more


class Emulator(NamedTuple):
    """A QEMU, and whether all its CPUs may share one thread, on which they cannot miss each other's
    writes to code.
    """

    path: str
    one_thread: bool


def find(*, shadow: bool = False) -> Emulator:
    """Return the QEMU to use; with ``shadow`` for a KVM that shadows its guests' page tables.

    That is ``$PYVMM_QEMU``, as it is; else the path's, if it is new enough; else one from Debian's
    backports, in the cache; else the path's all the same, with a warning. Of a new one a corrected
    copy is made, where that is possible, unless ``$PYVMM_LAB_THREADS`` is "multi". Raise LabError
    naming what to install.
    """
    chosen = os.environ.get("PYVMM_QEMU")
    found = shutil.which(chosen or NAME)
    if chosen:
        if found is None:
            raise LabError(f"PYVMM_QEMU is '{chosen}', which is not a program that can be run")
        return Emulator(found, one_thread=False)
    if found is None:
        raise LabError(f"{NAME} is missing: install the Debian package '{PACKAGES[0]}'")
    try:
        path = found if is_good(found) else from_backports()
        if os.environ.get("PYVMM_LAB_THREADS") == "multi":
            return Emulator(path, one_thread=False)
        return corrected(path, shadow=shadow)
    except HostError as error:
        reason = str(error).splitlines()[0]
    print(f"pyvmm lab: {warning(found, reason)}", file=sys.stderr, flush=True)
    return Emulator(found, one_thread=False)


def corrected(path: str, *, shadow: bool = False) -> Emulator:
    """Return the copy of a QEMU without the faults that correction.py tells of; itself where it has
    no such code.
    """
    real = os.path.realpath(path)
    status = os.stat(real)
    key = f"{FORM} {real} {status.st_size} {status.st_mtime_ns}" + " shadow" * shadow
    name = f"lab/corrected-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    folder = Path(cache_root()) / name
    if not folder.is_dir():
        with tools.lock("lab/corrected"):
            if not folder.is_dir():
                tools.publish(folder, lambda fresh: correct(Path(real), fresh, shadow))
    copy = folder / KEPT[0]
    if copy.exists():
        return Emulator(str(copy), one_thread=True)
    if not shadow:
        return Emulator(path, one_thread=False)
    if version(path) >= BAD_READS:
        print(f"pyvmm lab: {NO_READS.format(path)}", file=sys.stderr, flush=True)
    return corrected(path)


def correct(real: Path, folder: Path, shadow: bool) -> None:
    """Put the copy into ``folder``, with what QEMU looks for beside it; nothing where it cannot be
    corrected.
    """
    program = correction.corrected(real.read_bytes())
    if program is not None and shadow:
        program = correction.with_intercepted_reads(program)
    if program is None:
        return
    copy = folder / KEPT[0]
    copy.parent.mkdir(parents=True)
    copy.write_bytes(program)
    copy.chmod(0o755)
    for name in ("share", "lib"):
        (folder / "usr" / name).symlink_to(real.parents[1] / name)


def warning(found: str, reason: str) -> str:
    """Return the warning for a machine where only an old QEMU can be had."""
    least = ".".join(map(str, MINIMUM))
    return (
        f"{found} is older than {least}: with it Linux dies or hangs now and then; set PYVMM_QEMU to a newer one, "
        f"or see docs/lab.md (none from Debian's backports: {reason})"
    )


def version(path: str) -> tuple[int, int]:
    """Ask a QEMU for its version, major and minor.

    Raise HostError if it does not run, or says something else.
    """
    match = re.search(r"version (\d+)\.(\d+)", tools.run([path, "--version"], what="asking QEMU"))
    if match is None:
        raise HostError(f"'{path} --version' names no version")
    return int(match[1]), int(match[2])


def is_good(path: str) -> bool:
    """Return whether a QEMU runs here and is new enough."""
    try:
        return version(path) >= MINIMUM
    except (HostError, OSError):
        return False


def from_backports() -> str:
    """Return the QEMU of Debian's backports, from the cache or fetched now.

    It uses the libraries that the installed one needs too. Raise HostError if it cannot be had;
    that is remembered, and said again without a look at the network until ``TRY_AGAIN`` has passed.
    """
    root = Path(cache_root())
    failed = root / f"{PLACE}.failed"
    if (path := kept()) is not None:
        return path
    with tools.lock(PLACE):
        if (path := kept()) is not None:
            return path
        if failed.exists() and abs(time.time() - failed.stat().st_mtime) < TRY_AGAIN:
            raise HostError(failed.read_text(encoding="utf-8").strip())
        try:
            path = fetched()
        except HostError as error:
            tools.write_whole(failed, f"{error}\n")
            raise
        failed.unlink(missing_ok=True)
        return path


def kept() -> str | None:
    """Return the path of a QEMU that was fetched before and runs; None if the cache has none."""
    for tree in sorted(Path(cache_root()).glob(f"{PLACE}-*")):
        path = str(tree / KEPT[0])
        if is_good(path):
            return path
    return None


def fetched() -> str:
    """Fetch it."""
    found = packages.find_in(suites.backports(), PACKAGES)
    path = str(packages.unpacked_together(found, keep=KEPT, into=PLACE) / KEPT[0])
    newest = version(path)
    if newest < MINIMUM:
        raise HostError(f"Debian's backports have QEMU {newest[0]}.{newest[1]}")
    return path
