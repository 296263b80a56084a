# SPDX-License-Identifier: Apache-2.0
"""The directory of control sockets: where it is, when it is refused, dead sockets, races for a name."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.control import runtime_dir
from pyvmm.control.client import running
from pyvmm.control.runtime_dir import RuntimeDir, check_name, place, refuse_taken
from pyvmm.errors import ConfigError, HostError
from tests.support.fake_vm import served


def dead_socket(folder: Path, name: str) -> None:
    """What a killed VM leaves."""
    RuntimeDir().close()
    with socket.socket(socket.AF_UNIX) as left, RuntimeDir() as directory:
        left.bind(f"/proc/self/fd/{directory.fd}/{name}.sock")
        left.listen()
    assert (folder / f"{name}.sock").is_socket()


# Names.


@pytest.mark.parametrize("name", ["web", "a", "vm-12", "A.b_c-9", "x" * 64, "0"])
def test_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "x" * 65, ".lock", "-x", "..", "a/b", "a b", "a\n", "ä", "a\0", "x;y", "²"]
)
def test_bad_names(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be the name of a VM"):
        check_name(name)


@given(st.text())
def test_a_good_name_is_a_plain_file_name(name: str) -> None:
    try:
        check_name(name)
    except ConfigError:
        return
    assert name.isascii()
    assert os.path.basename(name) == name
    assert len(os.fsencode(name + runtime_dir.SUFFIX)) <= 255


# The place.


def test_xdg_runtime_dir_is_the_place(folder: Path) -> None:
    assert place() == str(folder)


@pytest.mark.parametrize("value", ["", "relative", "/nonexistent/run"])
def test_a_runtime_dir_that_is_none(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uid = os.geteuid()
    monkeypatch.setenv("XDG_RUNTIME_DIR", value)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    expected = f"/run/user/{uid}/pyvmm"
    if not os.path.isdir(f"/run/user/{uid}"):
        expected = f"{tmp_path}/pyvmm-{uid}"
    assert place() == expected


def test_the_runtime_dir_of_somebody_else_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = os.geteuid() + 12345
    monkeypatch.setenv("TMPDIR", "/tmp")
    monkeypatch.setattr("os.geteuid", lambda: other)
    assert place() == f"/tmp/pyvmm-{other}"


def test_it_is_made_for_the_user_alone(folder: Path) -> None:
    before = os.umask(0)
    try:
        RuntimeDir().close()
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701, 0o1777])
def test_open_to_others(mode: int, folder: Path) -> None:
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(HostError, match=f"open to other users .*chmod 700 {folder}"):
        RuntimeDir()


def test_of_another_user(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    RuntimeDir().close()
    where, uid = place(), os.geteuid()
    monkeypatch.setattr(runtime_dir, "place", lambda: where)
    monkeypatch.setattr("os.geteuid", lambda: uid + 1)
    with pytest.raises(HostError, match=f"belongs to user {uid}.*set XDG_RUNTIME_DIR"):
        RuntimeDir()


def test_a_symbolic_link_or_a_file_in_its_place(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir(mode=0o700)
    folder.symlink_to(target)
    with pytest.raises(HostError, match="cannot hold control sockets"):
        RuntimeDir()
    folder.unlink()
    folder.touch()
    with pytest.raises(HostError, match="cannot hold control sockets: it is no directory"):
        RuntimeDir()


def test_a_parent_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_dir, "place", lambda: "/proc/pyvmm")
    with pytest.raises(HostError, match="/proc/pyvmm for control sockets cannot be made"):
        RuntimeDir()


def test_refusals_leak_nothing(folder: Path) -> None:
    folder.mkdir(mode=0o755)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(HostError):
            RuntimeDir()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_path_of_any_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * 100) / ("y" * 100)
    long.mkdir(parents=True)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    with served(name="n" * 64) as server:
        assert len(server.path) > 108
        assert [info["name"] for info in running()] == ["n" * 64]
    assert running() == []


# Sockets.


def test_a_socket_is_for_the_user_alone(folder: Path) -> None:
    with served() as server:
        assert server.path == str(folder / "web.sock")
        assert stat.S_IMODE(os.stat(server.path).st_mode) == 0o600
    assert not (folder / "web.sock").exists()


def test_a_name_that_runs_is_refused() -> None:
    refuse_taken("web")
    with served():
        with pytest.raises(ConfigError, match=r"web is running already.*pyvmm stop web"):
            served().__enter__()
        with pytest.raises(ConfigError, match="web is running already"):
            refuse_taken("web")
        refuse_taken("web2")
    refuse_taken("web")
    with served():
        pass


def test_a_dead_socket_is_replaced(folder: Path) -> None:
    dead_socket(folder, "web")
    refuse_taken("web")
    with served():
        assert [info["name"] for info in running()] == ["web"]


def test_dead_sockets_are_removed_by_a_list(folder: Path) -> None:
    dead_socket(folder, "a")
    dead_socket(folder, "b")
    with served(name="c"):
        assert [info["name"] for info in running()] == ["c"]
        assert sorted(os.listdir(folder)) == [".lock", "c.sock"]


def test_what_is_no_socket_is_left_alone(folder: Path) -> None:
    RuntimeDir().close()
    (folder / "file.sock").write_text("mine")
    (folder / "link.sock").symlink_to("file.sock")
    (folder / "-bad.sock").touch()
    assert running() == []
    with pytest.raises(HostError, match=r"file\.sock: Address already in use"):
        served(name="file").__enter__()
    assert (folder / "file.sock").read_text() == "mine"
    assert (folder / "link.sock").is_symlink()


KILLED = """
import sys, time
from tests.support.fake_vm import FakeVM
from pyvmm.control.server import Server
Server(FakeVM(), sys.argv[1])
print("up", flush=True)
time.sleep(600)
"""


def test_a_killed_vmm_is_not_listed(folder: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, "web"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        assert [info["pid"] for info in running()] == [process.pid]
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert (folder / "web.sock").is_socket()
        assert running() == []
        assert not (folder / "web.sock").exists()


def test_a_stopped_vmm_is_listed_as_silent(folder: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, "web"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGSTOP)
        try:
            (found,) = running(0.3)
            assert (found["name"], found["state"]) == ("web", "silent")
            assert "is its process stopped?" in found["error"]
            with pytest.raises(ConfigError, match="web is running already"):
                refuse_taken("web")
        finally:
            process.kill()


def test_a_full_queue_is_alive(folder: Path) -> None:
    """Nobody accepts, and the queue holds no more: somebody listens all the same."""
    RuntimeDir().close()
    waiting = []
    with socket.socket(socket.AF_UNIX) as listener, RuntimeDir() as directory:
        listener.bind(f"/proc/self/fd/{directory.fd}/web.sock")
        listener.listen(1)
        for _ in range(3):
            one = socket.socket(socket.AF_UNIX)
            one.setblocking(False)
            waiting.append(one)
            try:
                one.connect(f"/proc/self/fd/{directory.fd}/web.sock")
            except BlockingIOError:
                break
        assert directory.is_alive("web")
        assert not directory.remove_dead("web")
        with pytest.raises(HostError, match=r"web\.sock: Resource temporarily unavailable"):
            directory.connect("web", 0.1)
        for one in waiting:
            one.close()


# Races.


def race(claims: int, cleans: int) -> tuple[list[socket.socket], list[ConfigError]]:
    """Those that got the name, and what those heard that did not, while others clean up."""
    barrier = threading.Barrier(claims + cleans)
    won: list[socket.socket] = []
    lost: list[ConfigError] = []

    def claim() -> None:
        with RuntimeDir() as directory:
            barrier.wait()
            try:
                won.append(directory.claim("web"))
            except ConfigError as error:
                lost.append(error)

    def clean() -> None:
        with RuntimeDir() as directory:
            barrier.wait()
            directory.remove_dead("web")

    threads = [threading.Thread(target=target) for target in [claim] * claims + [clean] * cleans]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return won, lost


def test_one_of_many_gets_a_name(folder: Path) -> None:
    """Over a dead socket: one wins, and its socket is there afterwards."""
    for _ in range(10):
        dead_socket(folder, "web")
        won, lost = race(6, 6)
        assert (len(won), len(lost)) == (1, 5)
        with RuntimeDir() as directory:
            assert directory.is_alive("web")
        won[0].close()
        (folder / "web.sock").unlink()


def test_an_ended_vm_leaves_the_socket_of_a_successor(folder: Path) -> None:
    with ExitStack() as first:
        first.enter_context(served())
        (folder / "web.sock").unlink()  # somebody tidied up
        with served() as second:
            first.close()
            assert os.path.exists(second.path)
            assert [info["name"] for info in running()] == ["web"]
        assert not os.path.exists(second.path)


def test_a_lock_that_is_held(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_dir, "LOCK_SECONDS", 0.05)
    before = len(os.listdir("/proc/self/fd"))
    with RuntimeDir() as directory, RuntimeDir() as other:
        with directory.locked(), pytest.raises(HostError, match=r"\.lock has been held"):
            other.claim("web")
        other.claim("web").close()
    assert len(os.listdir("/proc/self/fd")) == before
