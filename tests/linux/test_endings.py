# SPDX-License-Identifier: Apache-2.0
"""Every way for a guest to end, its exit status, and that nothing of it is left."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import random
import shlex
import signal
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pyvmm.guest.named import find_guest
from pyvmm.guest.overlay import overlay
from pyvmm.launch import status
from tests.support import kernels
from tests.support.linux import Guest, pyvmm
from tests.support.stream import PYVMM, SECONDS, Process

if TYPE_CHECKING:
    from tests.support.linux import Run


def test_status_of_the_command(run: Run) -> None:
    done = run("echo out; echo more; exit 118", stdin=b"")
    assert (done.status, done.stdout) == (118, "out\nmore\n"), done
    assert done.stderr == ""


def test_status_of_a_signal_and_of_a_missing_command(run: Run) -> None:
    done = run("(kill -9 $$); sleep 60")
    assert done.status == 128 + signal.SIGKILL, done


@pytest.mark.parametrize(
    ("command", "reason"), [("poweroff -f", "poweroff"), ("reboot -f", "reboot")]
)
def test_guest_ends_itself(command: str, reason: str, run: Run) -> None:
    done = run(f"echo before; {command}; sleep 1000")
    assert done.status == status.OK, done
    assert done.record["reason"] == reason
    assert done.record["status"] is None
    assert done.stdout == "before\n"


def test_a_guest_that_was_told_to_halt_ends(run: Run) -> None:
    """Nothing would wake it: KVM says nothing of that, so the VMM looks."""
    done = run("echo before; halt -f; sleep 1000", "-c", "2")
    assert done.status == status.OK, done
    assert (done.record["reason"], done.record["dump"]) == ("halt", None)
    assert (done.stdout, done.stderr) == ("before\n", "")


def test_reboot_by_triple_fault(run: Run) -> None:
    done = run("reboot -f; sleep 1000", "-p", "reboot=t")
    assert done.status == status.GUEST_FAULT, done
    assert done.record["reason"] == "triple-fault"
    assert "rip" in done.record["dump"].lower()
    assert "triple-fault" in done.stderr


@pytest.mark.parametrize("linux", ["6.12", kernels.one("stock-6.1")])
def test_panic_is_reported_with_dump_and_log(linux: str, run: Run) -> None:
    done = run("echo c > /proc/sysrq-trigger; sleep 1000", "--linux", linux, "-m", "512M")
    assert done.status == status.GUEST_PANIC, done
    assert done.record["reason"] == "panic"
    assert "sysrq triggered crash" in done.stderr
    # Our kernel is built without the names of what it warns of, and then panics without a trace.
    assert ("Call Trace" in done.stderr) == (linux == "stock-6.1")
    assert "rip" in done.record["dump"].lower()
    assert done.record["dump"] in done.stderr


def test_a_panic_without_pvpanic_is_no_success(tmp_path: Path) -> None:
    """Debian's kernel has that driver as a module, and restarts: panic=-1."""
    kernel = find_guest("stock-6.12").kernel
    done = pyvmm("run", "-k", kernel, "-m", "512M", "--json", str(tmp_path / "record"))
    assert done.status == status.GUEST_PANIC, done
    record = json.loads((tmp_path / "record").read_text())
    assert (record["reason"], record["ok"]) == ("panic", False)
    assert "Unable to mount root fs" in record["detail"]
    assert "Unable to mount root fs" in done.stderr


@pytest.mark.parametrize("params", ["noapic", "acpi=off", "nolapic"])
def test_an_init_that_gives_up_says_why(params: str, run: Run) -> None:
    done = run("echo hi", "-p", params)
    assert done.status == 125, done
    assert "init failed: console /dev/hvc0 did not appear" in done.stderr
    assert "init failed: console /dev/hvc0 did not appear" in done.record["detail"]
    assert f"leave {params} away" in done.stderr


def good_parts(archive: bytes) -> dict[str, bytes]:
    """Parts of an initrd in each form that our kernel unpacks."""
    programs = {"lz4": ["lz4", "-lc"], "zstd": ["zstd", "-c"]}
    packed = {
        name: subprocess.run(program, input=archive, capture_output=True, check=True).stdout
        for name, program in programs.items()
    }
    return {"cpio": archive, "gzip": gzip.compress(archive), **packed}


def bad_parts(archive: bytes, lz4: bytes, zstd: bytes) -> dict[str, bytes]:
    """Parts of an initrd that our kernel cannot unpack, or not to their end."""
    return {
        "cut zstd": zstd[: len(zstd) // 2],
        "zstd with garbage behind": zstd + b"no archive at all",
        "cut lz4": lz4[: len(lz4) * 2 // 3],
        "xz": lzma.compress(archive),
        "bzip2": bz2.compress(archive),
        "garbage": b"no archive at all",
        "cut": archive[: len(archive) // 2],
        "cut gzip": gzip.compress(archive)[:-2000],
        "gzip of garbage": gzip.compress(b"no archive at all" * 100),
    }


def test_a_command_is_run_or_the_initrd_is_named(tmp_path: Path) -> None:
    guest = find_guest("6.12")
    archive = overlay(["true"], files={"/root/big": random.Random(1).randbytes(100_000)})
    good = good_parts(archive)
    parts = bad_parts(archive, good["lz4"], good["zstd"]) | good
    for name, data in parts.items():
        part = tmp_path / name
        part.write_bytes(data)
        words = ("-i", guest.initramfs, "-i", str(part), "--", "sh", "-c", "exit 42")
        done = pyvmm("run", *words)
        if name in good:
            assert done.status == 42, done
        else:
            assert done.status in (status.USAGE, 125, 42), done
            assert done.status == 42 or str(part) in done.stderr, done


@pytest.mark.parametrize("console", ["virtio", "serial"])
def test_the_end_of_the_reader_ends_the_guest(console: str) -> None:
    words = [*PYVMM, "run", "--console", console, "--", "yes"]
    script = f"set -o pipefail; {shlex.join(words)} | head -1"
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (status.BROKEN_PIPE, "y", "")


def test_input_on_the_serial_port_keeps_its_first_byte() -> None:
    done = pyvmm("run", "--console", "serial", "--", "head", "-n1", stdin=b"abcdef\n")
    assert done.status == 0, done
    # Once by the terminal's echo, once by the command.
    assert done.stdout.split().count("abcdef") == 2, done


def test_timeout(run: Run) -> None:
    done = run("sleep 1000", "--timeout", "5")
    assert done.status == status.TIMEOUT, done
    assert done.record["reason"] == "timeout"


@pytest.mark.parametrize(
    ("number", "expected"), [(signal.SIGTERM, status.STOPPED), (signal.SIGHUP, status.HUNG_UP)]
)
def test_signal_stops_the_guest(number: signal.Signals, expected: int) -> None:
    with Process("run", "-c", "2", "--", "sh", "-c", "echo ready; sleep 1000") as pyvmm:
        pyvmm.expect("ready")
        pyvmm.process.send_signal(number)
        assert pyvmm.finish() == expected, pyvmm.text


def processes() -> set[int]:
    return {int(name) for name in os.listdir("/proc") if name.isdigit()}


def test_nothing_is_left_after_sigkill(tmp_path: Path) -> None:
    before = {
        place: set(os.listdir(place)) for place in ("/sys/class/net", "/dev/shm", "/tmp", ".")
    }
    running = processes()
    temporary, runtime = tmp_path / "temporary", tmp_path / "runtime"
    temporary.mkdir()
    runtime.mkdir(mode=0o700)
    env = {"TMPDIR": str(temporary), "XDG_RUNTIME_DIR": str(runtime)}
    with Process(
        *("run", "-c", "2", "--net", "pvkill0", "--", "sh", "-c", "echo ready; sleep 1000"), env=env
    ) as pyvmm:
        pyvmm.expect("ready")
        assert Path("/sys/class/net/pvkill0").exists()
        pyvmm.process.kill()
        assert pyvmm.finish() == -signal.SIGKILL
    assert list(temporary.iterdir()) == []
    # Its socket is the next list's to remove.
    with Process("list", "--json", env=env) as listing:
        assert listing.finish() == 0
        assert listing.text.strip() == "[]"
    assert list(runtime.rglob("*.sock")) == []
    for place, names in before.items():
        assert set(os.listdir(place)) <= names, place
    left = [
        pid
        for pid in processes() - running
        if b"pyvmm\0run" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    assert left == []


def test_stop_from_another_thread() -> None:
    with Guest("echo ready; while :; do :; done", cpus=2) as guest:
        guest.start()
        guest.expect("ready")
        stopper = threading.Timer(0.5, guest.vm.stop)
        stopper.start()
        result = guest.finish()
        stopper.join()
        assert result.reason == "stopped"
        assert not result.ok
        assert guest.vm.state == "ended"


def test_closing_a_running_machine() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with Guest("echo ready; while :; do :; done", cpus=2) as guest:
        guest.vm.add_rng()
        guest.start()
        guest.expect("ready")
    assert guest.vm.state == "closed"
    assert len(os.listdir("/proc/self/fd")) == before
    assert not [name for name in os.listdir("/proc/self/task") if comm(name).startswith("virtio")]


def comm(task: str) -> str:
    return Path(f"/proc/self/task/{task}/comm").read_text()
