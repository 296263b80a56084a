# SPDX-License-Identifier: Apache-2.0
"""Files that are no disks, or are in use: the device refuses them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyvmm.devices.virtio_blk import VirtioBlk
from pyvmm.errors import ConfigError, HostError, ImageError
from tests.support.virtio_driver import MIB, FakeMachine


@pytest.fixture
def machine() -> Iterator[FakeMachine]:
    with FakeMachine() as machine:
        yield machine


def open_disk(machine: FakeMachine, *args: Any, **options: Any) -> VirtioBlk:
    return VirtioBlk(machine, *args, **options)  # type: ignore[arg-type]


def test_bad_files(machine: FakeMachine, tmp_path: Path) -> None:
    with pytest.raises(HostError, match="no such file"):
        open_disk(machine, tmp_path / "missing")
    with pytest.raises(ImageError, match="directory"):
        open_disk(machine, tmp_path)
    with pytest.raises(ImageError, match="directory"):
        open_disk(machine, tmp_path, readonly=True)
    (tmp_path / "empty").touch()
    with pytest.raises(ImageError, match="empty"):
        open_disk(machine, tmp_path / "empty")
    (tmp_path / "odd").write_bytes(bytes(513))
    with pytest.raises(ImageError, match="multiple of 512"):
        open_disk(machine, tmp_path / "odd")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ImageError, match="neither"):
        open_disk(machine, tmp_path / "fifo")
    with pytest.raises(HostError, match="not an open descriptor"):
        open_disk(machine, 987654)
    for memory in (b"", b"x" * 513):
        with pytest.raises(ImageError, match="bytes of memory"):
            open_disk(machine, memoryview(memory), readonly=True)
    with pytest.raises(ConfigError, match="serial"):
        open_disk(machine, tmp_path / "odd", serial="x" * 21)


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"QFI\xfb\0\0\0\3", "qcow2"),
        (b"KDMV\1\0\0\0", "vmdk"),
        (b"# Disk DescriptorFile\n", "vmdk"),
        (b"vhdxfile", "vhdx"),
        (b"conectix", "vpc"),
        (
            b"<<< Oracle VM VirtualBox Disk Image >>>\n".ljust(64, b"\0") + b"\x7f\x10\xda\xbe",
            "vdi",
        ),
    ],
)
def test_images_that_are_not_raw(
    machine: FakeMachine, tmp_path: Path, head: bytes, name: str
) -> None:
    """The guest would get the format's tables for sectors. Of a size that is no multiple of 512, too."""
    image = tmp_path / "disk"
    for size in (MIB, MIB + 100):
        image.write_bytes(head.ljust(size, b"\0"))
        with pytest.raises(ImageError, match=rf"is a {name} image.* -O raw {image} disk.raw"):
            open_disk(machine, image)
    image.write_bytes(head.ljust(MIB, b"\0"))
    assert open_disk(machine, image, format="raw").sectors == MIB // 512


def test_only_raw_disks(machine: FakeMachine, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is only raw"):
        open_disk(machine, tmp_path / "disk", format="qcow2")


def test_descriptor_rights(machine: FakeMachine, tmp_path: Path) -> None:
    image = tmp_path / "disk"
    image.write_bytes(bytes(MIB))
    fd = os.open(image, os.O_RDONLY)
    with pytest.raises(HostError, match="reading only"):
        open_disk(machine, fd)
    assert open_disk(machine, fd, readonly=True).sectors == MIB // 512
    os.close(fd)
    fd = os.open(image, os.O_WRONLY)
    with pytest.raises(HostError, match="writing only"):
        open_disk(machine, fd, readonly=True)
    os.close(fd)


def test_locks(machine: FakeMachine, tmp_path: Path) -> None:
    image = tmp_path / "disk"
    image.write_bytes(bytes(MIB))
    writer = open_disk(machine, image)
    with pytest.raises(HostError, match=r"disk .*/disk is in use"):
        open_disk(machine, image)
    with pytest.raises(HostError, match="in use"):
        open_disk(machine, image, readonly=True)
    writer.close()
    readers = [open_disk(machine, image, readonly=True) for _ in range(2)]
    with pytest.raises(HostError, match="in use"):
        open_disk(machine, image)
    for reader in readers:
        reader.close()
    open_disk(machine, image)
