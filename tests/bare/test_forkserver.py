# SPDX-License-Identifier: Apache-2.0
"""The process that VMs in the background are forked from; bare-metal guests on this machine's KVM."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from pyvmm.config import from_plain, to_json
from pyvmm.control.client import running
from pyvmm.control.runtime_dir import RuntimeDir
from pyvmm.errors import HostError
from pyvmm.launch import detach, forkserver
from pyvmm.launch.options import Options
from tests.support.background import children, names, planned, processes, run, servers, stop
from tests.support.waiting import SECONDS, until

pytestmark = pytest.mark.usefixtures("folder")


def test_a_child_becomes_its_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROOF", "caf\udce9")
    plan = planned("child", command=[])
    line = detach.request(plan)
    (tmp_path / "there").mkdir()
    log = os.open("log", os.O_WRONLY | os.O_CREAT, 0o644)
    here = os.open("there", os.O_PATH)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        socket.send_fds(ours, [line], [log, here])
        pid = os.fork()
        if not pid:
            os.environ.clear()
            args = Options()
            record = to_json(forkserver.Child(theirs).take_over(args).config)
            said = {"options": vars(args), "environment": dict(os.environ), "folder": os.getcwd()}
            said["record"] = record
            os.write(1, json.dumps(said).encode())
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
    said = json.loads((tmp_path / "log").read_text())
    assert said["options"] == vars(plan.args) | {"log_to_empty": True}
    assert said["record"] == to_json(plan.config)
    assert said["environment"] == dict(os.environ)
    assert said["folder"] == str(tmp_path / "there")
    os.close(log)
    os.close(here)


def test_a_large_initial_ram_disk_goes_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As bytes of the record: what is made of a kernel's modules is in no file."""
    plan = planned("large")
    boot = plan.config.boot._replace(initrd=(bytes(range(256)) * (3 << 13), "a file"))
    plan.config = plan.config._replace(boot=boot)
    ours, theirs = socket.socketpair()
    with ours, theirs, ThreadPoolExecutor(1) as pool:
        sending = pool.submit(ours.sendall, detach.request(plan))
        message = detach.unpacked(theirs)
        sending.result(SECONDS)
    assert from_plain(message["config"]) == plan.config
    monkeypatch.setattr(detach, "LARGEST", 1 << 20)
    with pytest.raises(HostError, match="initial RAM disk"):
        detach.request(plan)


def test_many_at_once_have_one_server() -> None:
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda number: run("--name", f"vm{number}"), range(8)))
    assert [one.stderr for one in done] == [""] * 8
    assert names() == [f"vm{number}" for number in range(8)]
    assert len(servers()) == 1
    for name in names():
        stop(name)


def test_memory_is_shared() -> None:
    for number in range(4):
        run("--name", f"vm{number}")
    found = [child.memory_full_info() for child in children()]
    # What a process of its own would have for itself is two thirds of it or more.
    assert len(found) == 4
    assert sum(one.pss for one in found) < 0.6 * sum(one.rss for one in found)


def test_vms_outlive_the_server() -> None:
    run("--name", "first")
    [server] = servers()
    [child] = children()
    server.kill()
    until(lambda: server.pid not in processes())
    assert run("--name", "second").stdout == "second\n"
    assert names() == ["first", "second"]
    stop("first")
    stop("second")
    until(lambda: child.pid not in processes())


def test_other_limits_have_another_server() -> None:
    import resource

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))

    run("--name", "first")
    run("--name", "second", preexec_fn=limit)
    assert len(servers()) == 2
    found = {info["name"]: psutil.Process(info["pid"]) for info in running()}
    assert found["second"].rlimit(psutil.RLIMIT_NOFILE) == (200, 200)
    assert found["first"].rlimit(psutil.RLIMIT_NOFILE) != (200, 200)
    stop("first")
    stop("second")


NONSENSE = {
    "nothing": b"",
    "a part of a length": b"\1",
    "a part of a message": b"\2\0\0\0{",
    "a length beyond all measure": b"\xff\xff\xff\xff",
    "no message": b"\4\0\0\0aaaa",
    "no descriptors": detach.packed({"options": {}, "umask": 0, "environment": {}, "empty": True}),
}


@pytest.mark.parametrize("line", NONSENSE.values(), ids=NONSENSE)
def test_nonsense_does_no_harm(line: bytes) -> None:
    run("--name", "web")
    with RuntimeDir() as directory:
        visitor = directory.connect(socket_name())
        assert visitor is not None
        with visitor:
            visitor.sendall(line)
            visitor.shutdown(socket.SHUT_WR)
            visitor.settimeout(SECONDS)
            assert detach.unpacked(visitor) == {}
            assert "error" in detach.unpacked(visitor)
    assert run("--name", "after").returncode == 0
    assert len(servers()) == 1
    stop("web")
    stop("after")


def socket_name() -> str:
    """Of the only server there is: the tests' own process need not be like its client."""
    [found] = (Path(os.environ["XDG_RUNTIME_DIR"]) / "pyvmm").glob(f"{detach.PREFIX}*.sock")
    return found.name.removesuffix(".sock")


def test_one_whose_caller_has_gone_does_not_run() -> None:
    run("--name", "first")
    with RuntimeDir() as directory:
        visitor = directory.connect(socket_name())
        assert visitor is not None
        log, here = os.open(os.devnull, os.O_WRONLY), os.open(".", os.O_PATH)
        socket.send_fds(visitor, [detach.request(planned("lost"))], [log, here])
        visitor.close()
        os.close(log)
        os.close(here)
    until(lambda: len(children()) == 1)
    assert names() == ["first"]
    stop("first")


#: A fork server that notes what its children had to import.
NOTING = """
import os, sys
from pyvmm.launch import forkserver
def noting(child, teach=forkserver.Child.teach):
    with open("imports", "a") as file:
        print(*sorted(sys.modules.keys() - child.known), file=file)
    teach(child)
forkserver.Child.teach = noting
forkserver.main(sys.argv[1:])
"""


def ask(server: str, name: str, **options: Any) -> None:
    """Has a run of the guest that says a word, by the server of that name."""
    request = detach.request(planned(name, **options))
    with RuntimeDir() as directory:
        visitor = directory.connect(server)
        assert visitor is not None
        with visitor, open(os.devnull, "wb") as log:
            here = os.open(".", os.O_PATH)
            socket.send_fds(visitor, [request], [log.fileno(), here])
            os.close(here)
            assert detach.unpacked(visitor) == {}
            answer = detach.unpacked(visitor)
            assert answer.get("name") == name, answer


def test_a_server_learns_what_its_runs_import(tmp_path: Path) -> None:
    """The second of a kind has all there is before its guest's first instruction."""
    (tmp_path / "disk").write_bytes(bytes(1 << 20))
    more = {"disk": ["disk,format=raw"], "swap": "2M", "console": "virtio", "debug_exit": True}
    kinds: list[dict[str, Any]] = [{}, more]
    with RuntimeDir() as directory:
        listener = directory.claim(".forkserver-test")
        fd = listener.fileno()
        server = subprocess.Popen(
            [sys.executable, "-c", NOTING, str(fd), ".forkserver-test"], pass_fds=[fd]
        )
        listener.close()
    notes = tmp_path / "imports"
    try:
        for kind in kinds:
            for name in ("first", "second"):
                ask(".forkserver-test", name, **kind)
                stop(name)
    finally:
        server.kill()
        server.wait()
    lines = notes.read_text().splitlines()
    assert [bool(line) for line in lines] == [True, False, True, False], lines
    assert "pyvmm.devices.virtio_blk" in lines[2].split()


def test_a_server_that_is_idle_goes(tmp_path: Path) -> None:
    with RuntimeDir() as directory:
        listener = directory.claim(".forkserver-test")
        code = "import sys; from pyvmm.launch import forkserver; forkserver.IDLE = 0.1; forkserver.main(sys.argv[1:])"
        fd = listener.fileno()
        server = subprocess.Popen(
            [sys.executable, "-c", code, str(fd), ".forkserver-test"], pass_fds=[fd]
        )
        listener.close()
        assert server.wait(SECONDS) == 0
        assert directory.connect(".forkserver-test") is None
    assert not (tmp_path / "pyvmm/.forkserver-test.sock").exists()


def test_a_server_that_is_told_to_end_leaves_its_vms() -> None:
    run("--name", "first")
    [server] = servers()
    server.terminate()
    until(lambda: server.pid not in processes())
    assert names() == ["first"]
    stop("first")


def test_a_server_that_is_stopped_is_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(detach, "PATIENCE", 0.2)
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(HostError, match="is the fork server stopped"):
        detach.exchange(ours, b"run", (1, 1))
