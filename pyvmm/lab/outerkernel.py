# SPDX-License-Identifier: Apache-2.0
"""The outer kernel of the VT-x lab: small, with KVM built in, compiled once and kept in the cache by its content.

Debian's kernel would do, but a CPU that Bochs emulates spends a minute on its boot; this one takes seconds.
"""

from __future__ import annotations

import os
from pathlib import Path

from pyvmm.guest import cache, kconfig, kernel, source, tools

LINUX = "6.12"
CONFIG = Path(__file__).with_name("outer.config")
PATCH = Path(__file__).with_name("outer.patch")


def plan() -> kernel.Plan:
    """What it is made of: Debian's sources, and the fragment and the patch beside this file."""
    name = os.path.relpath(PATCH, cache.patch_tree())
    patches = [source.Patch(name, PATCH.read_bytes())]
    return kernel.Plan(LINUX, source.locate(LINUX), patches, kconfig.read_fragment(CONFIG))


def build(jobs: int | None = None) -> Path:
    """The kernel's directory, with ``vmlinux`` in it; compiled now if the cache does not have it.

    Raises HostError if the machine lacks something or the build fails.
    """
    wanted = plan()
    key = wanted.key()
    final = Path(cache.cache_root()) / "lab" / f"kernel-{key}"
    if not (final / "vmlinux").is_file():
        # The builds of a version share their folder, so that there is one at a time.
        with tools.lock(f"guest/kernel-{LINUX}"):
            if not (final / "vmlinux").is_file():
                kernel.check_machine()
                cpus = jobs or kernel.cores()
                tools.publish(
                    final, lambda fresh: kernel.make_all(wanted, key, fresh, cpus, guest=False)
                )
    return final
