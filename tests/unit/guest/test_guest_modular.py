# SPDX-License-Identifier: Apache-2.0
"""The initramfs for a kernel of the user's own that has its drivers as modules."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from pyvmm.errors import ConfigError, HostError
from pyvmm.guest import initramfs, modular
from pyvmm.launch.plan import Plan
from tests.support import images as support
from tests.support.archive import walk
from tests.support.run_options import arguments

RELEASE = "6.9.1-custom"
DEP = """\
kernel/virtio_blk.ko: kernel/virtio_ring.ko kernel/virtio.ko
kernel/virtio.ko: kernel/virtio_ring.ko
kernel/virtio_ring.ko:
kernel/virtio_mmio.ko: kernel/virtio.ko kernel/virtio_ring.ko
kernel/xfs.ko: kernel/libcrc32c.ko
kernel/libcrc32c.ko:
kernel/unused.ko:
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """lib/modules/RELEASE of a kernel with virtio as modules and ext4 built in."""
    made = tmp_path / RELEASE
    (made / "kernel").mkdir(parents=True)
    (made / "modules.dep").write_text(DEP)
    (made / "modules.builtin").write_text("kernel/fs/ext4/ext4.ko\n")
    for line in DEP.splitlines():
        (made / line.partition(":")[0]).write_bytes(b"\x7fELF")
    return made


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the modules that the initramfs gets, in order."""
    names: list[str] = []

    def build(modules: list[str], *, force: bool = False) -> str:
        names[:] = [Path(path).stem for path in modules]
        return "key"

    monkeypatch.setattr(initramfs, "build", build)
    return names


def kernel(path: Path, release: str) -> str:
    """A bzImage that says its release."""
    data = bytearray(support.bzimage())
    text = f"{release} (somebody@host) #1 SMP".encode() + b"\0"
    data[0x20E:0x210] = (0x300).to_bytes(2, "little")
    data[0x500 : 0x500 + len(text)] = text
    path.write_bytes(data)
    return str(path)


def test_modules_in_the_order_of_their_dependencies(folder: Path, packed: list[str]) -> None:
    path = modular.initramfs_with(str(folder))
    assert path.endswith("initramfs-key/initramfs")
    assert packed == ["virtio_ring", "virtio", "virtio_mmio", "virtio_blk"]
    modular.initramfs_with(str(folder), ["xfs", "virtio"])
    assert packed[4:] == ["libcrc32c", "xfs"]
    with pytest.raises(HostError, match="has no module 'zfs'"):
        modular.initramfs_with(str(folder), ["zfs"])


def test_a_kernel_and_modules_of_another_release(folder: Path, packed: list[str]) -> None:
    own = kernel(folder.parent / "own", RELEASE)
    other = kernel(folder.parent / "other", "6.9.2")
    assert modular.release_of(own) == RELEASE
    modular.initramfs_with(str(folder), kernel=own)
    modular.initramfs_with(f"{folder}/", kernel=own)
    with pytest.raises(
        ConfigError, match=r"is Linux 6\.9\.2, and the modules .* of 6\.9\.1-custom"
    ):
        modular.initramfs_with(str(folder), kernel=other)


@pytest.mark.parametrize("at", [0, 0x300, 0xFFFF])
def test_kernels_that_do_not_say_their_release(tmp_path: Path, at: int) -> None:
    data = bytearray(support.bzimage())
    data[0x20E:0x210] = at.to_bytes(2, "little")
    (tmp_path / "kernel").write_bytes(data)
    assert modular.release_of(str(tmp_path / "kernel")) == ""
    (tmp_path / "kernel").write_bytes(support.vmlinux())
    assert modular.release_of(str(tmp_path / "kernel")) == ""
    assert modular.release_of(str(tmp_path / "absent")) == ""
    os.mkfifo(tmp_path / "pipe")
    assert modular.release_of(str(tmp_path / "pipe")) == ""


def test_changed_modules_make_another_initramfs(folder: Path) -> None:
    path = str(folder / "kernel/virtio.ko")
    before = initramfs.make_key({}, b"", [path])
    Path(path).write_bytes(b"\x7fELF changed")
    assert initramfs.make_key({}, b"", [path]) != before
    with pytest.raises(HostError, match="depmod"):
        initramfs.make_key({}, b"", [f"{folder}/gone.ko"])


def test_the_plan(folder: Path, packed: list[str]) -> None:
    own = kernel(folder.parent / "own", RELEASE)
    words = ("-k", own, "--modules", f"{folder},xfs")
    command = Plan(arguments(*words, "--", "true"))
    assert command.config.boot.kernel == own
    assert b"true\0" in command.config.boot.initrd[1]  # type: ignore[operator]
    assert "pyvmm.console=hvc0" in command.config.boot.cmdline
    assert packed[-1] == "xfs"
    root = Plan(arguments(*words, "-p", "root=/dev/vda rw"))
    assert walk(root.config.boot.initrd[1])[b"init"][0] == 0o100755  # type: ignore[arg-type]
    assert "pyvmm." not in root.config.boot.cmdline


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--modules", "."], "give it with -k"),
        (["-k", "k", "--", "true"], "--modules"),
        (["-k", "k", "--modules", "absent"], "no such folder"),
        (["-k", "k", "--modules", ".", "-p", "root=/dev/vda", "--", "true"], "root= away"),
    ],
)
def test_plans_that_cannot_work(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Plan(arguments(*words))


def test_the_script_is_one(tmp_path: Path) -> None:
    (tmp_path / "init").write_text(modular.SCRIPT)
    subprocess.run(["sh", "-n", str(tmp_path / "init")], check=True)
    assert modular.SCRIPT.startswith("#!/bin/busybox sh\n")
