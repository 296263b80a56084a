# SPDX-License-Identifier: Apache-2.0
"""A distribution's kernel, which has virtio as modules: with a command, and with a root file system."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from pyvmm.debian import kernels
from pyvmm.guest import initramfs
from tests.support import linux

if TYPE_CHECKING:
    from pathlib import Path

#: The init of a root file system: reports what it was given, with status 42, and powers off.
INIT = r"""#!/bin/busybox sh
export PATH=/bin
exec > /dev/console 2>&1
busybox echo "init is process $$ of $(busybox uname -r)"
busybox echo "root is $(busybox awk '$2 == "/" { print $1, $3, substr($4, 1, 2) }' /proc/mounts)"
busybox echo "args: $*"
busybox sync
busybox printf '\052' | busybox dd of=/dev/port bs=1 seek=244
busybox poweroff -f
"""


@pytest.fixture(scope="module")
def kernel() -> kernels.KernelFiles:
    """Debian's own, as it lies in the cache."""
    return kernels.kernel_package("6.12")


@pytest.fixture
def disk(tmp_path: Path) -> str:
    """An ext4 with a root file system of one program and one script."""
    tree, image = tmp_path / "tree", tmp_path / "root.img"
    for name in ("bin", "sbin", "proc", "sys", "dev"):
        (tree / name).mkdir(parents=True)
    shutil.copy(initramfs.find_busybox(), tree / "bin/busybox")
    (tree / "sbin/init").write_text(INIT)
    (tree / "sbin/init").chmod(0o755)
    command = ["mke2fs", "-q", "-t", "ext4", "-L", "system", "-d", tree, image, "16M"]
    subprocess.run(command, check=True)
    return str(image)


def boot(kernel: kernels.KernelFiles, *words: str, params: str = "") -> linux.Outcome:
    options = ("-k", kernel.vmlinuz, "--modules", kernel.modules_dir, "-m", "512M")
    return linux.pyvmm("run", *options, "-p", params, *words)


def test_a_command_in_a_kernel_with_modules(kernel: kernels.KernelFiles, disk: str) -> None:
    script = "uname -r; mkdir /m; mount -t ext4 /dev/vda /m && ls /m/bin; exit 5"
    done = boot(kernel, "-d", disk, "--", "sh", "-c", script)
    assert (done.status, done.stdout) == (5, f"{kernel.release}\nbusybox\n"), done


@pytest.mark.parametrize(
    ("root", "mode"),
    [("LABEL=system", "rw"), pytest.param("/dev/vda", "ro", marks=pytest.mark.rest)],
)
def test_a_root_file_system(kernel: kernels.KernelFiles, disk: str, root: str, mode: str) -> None:
    done = boot(kernel, "-d", disk, params=f"quiet root={root} {mode}")
    assert done.status == 42, done
    assert f"init is process 1 of {kernel.release}" in done.stdout
    assert f"root is /dev/vda ext4 {mode}" in done.stdout


@pytest.mark.rest
def test_a_root_that_is_not_there(kernel: kernels.KernelFiles) -> None:
    done = boot(kernel, params="quiet root=/dev/vda")
    assert done.status == 125, done
    assert "root=/dev/vda: there is no such disk" in done.stdout + done.stderr
