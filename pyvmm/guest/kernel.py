# SPDX-License-Identifier: Apache-2.0
"""Builds a guest kernel from sources, patches and configuration into the cache."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pyvmm.cachefolder import cache_root
from pyvmm.debian import tools
from pyvmm.errors import ConfigError, HostError
from pyvmm.guest import cache, kconfig, source
from pyvmm.guest.progress import progress

if TYPE_CHECKING:
    from collections.abc import Sequence

# Part of every key: raise it when a change here makes other kernels from the same inputs.
RECIPE = 1
PROGRAMS = ("make", "gcc", "flex", "bison", "bc", "strip", "patch")
# These would reach the kernel's makefiles from an outer make or from the user's own kernel work.
FOREIGN = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "KBUILD_OUTPUT", "KCONFIG_CONFIG")
TAIL = 40


class Plan(NamedTuple):
    """Everything that decides what comes out."""

    linux: str
    source: source.Source
    patches: Sequence[source.Patch]
    config: str

    def key(self) -> str:
        """Return the name of the result in the cache: 20 hexadecimal digits of a hash of all that goes
        into it.
        """
        parts: list[object] = [RECIPE, self.linux, self.source.identity, self.config]
        parts += [[patch.name, hashlib.sha256(patch.text).hexdigest()] for patch in self.patches]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:20]


def build(plan: Plan, *, jobs: int | None = None, force: bool = False) -> str:
    """Build the kernel unless the cache has it, and return its key.

    Raise HostError if the machine lacks something or the build fails, with the end of the log in
    the message.
    """
    key = plan.key()
    final = Path(cache.kernel_dir(key))
    with tools.lock(f"guest/kernel-{plan.linux}"):
        if force or not is_built(key):
            check_machine()
            tools.publish(
                final, lambda fresh: make_all(plan, key, fresh, jobs or cores(), plan.linux)
            )
    return key


def is_built(key: str) -> bool:
    """Return whether the cache has the kernel of that key."""
    return Path(cache.kernel_dir(key), "info.json").is_file()


def cores() -> int:
    """Count the CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


def check_machine() -> None:
    """Raise HostError naming the Debian package of the first thing that is missing."""
    for program in PROGRAMS:
        tools.tool(program)
    probe = [tools.tool("gcc"), "-fsyntax-only", "-include", "gelf.h", "-x", "c", os.devnull]
    if subprocess.run(probe, capture_output=True, check=False).returncode != 0:
        raise HostError("the header gelf.h is missing: install the Debian package 'libelf-dev'")


def environment() -> dict[str, str]:
    """Return the environment of the kernel's makefiles, so that the same inputs give the same kernel."""
    env = {name: "" for name in FOREIGN if name in os.environ}
    return {
        **env,
        "ARCH": "x86_64",
        "KBUILD_BUILD_USER": "pyvmm",
        "KBUILD_BUILD_HOST": "pyvmm",
        "KBUILD_BUILD_TIMESTAMP": "Thu Jan  1 00:00:00 UTC 1970",
        "KCONFIG_NOTIMESTAMP": "1",
    }


def make_all(
    plan: Plan, key: str, target: Path, jobs: int, name: str, *, guest: bool = True
) -> None:
    """Make source tree, configuration and kernel in a folder of that name, and keep the files worth
    it.

    Without ``guest`` only what a PVH boot takes is made.
    """
    pristine = source.pristine(plan.source)
    version = source.source_version(pristine)
    if version.split(".")[:2] != cache.base_version(plan.linux).split(".")[:2]:
        raise ConfigError(f"{plan.source.path} is Linux {version}, not {plan.linux}")
    work = Path(cache_root()) / "guest" / f"work-{name}"
    log = work.with_name(f"build-{name}.log")
    shutil.rmtree(work, ignore_errors=True)
    started = time.monotonic()
    try:
        tree = source.patched(pristine, plan.patches, work / "source")
        kconfig.configure(tree, work / "build", plan.config, environment())
        goal = "bzImage" if guest else "vmlinux"
        compile_kernel(tree, work / "build", jobs, f"Linux {version}", log, goal)
        collect(work / "build", target)
        if guest:
            collect_more(work / "build", target)
        shutil.copy(log, target / "build.log")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    info = {
        "key": key,
        "linux": plan.linux,
        "version": version,
        "source": str(plan.source.path),
        "source_sha256": plan.source.identity,
        "patches": [patch.name for patch in plan.patches],
        "seconds": round(time.monotonic() - started),
    }
    (target / "info.json").write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")


def compile_kernel(tree: Path, build: Path, jobs: int, label: str, log: Path, goal: str) -> None:
    """Run make, with its output in ``log`` and one line of progress per object counted."""
    command = [tools.tool("make"), "-C", str(tree), f"O={build}", f"-j{jobs}", goal]
    last: deque[str] = deque(maxlen=TAIL)
    surroundings = {**os.environ, "LC_ALL": "C", **environment()}
    for name in FOREIGN:
        surroundings.pop(name, None)
    with (
        log.open("w", encoding="utf-8") as record,
        progress(f"building {label} with {jobs} jobs") as step,
        subprocess.Popen(
            command,
            env=surroundings,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as make,
    ):
        assert make.stdout is not None
        try:
            for line in make.stdout:
                record.write(line)
                last.append(line)
                step()
        except BaseException:
            make.terminate()
            raise
    if make.returncode != 0:
        raise HostError(
            f"building {label} failed; the whole log is in {log}. It ends with:\n{''.join(last)}"
        )


def read_info(key: str) -> dict[str, Any]:
    """Return what is known about a built kernel: version, source, patches, seconds."""
    with open(os.path.join(cache.kernel_dir(key), "info.json"), encoding="utf-8") as file:
        info: dict[str, Any] = json.load(file)
    return info


def collect(build: Path, target: Path) -> None:
    """Copy what outlives the build tree."""
    # Loading the whole ELF file is part of a PVH boot: without symbols there is less of it.
    strip = ["strip", "--strip-all", "-o", target / "vmlinux", build / "vmlinux"]
    tools.run(strip, what="stripping vmlinux")
    shutil.copy(build / "System.map", target / "System.map")
    shutil.copy(build / ".config", target / "config")


def collect_more(build: Path, target: Path) -> None:
    """Collect the files that other VMMs boot, debuggers read, and modules are compiled against."""
    shutil.copy(build / "arch" / "x86" / "boot" / "bzImage", target / "bzImage")
    shutil.copy(build / "vmlinux", target / "vmlinux.debug")
    # With no modules of its own the kernel has all its exported symbols here: enough for modules
    # from outside.
    shutil.copy(build / "vmlinux.symvers", target / "Module.symvers")
