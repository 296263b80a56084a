# SPDX-License-Identifier: Apache-2.0
"""The guest's kernel and init, booted by another VMM: QEMU, with a fully emulated CPU.

What init promises is checked without pyvmm in the picture, so a failure here is the guest's own."""

from __future__ import annotations

import struct
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pyvmm.guest.build import build
from pyvmm.guest.overlay import overlay
from pyvmm.guest.stock import stock
from tests.support import kernels
from tests.support.qemu import QEMU, SECONDS, boot

if TYPE_CHECKING:
    from pyvmm.guest.cache import Guest


@pytest.fixture(scope="module", params=kernels.BOTH)
def any_guest(request: pytest.FixtureRequest) -> Guest:
    return build(request.param)


@pytest.fixture(scope="module")
def guest() -> Guest:
    return build()


def test_bzimage_boots_and_reports(any_guest: Guest, tmp_path: Path) -> None:
    run = boot(any_guest, tmp_path, ["sh", "-c", "uname -r; exit 42"])
    assert f"{any_guest.version}-pyvmm" in run.output
    assert run.ended_with(42)


def test_vmlinux_boots_by_pvh(any_guest: Guest, tmp_path: Path) -> None:
    run = boot(any_guest, tmp_path, ["sh", "-c", "exit 43"], kernel=any_guest.vmlinux)
    assert run.ended_with(43)


@pytest.mark.parametrize("linux", kernels.BOTH)
def test_stock_kernel_loads_its_modules(linux: str, tmp_path: Path) -> None:
    found = stock(linux)
    run = boot(found, tmp_path, ["sh", "-c", "uname -r; grep -c ^virtio /proc/modules; exit 44"])
    assert found.version in run.output
    assert run.ended_with(44)


def test_stage_is_set(guest: Guest, tmp_path: Path) -> None:
    script = b"""#!/bin/sh
for at in /proc /sys /dev /dev/pts /dev/shm /tmp /run; do
    grep -q " $at " /proc/mounts || echo missing $at
done
echo host=$(hostname) home=$HOME term=$TERM size=$(stty size) tty=$(tty) mine=$MINE
echo lo=$(ip -4 -o addr show lo | awk '{print $4}')
[ -t 0 ] && [ -e /dev/stdin ] && [ -e /dev/fd/0 ] && echo terminal
"""
    run = boot(
        guest,
        tmp_path,
        ["/root/look"],
        options="quiet pyvmm.size=100x30 pyvmm.term=xterm",
        env={"MINE": "two words"},
        files={"/root/look": script},
    )
    assert "missing" not in run.output
    assert (
        "host=pyvmm home=/root term=xterm size=30 100 tty=/dev/ttyS0 mine=two words" in run.output
    )
    assert "lo=127.0.0.1/8" in run.output
    assert "terminal" in run.output
    assert run.ended_with(0)


def test_arguments_arrive_unchanged(guest: Guest, tmp_path: Path) -> None:
    run = boot(guest, tmp_path, ["printf", "<%s>", "", "a b", "$HOME", "*", "\u00e9"])
    assert "<><a b><$HOME><*><\u00e9>" in run.output


@pytest.mark.parametrize(
    ("command", "status", "words"),
    [
        (["no-such-program"], 127, "no-such-program: not found in the guest"),
        (["/etc/passwd"], 126, "/etc/passwd: cannot be executed: Permission denied"),
        (["/tmp"], 126, "/tmp: cannot be executed: Permission denied"),
        (["/root/script"], 127, "/root/script: its interpreter or dynamic loader is not in"),
        (["sh", "-c", "kill -9 $$"], 137, ""),
        (["sh", "-c", "sleep 1000 & exit 7"], 7, ""),
        (["poweroff"], 0, ""),
    ],
)
def test_statuses(
    guest: Guest, tmp_path: Path, command: list[str], status: int, words: str
) -> None:
    files = {"/root/script": b"#!/no/such/interpreter\n"}
    run = boot(guest, tmp_path, command, files=files)
    assert words in run.output
    assert run.ended_with(status)


def test_missing_console_is_said_and_ends(guest: Guest, tmp_path: Path) -> None:
    run = boot(guest, tmp_path, ["true"], options="quiet pyvmm.console=nope0")
    assert "pyvmm init: failed: console /dev/nope0 did not appear" in run.output
    assert run.ended_with(125)


@pytest.mark.parametrize(("asked", "status"), [("9", 125), ("999", 125), ("5", 0)])
def test_a_command_that_is_not_whole_is_no_wish_for_a_shell(
    asked: str, status: int, guest: Guest, tmp_path: Path
) -> None:
    command = ["true"] if asked != "9" else []
    run = boot(guest, tmp_path, command, options=f"quiet pyvmm.command={asked}")
    failed = (
        f"init: failed: the initramfs has {5 * len(command)} of the {asked} bytes of the command"
    )
    assert (failed in run.output) == bool(status)
    assert run.ended_with(status)


def test_module_that_does_not_load_is_said_and_ends(guest: Guest, tmp_path: Path) -> None:
    files = {"/pyvmm/modules": b"/lib/no.ko\n"}
    run = boot(guest, tmp_path, ["true"], files=files)
    assert "pyvmm init: failed: cannot open kernel module /lib/no.ko" in run.output
    assert run.ended_with(125)


def test_raw_console_is_byte_exact_to_the_last(guest: Guest, tmp_path: Path) -> None:
    """All of it arrives, though the command ends at once, and no LF becomes CR LF."""
    output = tmp_path / "output"
    devices = [
        *("-device", "virtio-serial-pci", "-device", "virtconsole,chardev=there"),
        *("-chardev", f"file,id=there,path={output}"),
    ]
    run = boot(
        guest,
        tmp_path,
        ["seq", "20000"],
        options="quiet pyvmm.console=hvc0 pyvmm.raw=1",
        devices=devices,
    )
    assert run.ended_with(0)
    assert output.read_bytes() == b"".join(b"%d\n" % number for number in range(1, 20001))


def test_shell_has_job_control_and_keys(guest: Guest, tmp_path: Path) -> None:
    initrd = tmp_path / "initrd"
    initrd.write_bytes(Path(guest.initramfs).read_bytes())
    line = "console=ttyS0 reboot=t panic=-1 quiet"
    command = [*QEMU, "-kernel", guest.kernel, "-initrd", str(initrd), "-append", line]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as qemu:
        timer = threading.Timer(SECONDS, qemu.kill)
        timer.start()
        try:
            # By the job itself, which has the terminal by then.
            seen = talk(qemu, b"# ", b"sh -c \"echo sleep''ing; exec sleep 1000\"\n")
            seen += talk(qemu, b"sleeping", b"\x03")
            seen += talk(qemu, b"# ", b"echo sta''tus=$?; exit 9\n")
            seen += talk(qemu, b"status=130", b"")
            assert b"job control turned off" not in seen
            assert qemu.wait() == 9 * 2 + 1
        finally:
            timer.cancel()
            qemu.kill()


def talk(qemu: subprocess.Popen[bytes], expected: bytes, answer: bytes) -> bytes:
    """Reads until the guest printed something, then types the answer."""
    assert qemu.stdin is not None
    assert qemu.stdout is not None
    seen = b""
    while expected not in seen:
        byte = qemu.stdout.read(1)
        assert byte, seen
        seen += byte
    qemu.stdin.write(answer)
    qemu.stdin.flush()
    return seen


def test_disk_is_left_clean(guest: Guest, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(8 << 20))
    devices = ["-drive", f"file={disk},format=raw,if=virtio"]
    script = "mke2fs -q /dev/vda 2>/dev/null; mount -t ext4 /dev/vda /mnt && echo hello >/mnt/file"
    run = boot(guest, tmp_path, ["sh", "-c", script], devices=devices)
    assert run.ended_with(0)
    (state,) = struct.unpack_from("<H", disk.read_bytes(), 1024 + 58)
    assert state & 1, "the file system still counts as mounted"


SERIAL = "swap-here"


def swap_disk(disk: Path) -> list[str]:
    return [
        *("-drive", f"file={disk},format=raw,if=none,id=swap,discard=unmap"),
        *("-device", f"virtio-blk-pci,drive=swap,serial={SERIAL}"),
    ]


def test_swap_is_on_before_the_command(guest: Guest, tmp_path: Path) -> None:
    """The first boot makes the swap area, the second one takes it as it is."""
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(8 << 20))
    script = "cat /proc/swaps; cat /sys/block/vda/queue/rotational"
    heads = []
    for _ in range(2):
        options = f"quiet pyvmm.swap={SERIAL}"
        run = boot(guest, tmp_path, ["sh", "-c", script], options=options, devices=swap_disk(disk))
        assert "pyvmm init" not in run.output
        line = next(line for line in run.output.splitlines() if line.startswith("/dev/vda"))
        assert line.split()[1:3] == ["partition", "8188"]
        assert run.output.splitlines()[-1] == "0"
        heads.append(disk.read_bytes()[:4096])
    assert heads[0] == heads[1]
    assert struct.unpack_from("<III", heads[0], 1024) == (1, 2047, 0)
    assert heads[0][4086:] == b"SWAPSPACE2"


@pytest.mark.parametrize(
    ("size", "begin", "serial", "words"),
    [
        (8 << 20, b"data of somebody", SERIAL, "/dev/vda holds something else"),
        (9 * 4096, b"", SERIAL, "cannot prepare /dev/vda: No space left"),
        (8 << 20, b"", "another", "no disk has the serial number another"),
    ],
)
def test_without_swap_the_guest_says_so_and_goes_on(
    size: int, begin: bytes, serial: str, words: str, guest: Guest, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    content = begin.ljust(size, b"\0")
    disk.write_bytes(content)
    run = boot(
        guest,
        tmp_path,
        ["sh", "-c", "wc -l < /proc/swaps; exit 5"],
        options=f"quiet pyvmm.swap={serial}",
        devices=swap_disk(disk),
    )
    assert "pyvmm init: no swap: " in run.output
    assert words in run.output
    assert run.output.splitlines()[-1] == "1"
    assert run.ended_with(5)
    assert disk.read_bytes() == content


def test_end_by_power_off_or_restart(guest: Guest, tmp_path: Path) -> None:
    """Without the device at the status port, the machine still ends, by ACPI or by a restart."""
    for option in ("", "pyvmm.end=reboot", "acpi=off"):
        initrd = tmp_path / "initrd"
        initrd.write_bytes(Path(guest.initramfs).read_bytes() + overlay(["true"]))
        line = f"console=ttyS0 reboot=t panic=-1 quiet {option}"
        command = [*QEMU[:-2], "-kernel", guest.kernel, "-initrd", str(initrd), "-append", line]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS, check=False
        )
        assert done.returncode == 0, option
