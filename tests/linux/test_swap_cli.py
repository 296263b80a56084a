# SPDX-License-Identifier: Apache-2.0
"""A swap disk by the command line: the guest swaps to it, and it is shown and set while the guest runs."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pyvmm.cli import vms
from pyvmm.launch import status
from tests.support import kernels
from tests.support.linux import pyvmm
from tests.support.stream import SECONDS, Process

if TYPE_CHECKING:
    from tests.support.linux import Run

MIB = 1 << 20
NAME = "swapper"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The runtime directory that will be."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "pyvmm"


def answer(*words: str) -> Any:
    done = pyvmm(words[0], "--json", *words[1:])
    assert done.status == status.OK, done
    return json.loads(done.stdout)


@pytest.mark.parametrize("linux", kernels.BOTH)
def test_the_guest_swaps_to_it(linux: str, run: Run) -> None:
    done = run("cat /proc/swaps", "--linux", linux, "--swap", "64M")
    assert done.status == 0, done
    _, line = done.stdout.splitlines()
    assert line.split()[:4] == ["/dev/vda", "partition", str((64 << 10) - 4), "0"]
    swap = done.record["swap"]
    assert (swap["size"], swap["mode"], swap["guest"]) == (64 * MIB, "off", None)
    assert swap["bytes_out"] >= 4096
    assert done.record["config"]["swap"]["size"] == "64M"


def test_it_comes_after_other_disks(run: Run, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(b"content of a disk".ljust(MIB, b"\0"))
    done = run("head -c 17 /dev/vda; cut -c 1-8 /proc/swaps", "--swap", "16M", "-d", str(disk))
    assert done.stdout.startswith("content of a disk"), done
    assert done.stdout.endswith("\n/dev/vdb\n")


def test_pages_go_out_and_come_back(run: Run) -> None:
    """More than the guest's memory in a tmpfs, read again."""
    script = (
        "mount -t tmpfs -o size=200m none /mnt; dd if=/dev/urandom of=/tmp/one bs=1M count=1 2> /dev/null;"
        "for i in $(seq 120); do cat /tmp/one >> /mnt/all; done;"
        "md5sum < /tmp/one; for i in 0 60 119; do dd if=/mnt/all bs=1M skip=$i count=1 2> /dev/null | md5sum; done"
    )
    done = run(script, "-m", "128M", "--swap", "128M", "--summary")
    assert done.status == 0, done
    assert len(done.stdout.splitlines()) == 4
    assert len(set(done.stdout.splitlines())) == 1
    swap = done.record["swap"]
    assert swap["bytes_out"] > 16 * MIB
    assert swap["bytes_in"] > 0
    assert "swap disk" in done.stderr


def test_a_file_holds_the_pages(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "pages"
    done = run("wc -l < /proc/swaps", "--swap", "16M", "--swap-file", str(file))
    assert (done.status, done.stdout.strip()) == (0, "2"), done
    assert not file.exists()
    file.write_bytes(b"data")
    done = run("true", "--swap", "16M", "--swap-file", str(file))
    assert done.status == status.USAGE
    assert file.read_bytes() == b"data"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--swap", "lots"], "'lots' is not a size"),
        (["--swap", "1M"], "multiple of 2 MiB"),
        (["--swap-policy", "always"], "add --swap SIZE"),
        (["--swap", "16M", "--swap-bypass", "direct", "--no-symbiotic"], "symbiotic"),
        (["--swap", "16M", "-d", "{disk},serial=pyvmm-swap"], "serial"),
    ],
)
def test_swap_that_cannot_be(options: list[str], said: str, tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(bytes(MIB))
    words = [option.format(disk=tmp_path / "disk") for option in options]
    done = pyvmm("run", *words, "--", "true")
    assert done.status == status.USAGE, done
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_it_is_shown_and_set_while_the_guest_runs() -> None:
    script = "echo up; read word; cat /proc/swaps; read word"
    options = ["--name", NAME, "--swap", "64M", "--swap-bypass", "symcall", "--swap-policy"]
    with Process("run", *options, "always", "--", "sh", "-c", script) as run:
        run.expect("up\n")
        assert answer("info", NAME)["swap"]["size"] == 64 * MIB
        said = answer("swap", NAME)
        assert (said["mode"], said["policy"]) == ("symcall", "always")
        assert said["bytes_used"] <= 64 * MIB
        shown = pyvmm("swap", NAME)
        assert shown.stdout.startswith("disk      pyvmm-swap, 64.0 MiB in host memory\n"), shown
        said = answer("swap", NAME, "--mode", "off", "--policy", "quota", "--quota", "32M")
        assert (said["mode"], said["effective"]) == ("off", "off")
        assert (said["policy"], said["quota"]) == ("quota", 32 * MIB)
        assert pyvmm("swap", NAME, "--policy", "mine").status == status.USAGE
        assert run.process.stdin is not None
        assert pyvmm("stop", NAME).status == status.OK
        assert run.finish() == status.STOPPED


#: Takes 150 MiB in strings, and reads all of them for each line of its input.
STRINGS = 150
FILL = (
    f'BEGIN {{ for (i = 0; i < {STRINGS}; i++) all[i] = sprintf("%{MIB}d", i); print "filled" }}'
    '{ n = 0; for (i in all) n += length(all[i]); printf "pass %d\\n", n }'
)


def read_all(run: Process) -> None:
    assert run.process.stdin is not None
    run.process.stdin.write(b"again\n")
    run.process.stdin.flush()
    run.expect(f"pass {STRINGS * MIB}\n")


def hand_back(run: Process) -> Any:
    """Asks for pages, again while the guest has no room for one: reading all makes it reclaim."""
    deadline = time.monotonic() + SECONDS
    asked = 0
    while True:
        answer("swap", NAME, "--evict", "16")
        asked += 1
        while (guest := answer("swap", NAME)["guest"])["evicting"]:
            assert time.monotonic() < deadline, repr(guest)
        if guest["evicted"]:
            return guest
        assert guest["evict_failed"] == asked, repr(guest)
        assert time.monotonic() < deadline, repr(guest)
        read_all(run)


@pytest.mark.parametrize("mode", [pytest.param("symcall", marks=pytest.mark.rest), "direct"])
def test_pages_are_used_where_they_lie(mode: str) -> None:
    options = ["--name", NAME, "-m", "128M", "--swap", "256M", "--swap-bypass", mode]
    with Process("run", *options, "--swap-policy", "always", "--", "awk", FILL) as run:
        run.expect("filled\n")
        read_all(run)
        read_all(run)
        said = answer("swap", NAME)
        guest = said["guest"]
        assert guest["mapped"]
        assert guest["on"]
        assert guest["adopted_total"] >= guest["adopted"] > 1000
        assert said["mapped"] == guest["mapped_by_vmm"]
        assert (said["mapped"] > 0) == (mode == "symcall")
        record = answer("top", "--count", "1", "--interval", "0.5", NAME)
        assert record["tasks"][0]["comm"] == "awk"
        assert record["swap"]["guest"]["adopted"] > 1000
        assert record["host"]["swap_rss"] > 1000 * 4096
        said = answer("swap", NAME, "--mode", "off")
        assert said["effective"] == "off"
        before = said["guest"]["adopted_total"]
        read_all(run)
        assert answer("swap", NAME)["guest"]["adopted_total"] == before
        guest = hand_back(run)
        assert f"{guest['evicted']} handed back" in pyvmm("swap", NAME).stdout
        read_all(run)
        assert pyvmm("stop", NAME).status == status.OK
        assert run.finish() == status.STOPPED


def test_a_vm_without_says_so() -> None:
    with Process("run", "--name", NAME, "--", "sh", "-c", "echo up; read word") as run:
        run.expect("up\n")
        done = pyvmm("swap", NAME)
        assert (done.status, done.stdout) == (vms.REFUSED, "")
        assert "no swap disk" in done.stderr
        assert pyvmm("stop", NAME).status == status.OK
        assert run.finish() == status.STOPPED
