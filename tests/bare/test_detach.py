# SPDX-License-Identifier: Apache-2.0
"""`pyvmm run --detach`: VMs in the background; bare-metal guests on this machine's KVM."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pyvmm.control.client import connect
from pyvmm.launch import status
from tests.support.background import children, names, processes, run, stop
from tests.support.mappings import mappings
from tests.support.waiting import SECONDS, until

pytestmark = pytest.mark.usefixtures("folder")


def test_it_runs_on_and_is_found_by_its_name(tmp_path: Path) -> None:
    done = run("--name", "web", "--log", "log")
    assert (done.returncode, done.stdout, done.stderr) == (0, "web\n", "")
    assert names() == ["web"]
    until(lambda: (tmp_path / "log").read_bytes() == b"h\n")
    with connect("web") as client:
        assert client.call("info")["pid"] == children()[0].pid
    stop("web")
    assert names() == []
    until(lambda: not children())


def test_without_a_name_it_has_its_process_id() -> None:
    name = run().stdout.strip()
    assert name == f"vm-{children()[0].pid}"
    stop(name)


def test_what_is_said_on_the_terminal_is_in_the_log(tmp_path: Path) -> None:
    assert run("--log", "log", file="end").returncode == 0
    until(lambda: b"triple-fault" in (tmp_path / "log").read_bytes())
    until(lambda: not children())


def test_the_run_is_in_the_callers_folder_with_its_mask_and_environment(tmp_path: Path) -> None:
    place = tmp_path / "elsewhere"
    place.mkdir()
    run(file=str(tmp_path / "end"))  # there is a server, with another folder and another mask
    done = run(
        "--json", "record", file="../end", cwd=place, umask=0o027, env=os.environ | {"PROOF": "1"}
    )
    assert done.returncode == 0
    record = place / "record"
    until(lambda: record.exists() and record.read_text().endswith("}\n"))
    assert json.loads(record.read_text())["reason"] == "triple-fault"
    assert record.stat().st_mode & 0o777 == 0o640


def test_a_mistake_starts_no_server() -> None:
    assert run("-m", "nonsense").returncode == status.USAGE
    assert run(file="nothing").returncode == status.USAGE
    assert processes() == {}


@pytest.mark.parametrize(
    ("words", "file", "code", "text"),
    [
        (("--name", "web"), "say", status.USAGE, "a VM named web is running already"),
        ((), "nothing", status.USAGE, "--kernel nothing: there is no such file"),
        (("--kvm", "nothing"), "say", status.HOST, "nothing"),
        (("--json", "-"), "say", status.USAGE, "with --detach name a file"),
        (("--summary",), "say", status.USAGE, "--summary needs a terminal"),
        (("--log", "no/where"), "say", status.USAGE, "--log no/where: No such file"),
    ],
)
def test_what_cannot_start_says_why(
    words: tuple[str, ...], file: str, code: int, text: str
) -> None:
    run("--name", "web")
    done = run(*words, file=file)
    assert (done.returncode, done.stdout) == (code, "")
    assert text in done.stderr
    assert names() == ["web"]
    stop("web")


def test_a_refused_run_leaves_the_log_of_a_running_vm_alone(tmp_path: Path) -> None:
    log = tmp_path / "web.log"
    run("--name", "web", "--log", "web.log")
    until(lambda: log.read_bytes() == b"h\n")
    for words in (["--name", "web"], ["--name", "other"]):
        done = run(*words, "--log", "web.log")
        assert done.returncode == status.USAGE, done
        assert "web.log: it is in use" in done.stderr
        assert log.read_bytes() == b"h\n"
    stop("web")


def test_a_run_that_cannot_start_empties_no_log_and_makes_none(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("kept")
    run("--name", "web")
    for name in ("old", "new"):
        done = run("--name", "web", "--log", name)
        assert "a VM named web is running already" in done.stderr
        done = run("--log", name, "--json", "no/where")
        assert (done.returncode, "--json no/where: No such file" in done.stderr) == (
            status.USAGE,
            True,
        )
        done = run("--log", name, "--json", f"./{name}")
        assert (done.returncode, "is the same file as" in done.stderr) == (status.USAGE, True)
    assert (tmp_path / "old").read_text() == "kept"
    assert not (tmp_path / "new").exists()
    stop("web")


# Where things lie.


def places(name: str) -> dict[str, int]:
    """Of a VM's process: where its guest's RAM, its heap's end, a stack and the code of pyvmm lie.

    Our threads' stacks are the mappings without huge pages. Their sizes tell nothing, because stacks
    that are guarded without a mapping (glibc 2.42) are one mapping together.
    """
    with connect(name) as vm:
        pid = vm.call("info")["pid"]
        fd, slots = vm.memory()
        os.close(fd)
    found = {"RAM": slots[0][2]}
    for each in mappings(pid):
        if each.name == "[heap]":
            found["heap"] = each.end
        elif "_core" in each.name:
            found.setdefault("code", each.start)
        elif "nh" in each.flags and not each.name:
            found["stack"] = each.start
    return found


def test_what_a_vm_adds_lies_where_no_other_one_has_it() -> None:
    names = ("one", "two", "three")
    for name in names:
        assert run("--name", name).returncode == status.OK
    found = [places(name) for name in names]
    assert len({place["code"] for place in found}) == 1, "they are forked"
    for what in ("RAM", "heap", "stack"):
        assert len({place[what] for place in found}) == len(names), what
    for name in names:
        stop(name)


def test_a_vm_that_is_not_forked() -> None:
    """Has code of its own, everything else of a run in the background, and no server."""
    for name in ("one", "two"):
        done = run("--name", name, "--no-fork", "--log", f"{name}.log")
        assert (done.returncode, done.stdout, done.stderr) == (status.OK, f"{name}\n", "")
    one, two = places("one"), places("two")
    for what in one:
        assert one[what] != two[what], what
    until(lambda: Path("one.log").read_bytes() == b"h\n")
    assert len(processes()) == 2
    for name in ("one", "two"):
        stop(name)
    until(lambda: not processes())


def test_a_vm_that_is_not_forked_and_cannot_run() -> None:
    done = run("--no-fork", "-c", "9999999")
    assert (done.returncode, done.stdout) == (status.USAGE, "")
    assert "9999999 vCPUs" in done.stderr
    words = [sys.executable, "-m", "pyvmm", "run", "-k", "say", "--flat", "long", "--no-fork"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == status.USAGE
    assert "--no-fork says how to detach" in done.stderr
