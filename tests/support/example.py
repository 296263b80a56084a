# SPDX-License-Identifier: Apache-2.0
"""Modules with symcalls of their own for a Debian kernel, built as docs/guest-module.md says it.

"load" is the kernel code in docs/guest-driver.md, "spin" lies in tests/support/modules.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import tempfile
from pathlib import Path

from pyvmm.cachefolder import cache_root
from pyvmm.debian import kernels, tools
from pyvmm.guest import cache, headers
from pyvmm.guest.kernel import FOREIGN
from tests.support.tree import ROOT

DOCUMENT = ROOT / "docs" / "guest-driver.md"
OTHERS = ROOT / "tests" / "support" / "modules"
NAMES = ("load", "spin")


def code(name: str) -> str:
    """A module's C: "load" is the document's one block of it."""
    if name != "load":
        return (OTHERS / f"{name}.c").read_text()
    (block,) = re.findall(r"^```c\n(.*?)^```$", DOCUMENT.read_text(), re.M | re.S)
    return str(block)


def make(*words: str | Path) -> None:
    """Runs make, which must succeed."""
    blank = [f"--unset={name}" for name in FOREIGN]
    command = ["env", *blank, "make", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def build(folder: Path, linux: str, name: str) -> Path:
    """The module, made in `folder` for Debian's kernel of that version, with the driver's own module before it."""
    kernel = headers.headers(kernels.kernel_package(linux)).folder
    driver, example = folder / "driver", folder / "example"
    make("-C", ROOT / "guest-linux-patch" / "module", f"KDIR={kernel}", f"BUILD={driver}")
    tree = driver / "tree"
    example.mkdir()
    (example / f"{name}.c").write_text(code(name))
    (example / "Kbuild").write_text(f"obj-m := {name}.o\n")
    make(
        *("-C", kernel, f"M={example}", "CONFIG_DEBUG_INFO_BTF_MODULES=", "W=1"),
        f"KCFLAGS=-I{tree}/include -DCONFIG_SYMBIOTIC=1 -Werror",
        f"KBUILD_EXTRA_SYMBOLS={tree}/drivers/virt/symbiotic/Module.symvers",
        "modules",
    )
    return example / f"{name}.ko"


def cached(linux: str, name: str) -> Path:
    """The same out of the guests' cache, built there unless it has it: in the lab compilers are slow."""
    package = headers.package_of(kernels.kernel_package(linux))
    tree = Path(cache.patch_tree())
    files = cache.module_files(str(tree))
    parts = [code(name), package, *((tree / file).read_text() for file in files)]
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:20]
    place = f"tests/{name}-{linux}"
    final = Path(cache_root()) / place
    module = final / f"{key}.ko"
    with tools.lock(place):
        if not module.is_file():
            tools.publish(final, lambda fresh: keep(fresh, linux, name, module.name))
    return module


def keep(folder: Path, linux: str, name: str, file: str) -> None:
    """Builds in a folder and leaves nothing but the module there, as that file."""
    with tempfile.TemporaryDirectory(dir=folder) as work:
        build(Path(work), linux, name).rename(folder / file)
