# SPDX-License-Identifier: Apache-2.0
"""Disks: what the guest writes is what the host finds, and the other way round."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
from typing import TYPE_CHECKING

from tests.support.linux import Guest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.linux import Run

MIB = 1 << 20
DISK_MIB = 16


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def image(path: Path, size: int, seed: int = 1) -> Path:
    path.write_bytes(random.Random(seed).randbytes(size))
    return path


def values(text: str) -> dict[str, str]:
    """What the script printed as NAME=VALUE."""
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


TWO_DISKS = """
for d in vda vdb; do
    echo serial_$d=$(cat /sys/block/$d/serial)
    echo ro_$d=$(cat /sys/block/$d/ro)
    echo size_$d=$(cat /sys/block/$d/size)
    echo sum_$d=$(sha256sum < /dev/$d | cut -d ' ' -f 1)
done
blockdev --setrw /dev/vdb
dd if=/dev/zero of=/dev/vdb bs=4096 count=1 conv=fsync && echo written=yes
sync
echo 3 > /proc/sys/vm/drop_caches
echo again_vdb=$(sha256sum < /dev/vdb | cut -d ' ' -f 1)
"""


def test_two_disks_and_the_read_only_one_refuses(run: Run, tmp_path: Path) -> None:
    first = image(tmp_path / "first", 3 * MIB + 512)
    second = image(tmp_path / "second", 2 * MIB, seed=2)
    expected = sha256(second.read_bytes())
    done = run(
        TWO_DISKS,
        *("-d", f"{first},serial=first-disk", "-d", f"{second},ro,serial=12345678901234567890"),
    )
    said = values(done.stdout)
    assert said["serial_vda"] == "first-disk", done
    assert said["serial_vdb"] == "12345678901234567890"
    assert (said["ro_vda"], said["ro_vdb"]) == ("0", "1")
    assert (said["size_vda"], said["size_vdb"]) == (str(3 * 2048 + 1), str(2 * 2048))
    assert said["sum_vda"] == sha256(first.read_bytes())
    assert said["sum_vdb"] == said["again_vdb"] == expected
    assert "written" not in said
    assert sha256(second.read_bytes()) == expected


WRITE = f"""
sum() {{ echo $1=$(sha256sum < /dev/vda | cut -d ' ' -f 1); }}
dd if=/dev/urandom of=/dev/vda bs=1M count={DISK_MIB} conv=fsync 2> /dev/null
sum cached
echo 3 > /proc/sys/vm/drop_caches
sum reread
# Sizes and places that no block, page or sector boundary fits.
seek=1
for bs in 1 511 513 777 4095 4097 65537 131071 1048573; do
    dd if=/dev/urandom of=/dev/vda bs=$bs count=3 seek=$seek conv=notrunc,fsync 2> /dev/null
    seek=$((seek + 1))
done
dd if=/dev/urandom of=/dev/vda bs=512 count=7 seek=4001 oflag=direct conv=notrunc 2> /dev/null
dd if=/dev/urandom of=/dev/vda bs=3M count=2 seek=3 oflag=direct conv=notrunc 2> /dev/null
sync
sum odd
echo 3 > /proc/sys/vm/drop_caches
sum odd_reread
echo direct=$(dd if=/dev/vda bs=1536K iflag=direct 2> /dev/null | sha256sum | cut -d ' ' -f 1)
"""


def test_written_flushed_and_read_again(run: Run, tmp_path: Path) -> None:
    disk = image(tmp_path / "disk", DISK_MIB * MIB)
    before = sha256(disk.read_bytes())
    done = run(WRITE, "-d", str(disk), "-c", "2")
    said = values(done.stdout)
    assert said["cached"] == said["reread"] != before, done
    assert said["odd"] == said["odd_reread"] == said["direct"] != said["cached"]
    assert said["odd"] == sha256(disk.read_bytes())
    (device,) = (d for d in done.record["devices"] if d["kind"] == "virtio-blk")
    assert device["bytes_from_guest"] >= DISK_MIB * MIB
    assert device["errors"] == 0
    assert device["violations"] == {}


FILE_SYSTEM = """
set -e
mount -t ext4 /dev/vda /mnt
cat /mnt/greeting
mkdir /mnt/folder
for n in 1 2 3 4 5; do dd if=/dev/urandom of=/mnt/folder/$n bs=77777 count=$n 2> /dev/null; done
cd /mnt/folder && sha256sum *
"""


def test_file_system_of_the_host(run: Run, tmp_path: Path) -> None:
    """Made on the host, written in the guest (which does not unmount it), checked and read on the host."""
    disk = tmp_path / "disk"
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "greeting").write_text("hello from the host\n")
    subprocess.run(["truncate", "-s", "32M", disk], check=True)
    subprocess.run(["mkfs.ext4", "-q", "-d", tree, disk], check=True)
    done = run(FILE_SYSTEM, "-d", str(disk))
    assert done.status == 0, done
    greeting, *sums = done.stdout.splitlines()
    assert greeting == "hello from the host"
    assert len(sums) == 5
    subprocess.run(["e2fsck", "-f", "-n", disk], check=True, capture_output=True)
    for line in sums:
        checksum, name = line.split()
        read = subprocess.run(
            ["debugfs", "-R", f"cat /folder/{name}", disk], check=True, capture_output=True
        )
        assert sha256(read.stdout) == checksum


def allocated(fd: int) -> int:
    """Bytes that the host really holds for the file."""
    return os.fstat(fd).st_blocks * 512


DISCARD = f"""
dd if=/dev/urandom of=/dev/vda bs=1M count=16 conv=fsync 2> /dev/null
echo filled; read line
blkdiscard -o {4 * MIB} -l {8 * MIB} /dev/vda
echo discarded; read line
sha256sum < /dev/vda
dd if=/dev/vda bs=1M skip=4 count=8 2> /dev/null | tr -d '\\0' | wc -c
blkdiscard /dev/vda
echo empty; read line
"""

TRIM = """
mount -t ext4 /dev/vda /mnt && dd if=/dev/urandom of=/mnt/file bs=1M count=12 conv=fsync 2> /dev/null
sync; echo filled; read line
rm /mnt/file; sync; fstrim /mnt; umount /mnt
echo trimmed; read line
"""


def test_discard_gives_memory_back() -> None:
    fd = os.memfd_create("disk")
    os.ftruncate(fd, 16 * MIB)
    with Guest(DISCARD) as guest:
        guest.vm.add_disk(fd)
        guest.start()
        guest.expect("filled")
        assert allocated(fd) == 16 * MIB
        guest.say("")
        guest.expect("discarded")
        assert allocated(fd) == 8 * MIB
        data = os.pread(fd, 16 * MIB, 0)
        assert data[4 * MIB : 12 * MIB] == bytes(8 * MIB)
        assert data[: 4 * MIB].count(0) < MIB
        guest.say("")
        text = guest.expect("empty")
        assert sha256(data) in text
        assert "\n0\n" in text
        assert allocated(fd) == 0
        guest.say("")
        assert guest.finish().ok
    os.close(fd)


def test_trimmed_file_system_gives_memory_back() -> None:
    fd = os.memfd_create("disk")
    os.ftruncate(fd, 32 * MIB)
    subprocess.run(
        ["mkfs.ext4", "-q", "-E", "nodiscard", f"/proc/{os.getpid()}/fd/{fd}"], check=True
    )
    with Guest(TRIM) as guest:
        guest.vm.add_disk(fd)
        guest.start()
        guest.expect("filled")
        full = allocated(fd)
        assert full >= 12 * MIB
        guest.say("")
        guest.expect("trimmed")
        assert allocated(fd) <= full - 11 * MIB
        guest.say("")
        assert guest.finish().ok
    os.close(fd)
