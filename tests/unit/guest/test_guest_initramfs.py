# SPDX-License-Identifier: Apache-2.0
"""What is in the initramfs, and that init compiles without a warning."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from pyvmm.errors import HostError, ImageError
from pyvmm.guest import cache, initramfs
from tests.support.archive import walk

INIT = sorted((Path(cache.patch_tree()) / "init").glob("*.c"))


def test_contents() -> None:
    data = initramfs.archive(
        b"init", b"busybox", ["bin/sh", "usr/bin/env", "sbin/init", "linuxrc"], {}
    )
    found = walk(data)
    assert len(data) % 512 == 0
    assert found[b"init"] == (0o100755, b"init")
    assert found[b"bin/sh"] == (0o120777, b"/bin/busybox")
    assert found[b"dev/console"][0] == 0o020600
    assert found[b"tmp"][0] == 0o041777
    assert b"sbin/init" not in found
    assert b"linuxrc" not in found
    assert b"pyvmm/modules" not in found
    names = list(found)
    for name in names:
        parent = name.rpartition(b"/")[0]
        assert not parent or names.index(parent) < names.index(name)


def test_modules_are_listed_in_order() -> None:
    found = walk(
        initramfs.archive(b"", b"", [], {"lib/modules/b.ko": b"1", "lib/modules/a.ko": b"2"})
    )
    assert found[b"pyvmm/modules"][1] == b"/lib/modules/b.ko\n/lib/modules/a.ko\n"
    assert found[b"lib/modules/a.ko"][1] == b"2"


def test_init_compiles_cleanly_and_is_static(tmp_path: Path) -> None:
    target = tmp_path / "init"
    flags = [*initramfs.CFLAGS, "-Wshadow", "-Werror"]
    subprocess.run(["gcc", *flags, "-o", target, *INIT], check=True)
    assert initramfs.is_static(target)
    assert not initramfs.is_static(Path(shutil.which("gcc") or ""))


def test_is_static_looks_at_the_file(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n")
    assert not initramfs.is_static(script)
    cut = tmp_path / "cut"
    cut.write_bytes(b"\x7fELF\x02" + bytes(20))
    with pytest.raises(ImageError, match="truncated"):
        initramfs.is_static(cut)


def test_busybox_that_does_not_run(tmp_path: Path) -> None:
    program = tmp_path / "busybox"
    program.write_text("#!/bin/sh\necho oh dear >&2\nexit 1\n")
    program.chmod(0o755)
    with pytest.raises(HostError, match="oh dear"):
        initramfs.applets(program)


def test_no_init_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    busybox = tmp_path / "busybox"
    busybox.write_bytes(b"")
    monkeypatch.setattr(initramfs, "find_busybox", lambda: busybox)
    monkeypatch.setenv("PYVMM_GUEST_PATCH", str(tmp_path))
    with pytest.raises(HostError, match="source checkout"):
        initramfs.build()


def test_module_names_lose_their_compression() -> None:
    assert initramfs.plain_name("/x/kernel/virtio-rng.ko.xz") == "virtio-rng.ko"
    assert initramfs.plain_name("/x/kernel/9p.ko") == "9p.ko"
