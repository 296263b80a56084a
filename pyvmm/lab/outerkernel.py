# SPDX-License-Identifier: Apache-2.0
"""The outer kernel of the VT-x lab: small, with KVM built in, compiled once and kept in the cache
by its content.

Debian's kernel would do, but a CPU that Bochs emulates spends a minute on its boot; this one takes
seconds.
"""

from __future__ import annotations

from pathlib import Path

from pyvmm.cachefolder import cache_root, refuse_for_make
from pyvmm.debian import tools
from pyvmm.guest import kconfig, kernel, source

LINUX = "6.12"
CONFIG = Path(__file__).with_name("outer.config")
PATCH = Path(__file__).with_name("outer.patch")
#: Of the patch in the kernel's key: the same wherever pyvmm is installed.
NAME = "../pyvmm/lab/outer.patch"


def plan() -> kernel.Plan:
    """Say what it is made of: Debian's sources, and the fragment and the patch beside this file."""
    patches = [source.Patch(NAME, PATCH.read_bytes())]
    return kernel.Plan(LINUX, source.locate(LINUX), patches, kconfig.read_fragment(CONFIG))


def build(jobs: int | None = None) -> Path:
    """Return the kernel's directory, with ``vmlinux`` in it; compiled now if the cache does not
    have it.

    Raise HostError if the machine lacks something or the build fails.
    """
    refuse_for_make()
    wanted = plan()
    key = wanted.key()
    final = Path(cache_root()) / "lab" / f"kernel-{key}"
    if not (final / "vmlinux").is_file():
        with tools.lock(f"lab/kernel-{LINUX}"):
            if not (final / "vmlinux").is_file():
                kernel.check_machine()
                cpus = jobs or kernel.cores()
                tools.publish(final, lambda fresh: make(wanted, key, fresh, cpus))
    return final


def make(wanted: kernel.Plan, key: str, target: Path, jobs: int) -> None:
    """Compile it, in a folder that no guest has, so that one of these can be under way as well."""
    kernel.make_all(wanted, key, target, jobs, f"{LINUX}-outer", guest=False)
