# SPDX-License-Identifier: Apache-2.0
"""Kernels, image formats and numbers of vCPUs: each boots, finds everything, and powers off."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from pyvmm.guest.named import find_guest
from pyvmm.guest.overlay import overlay
from tests.support import kernels, linux
from tests.support.kernel_log import faults

if TYPE_CHECKING:
    from pathlib import Path

STATUS = 42
INSPECT = f"""
section() {{ echo "==== $1"; }}
section release; uname -r
section nproc; nproc
section online; cat /sys/devices/system/cpu/online
section packages; cat /sys/devices/system/cpu/cpu*/topology/physical_package_id | sort -u
section cores; cat /sys/devices/system/cpu/cpu*/topology/core_id | sort -un
section siblings; cat /sys/devices/system/cpu/cpu*/topology/thread_siblings_list
section cpus; for cpu in /sys/devices/system/cpu/cpu[0-9]*; do
    taskset $((1 << ${{cpu##*cpu}})) sh -c 'cut -d " " -f 39 /proc/self/stat'; done
section virtio; cat /sys/bus/virtio/devices/*/device
section drivers; for d in /sys/bus/virtio/devices/*; do basename $(readlink $d/driver); done
section rng; cat /sys/class/misc/hw_random/rng_current
section disk; cat /sys/block/vda/size; head -c 16 /dev/vda; echo
section interrupts; cat /proc/interrupts
section dmesg; dmesg
exit {STATUS}
"""

NAMES = {"0x0002": "virtio_blk", "0x0003": "virtio_console", "0x0004": "virtio_rng"}


def sections(text: str) -> dict[str, str]:
    """What the script printed, by section."""
    parts = re.split(r"^==== (\w+)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def check(done: linux.Outcome, release: str, cpus: int) -> None:
    assert done.status == STATUS, done
    found = sections(done.stdout)
    assert found["release"].startswith(release)
    check_cpus(found, cpus)
    check_devices(found)
    assert faults(found["dmesg"]) == []
    assert done.record["reason"] == "poweroff"
    assert done.record["status"] == STATUS
    assert done.record["boot_seconds"] is not None


def check_cpus(found: dict[str, str], cpus: int) -> None:
    assert int(found["nproc"]) == cpus
    assert found["online"].strip() == ("0" if cpus == 1 else f"0-{cpus - 1}")
    assert found["packages"].split() == ["0"]
    assert found["cores"].split() == [str(n) for n in range(cpus)]
    assert found["siblings"].split() == [str(n) for n in range(cpus)]
    assert found["cpus"].split() == [str(n) for n in range(cpus)]
    header, *rows = found["interrupts"].splitlines()
    assert header.split() == [f"CPU{n}" for n in range(cpus)]
    timers = next(row for row in rows if "Local timer interrupts" in row).split()[1 : cpus + 1]
    assert all(int(count) for count in timers)


def check_devices(found: dict[str, str]) -> None:
    kinds = found["virtio"].split()
    assert sorted(kinds) == sorted(NAMES)
    assert found["drivers"].split() == [NAMES[kind] for kind in kinds]
    assert found["rng"].strip() == "virtio_rng.0"
    assert found["disk"] == "2048\nthe first sector\n"
    used = [row for row in found["interrupts"].splitlines() if "virtio" in row]
    assert len(used) == len(kinds)
    for row in used:  # level-triggered lines would show as fasteoi and may storm
        assert "edge" in row


@pytest.fixture
def disk(tmp_path: Path) -> str:
    image = tmp_path / "disk"
    image.write_bytes(b"the first sector".ljust(1 << 20, b"\0"))
    return str(image)


@pytest.mark.parametrize(
    ("name", "cpus"),
    [
        pytest.param("6.12", 1, marks=pytest.mark.host("vmx")),
        pytest.param("6.12", 2, marks=pytest.mark.host("vmx")),
        ("6.12", 4),
        kernels.one("6.1", 4),
    ],
)
def test_own_kernel_by_pvh(name: str, cpus: int, disk: str, tmp_path: Path) -> None:
    done = linux.run(tmp_path, INSPECT, "--linux", name, "-c", str(cpus), "-d", disk)
    check(done, f"{name}.", cpus)
    assert done.record["config"]["kernel"].endswith("/vmlinux")


@pytest.mark.parametrize(
    ("name", "cpus"), kernels.of_debian(2, always=(kernels.DEFAULT, kernels.CLOUD))
)
def test_debian_kernel(name: str, cpus: int, disk: str, tmp_path: Path) -> None:
    done = linux.run(tmp_path, INSPECT, "--linux", name, "-c", str(cpus), "-d", disk, "-m", "512M")
    version, _, flavour = name.removeprefix("stock-").partition("-")
    check(done, f"{version}.", cpus)
    release = sections(done.stdout)["release"].strip()
    assert release.endswith(f"-{flavour}-amd64" if flavour else "-amd64")
    assert ("cloud" in release) == (flavour == "cloud")


@pytest.mark.parametrize(("name", "cpus"), [("6.12", 2), kernels.one("6.1", 1)])
def test_own_kernel_as_bzimage(name: str, cpus: int, disk: str, tmp_path: Path) -> None:
    """By -k, as any kernel of the user's: the parts of the initramfs are given one by one."""
    guest = find_guest(name)
    command = tmp_path / "command.cpio"
    command.write_bytes(overlay(["sh", "-c", INSPECT]))
    where = tmp_path / "record.json"
    done = linux.pyvmm(
        *("run", "-k", guest.kernel, "-i", guest.initramfs, "-i", str(command)),
        *("-c", str(cpus), "-d", disk, "--json", str(where), "--console", "virtio"),
        *("-p", "quiet console=ttyS0 pyvmm.mark=1 pyvmm.console=hvc0 pyvmm.raw=1"),
    )
    check(linux.with_record(done, where), f"{name}.", cpus)
