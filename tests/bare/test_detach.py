# SPDX-License-Identifier: Apache-2.0
"""`pyvmm run --detach`: VMs in the background, forked from one process; bare-metal guests on this machine's KVM."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from pyvmm.config import from_plain, to_json
from pyvmm.control.client import connect, running
from pyvmm.control.runtime_dir import RuntimeDir
from pyvmm.errors import HostError
from pyvmm.launch import detach, forkserver, status
from pyvmm.launch.options import Options
from pyvmm.launch.plan import Plan
from tests.support import bare
from tests.support.mappings import mappings
from tests.support.waiting import SECONDS, until

#: Says a word on the serial port and sleeps.
SAY = "mov dx, 0x3f8; mov al, 0x68; out dx, al; mov al, 0x0a; out dx, al; 1: hlt; jmp 1b"
#: Ends at once: a triple fault.
END = "ud2"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The runtime directory that will be; afterwards nothing runs that was started there."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "say").write_bytes(bare.assemble(SAY))
    (tmp_path / "end").write_bytes(bare.assemble(END))
    yield tmp_path / "pyvmm"
    for process in processes().values():
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def processes() -> dict[int, psutil.Process]:
    """Of the fork server's program with our runtime directory, by their numbers."""
    found = {}
    for process in psutil.process_iter():
        try:
            ours = process.environ().get("XDG_RUNTIME_DIR") == os.environ["XDG_RUNTIME_DIR"]
            if ours and "pyvmm.launch.forkserver" in process.cmdline():
                found[process.pid] = process
        except psutil.Error:
            pass  # gone, or a zombie
    return found


def parents() -> dict[psutil.Process, int]:
    """The parent of each."""
    found = {}
    for process in processes().values():
        try:
            found[process] = process.ppid()
        except psutil.Error:
            pass
    return found


def servers() -> list[psutil.Process]:
    """Those that are no other one's child."""
    found = parents()
    pids = {process.pid for process in found}
    return [process for process, parent in found.items() if parent not in pids]


def children() -> list[psutil.Process]:
    """The VMs of the servers that are there."""
    found = parents()
    pids = {process.pid for process in found}
    return [process for process, parent in found.items() if parent in pids]


def run(*words: str, file: str = "say", **options: Any) -> subprocess.CompletedProcess[str]:
    """`pyvmm run --detach` of a bare guest."""
    command = [
        sys.executable,
        "-m",
        "pyvmm",
        "run",
        "--detach",
        "-k",
        file,
        "--flat",
        "protected",
        "-m",
        "2M",
    ]
    return subprocess.run(
        [*command, *words], capture_output=True, text=True, timeout=SECONDS, check=False, **options
    )


def planned(name: str, **options: Any) -> Plan:
    """A run of the guest that says a word, as its visitor plans it."""
    given = {"kernel": "say", "flat": "protected", "memory": "2M", "name": name, "detach": True}
    args = Options()
    vars(args).update(given | options)
    return Plan(args)


def stop(name: str) -> None:
    with connect(name) as client:
        client.call("stop")
        client.wait_gone()


def names() -> list[str]:
    return [info["name"] for info in running()]


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


def test_a_server_that_is_stopped_is_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(detach, "PATIENCE", 0.2)
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(HostError, match="is the fork server stopped"):
        detach.exchange(ours, b"run", (1, 1))
