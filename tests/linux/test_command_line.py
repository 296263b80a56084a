# SPDX-License-Identifier: Apache-2.0
"""The command line around a guest: its record, what it refuses, and with which status."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pyvmm.guest.named import find_guest
from pyvmm.launch import status
from tests.support.linux import pyvmm
from tests.support.stream import PYVMM, SECONDS

if TYPE_CHECKING:
    from tests.support.linux import Run

MIB = 1 << 20
#: What the VMM itself may keep resident, beside the guest's memory.
VMM_RSS = 30 * MIB


def test_record_of_a_run(run: Run, tmp_path: Path) -> None:
    log = tmp_path / "kernel.log"
    done = run(
        "echo $COLOR $EMPTY.; dd if=/dev/zero of=/tmp/file bs=1M count=64 2> /dev/null; exit 7",
        *("-c", "2", "-m", "300M", "--env", "COLOR=dark red", "--env", "EMPTY="),
        *("--log", str(log), "-v", "-p", "quiet_is_no_more=1", "--summary"),
    )
    assert done.status == 7, done
    assert done.stdout == "dark red .\n"
    record = done.record
    assert (record["reason"], record["status"], record["ok"]) == ("poweroff", 7, False)
    assert record["exits"]["io"] > 0
    assert record["exits"]["mmio"] > 0
    assert 0 < record["boot_seconds"] < record["seconds"]
    config = record["config"]
    assert (config["memory"], config["cpus"], config["console"]) == ("300M", 2, "virtio")
    assert config["command"][:2] == ["sh", "-c"]
    assert "quiet_is_no_more=1" in config["cmdline"]
    check_footprint(record["footprint"])
    kinds = [device["kind"] for device in record["devices"]]
    assert kinds == ["serial", "virtio-console", "virtio-rng"]
    text = log.read_text()
    assert "Linux version" in text
    assert "quiet_is_no_more=1" in text
    assert "VMM memory" in done.stderr


def check_footprint(footprint: dict[str, int]) -> None:
    assert 0 < footprint["vmm_pss"] <= footprint["vmm_rss"] < VMM_RSS
    assert 64 * MIB < footprint["guest_rss"] <= 300 * MIB


def test_odd_arguments_and_variables_arrive_as_they_are() -> None:
    """Empty ones, what a shell would take for its own, control characters, no UTF-8, and 100 KiB."""
    odd = [
        b"", b"two\nlines\n", b"'single'", b'"double"', b"`x` $HOME * \\", b"  spaces  ",
        b"\x01\x02\x7f\x10\x04", b"\xff\xfe\x80", b"x" * (100 << 10), b"--", b"",
    ]  # fmt: skip
    words = [os.fsencode(word) for word in PYVMM] + [b"run"]
    for name, value in enumerate(odd):
        words += [b"--env", b"V%d=%b" % (name, value)]
    script = b'printf "<%s>" "$@"; printf "<%s>" ' + b" ".join(
        b'"$V%d"' % i for i in range(len(odd))
    )
    done = subprocess.run(
        [*words, b"--", b"sh", b"-c", script, b"sh", *odd],
        stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == b"".join(b"<%b>" % each for each in odd * 2)


def test_dry_run_starts_nothing() -> None:
    done = pyvmm("run", "--dry-run", "--kvm", "/nonexistent", "-c", "3", "--", "echo", "a b")
    assert done.status == 0, done
    plan = json.loads(done.stdout)
    assert plan["cpus"] == 3
    assert plan["command"] == ["echo", "a b"]
    assert plan["kernel"] == find_guest("6.12").vmlinux


NO_FILE = "/nonexistent/file"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--no-such-option"], "--no-such-option"),
        (["--memory", "lots", "--", "true"], "'lots' is not a size"),
        (["--memory", "4097K", "--", "true"], "multiple of 4096"),
        (["--memory", "100T", "--", "true"], "bits of physical addresses"),
        (["--cpus", "0", "--", "true"], "'0' is no number of vCPUs"),
        (
            ["--cpus", "100000", "--", "true"],
            "--cpus 100000: the kernel of the 6.12 guest uses at most",
        ),
        (["--linux", "2.4", "--", "true"], "no guest '2.4'"),
        (["--timeout", "-1", "--", "true"], "'-1' is no time in seconds"),
        (["--disk", "a,b", "--", "true"], "'b' is none of ro"),
        (["--env", "=x", "--", "true"], "not a name for an environment variable"),
        (["-k", NO_FILE], NO_FILE),
        (["-i", NO_FILE, "--", "true"], NO_FILE),
        (["-d", NO_FILE, "--", "true"], NO_FILE),
        (["-k", NO_FILE, "--", "true"], "leave -k away"),
        (["--net", "name/with/slash", "--", "true"], "name/with/slash"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_arguments(arguments: list[str], said: str) -> None:
    done = pyvmm("run", *arguments)
    assert done.status == status.USAGE, done
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_broken_kernels_are_named(tmp_path: Path) -> None:
    guest = find_guest("6.12")
    broken = {
        "empty": b"",
        "text": b"this is no kernel\n" * 100,
        "cut-elf": Path(guest.vmlinux).read_bytes()[:100_000],
        "cut-bzimage": Path(guest.kernel).read_bytes()[:100_000],
    }
    for name, data in broken.items():
        path = tmp_path / name
        path.write_bytes(data)
        done = pyvmm("run", "-k", str(path))
        assert done.status == status.USAGE, done
        assert str(path) in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--kvm", "/dev/null"], "/dev/null"),
        (["--kvm", "/nonexistent"], "/nonexistent"),
        (["--hugepages", "1G", "--memory", "4G"], "hugepages"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_refusal_of_the_host(arguments: list[str], said: str) -> None:
    done = pyvmm("run", *arguments, "--", "true")
    assert done.status == status.HOST, done
    assert said in done.stderr
    assert "Traceback" not in done.stderr
