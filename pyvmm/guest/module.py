# SPDX-License-Identifier: Apache-2.0
"""The guest driver as a module for Debian's own kernel, built from its files into the cache."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from pyvmm.cachefolder import cache_root, refuse_for_make
from pyvmm.debian import tools
from pyvmm.errors import HostError
from pyvmm.guest import cache, headers
from pyvmm.guest.kernel import FOREIGN

if TYPE_CHECKING:
    from pyvmm.debian.kernels import KernelFiles

# Part of every key: raise it when a change here makes another module from the same inputs.
RECIPE = 2
NAME = "symbiotic.ko"
PROGRAMS = ("make", "strip")
TAIL = 40


def build(kernel: KernelFiles, linux: str, *, force: bool = False) -> str:
    """Return the path of the module for a kernel of version ``linux``; built unless the cache has
    it.

    Raise HostError if the machine lacks something, a file of the driver included, or the build
    fails.
    """
    refuse_for_make()
    key = make_key(kernel)
    final = Path(cache.module_dir(key))
    with tools.lock(f"guest/module-{linux}"):
        if force or not (final / "info.json").is_file():
            tools.publish(final, lambda fresh: make_all(fresh, key, kernel, linux))
    return str(final / NAME)


def make_key(kernel: KernelFiles) -> str:
    """Return the name of the result in the cache: the kernel's package, the driver's and the
    module's own files.
    """
    tree = cache.patch_tree()
    try:
        inputs = [
            [name, cache.file_digest(os.path.join(tree, name))] for name in cache.module_files(tree)
        ]
    except OSError as error:
        raise HostError(
            error.errno, f"part of the module's recipe: {error.strerror}", error.filename
        ) from error
    text = json.dumps([RECIPE, headers.package_of(kernel), inputs])
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def make_all(target: Path, key: str, kernel: KernelFiles, linux: str) -> None:
    """Fetch the headers, run the module's makefile, and leave what is worth keeping."""
    for program in PROGRAMS:
        tools.tool(program)
    found = headers.headers(kernel)
    tools.say(f"building the symbiotic module for {kernel.release}")
    tree = Path(cache.patch_tree())
    work = target / "work"
    folder = str(tree / "module")
    run_make(
        ["make", "-C", folder, f"-j{os.cpu_count()}", f"KDIR={found.folder}", f"BUILD={work}"],
        Path(cache_root()) / "guest" / f"module-{linux}.log",
        found.programs,
    )
    shutil.move(work / NAME, target / NAME)
    shutil.rmtree(work)
    info = {"key": key, "kernel": headers.package_of(kernel), "release": kernel.release}
    (target / "info.json").write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")


def run_make(command: list[str], log: Path, programs: Path) -> None:
    """Run make with its output in ``log``, and with ``programs`` first on the path; HostError has
    the end of it.
    """
    path = os.pathsep.join([str(programs), os.environ.get("PATH", os.defpath)])
    surroundings = {**os.environ, "LC_ALL": "C", "PATH": path}
    for name in (*FOREIGN, "ARCH", "KCFLAGS"):
        surroundings.pop(name, None)
    done = subprocess.run(
        [tools.tool(command[0]), *command[1:]],
        env=surroundings,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    log.write_text(done.stdout, encoding="utf-8")
    if done.returncode != 0:
        last = "\n".join(done.stdout.splitlines()[-TAIL:])
        raise HostError(
            f"building the symbiotic module failed; the whole log is in {log}. It ends with:\n{last}"
        )
