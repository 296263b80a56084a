# SPDX-License-Identifier: Apache-2.0
"""VMs found by name and controlled over their sockets: bare-metal guests on this machine's KVM."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pyvmm.cli import vms
from pyvmm.cli.main import main
from pyvmm.config import CpuState
from pyvmm.control import client
from pyvmm.control.client import connect, running
from pyvmm.errors import ConfigError, StateError, SymcallError
from pyvmm.launch import status
from pyvmm.machine.hooks import Exit
from pyvmm.vm import VM
from tests.support import bare
from tests.support.waiting import SECONDS, until

#: Counts at 0x2000 for ever, with an exit each time: an emulated one is interrupted nowhere else.
COUNT = "1: inc dword ptr [0x2000]; out 0xe0, al; jmp 1b"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The runtime directory that will be."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "pyvmm"


def counting(code: str = COUNT, cpus: int = 1) -> VM:
    """A VM that runs it, not started."""
    vm = VM("2M", cpus, irqchip=cpus > 1)
    vm.memory.write(bare.CODE, bare.assemble(code))
    vm.load_state(CpuState("protected", rip=bare.CODE, rsp=bare.STACK))
    return vm


def count(vm: VM) -> int:
    return int.from_bytes(vm.memory.read(0x2000, 4), "little")


@contextmanager
def program(folder: Path, *options: str, code: str = COUNT) -> Iterator[subprocess.Popen[str]]:
    """`pyvmm run` of a bare guest; killed at the end if it still runs."""
    flat = folder.parent / "flat"
    flat.write_bytes(bare.assemble(code))
    words = ["run", "-k", str(flat), "--flat", "protected", "-m", "2M", *options]
    process = subprocess.Popen(
        [sys.executable, "-m", "pyvmm", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def names() -> list[str]:
    return [vm["name"] for vm in running()]


Said = pytest.CaptureFixture[str]

# In one process.


def test_a_served_vm_pauses_resumes_and_stops() -> None:
    with counting() as vm:
        vm.start()
        vm.serve("web")
        with connect("web") as talk:
            until(lambda: count(vm) > 0)
            assert talk.call("pause") == {"state": "paused"}
            at = count(vm)
            time.sleep(0.1)
            assert count(vm) == at
            assert talk.call("info")["exits"] == vm.machine.exits()
            assert talk.call("resume") == {"state": "running"}
            until(lambda: count(vm) > at)
            assert talk.call("stop")["state"] in ("stopping", "ended")
            result = vm.run()
            assert result.reason == "stopped"
            assert talk.call("ping")["state"] == "ended"
            with pytest.raises(StateError, match="only a running one can be paused"):
                talk.call("pause")
    assert names() == []


def test_the_swap_disk_of_a_guest_that_does_not_use_it(capsys: Said) -> None:
    with counting(cpus=2) as vm:
        vm.add_swap("4M", "symcall", policy="always")
        vm.start()
        vm.serve("web")
        assert main(["swap", "web"]) == status.OK
        text = capsys.readouterr().out
        assert "disk      pyvmm-swap, 4.0 MiB in host memory\n" in text
        assert "guest     has not taken the aperture\n" in text
        options = ["--mode", "direct", "--policy", "never", "--json"]
        assert main(["swap", "web", *options]) == status.OK
        said = json.loads(capsys.readouterr().out)
        assert (said["mode"], said["effective"], said["policy"]) == ("direct", "off", "never")
        assert vm.swap is not None
        assert (vm.swap.mode, vm.swap.policy) == ("direct", "never")
        assert main(["swap", "web", "--policy", "quota"]) == status.USAGE
        assert vm.swap.policy == "never"
        assert main(["swap", "web", "--policy", "quota", "--quota", "1M"]) == status.OK
        assert vm.swap.quota == 1 << 20
        assert main(["swap", "web", "--evict"]) == vms.REFUSED
        assert "symbiotic driver" in capsys.readouterr().err


def test_a_swap_disk_that_is_only_a_disk(capsys: Said) -> None:
    with VM("2M", symbiotic=False) as vm:
        vm.add_swap("4M")
        vm.serve("web")
        assert main(["swap", "web"]) == status.OK
        assert "mode      off\n" in capsys.readouterr().out
        assert main(["swap", "web", "--mode", "direct"]) == status.USAGE
        assert "not symbiotic" in capsys.readouterr().err


def test_top_of_a_bare_guest(capsys: Said) -> None:
    with counting() as vm:
        vm.start()
        vm.serve("web")
        words = ["top", "--count=1", "--interval=0.2", "web"]
        assert main(words) == status.OK
        assert "guest  cannot be asked: " in capsys.readouterr().out
        assert main([*words, "--json"]) == status.OK
        record = json.loads(capsys.readouterr().out)
        assert record["exits"]["io"] > 0
        assert record["host"]["vcpu_percent"][0] is not None
        assert record["swap"] is None
        vm.pause()
        assert main([*words, "--json"]) == status.OK
        record = json.loads(capsys.readouterr().out)
        assert (record["state"], record["exits"]["io"]) == ("paused", 0)


def test_two_vms_of_one_process() -> None:
    with counting() as one, counting() as two:
        for vm, name in ((one, "one"), (two, "two")):
            vm.start()
            vm.serve(name)
        with pytest.raises(ConfigError, match="one is running already"), counting() as third:
            third.serve("one")
        with pytest.raises(StateError, match="served already, as one"):
            one.serve("another")
        assert names() == ["one", "two"]
        one.close()
        assert names() == ["two"]
        with pytest.raises(StateError, match="is closed"):
            one.serve()


def test_a_vm_that_is_not_started_is_served() -> None:
    with counting() as vm:
        assert vm.serve().endswith(f"/vm-{os.getpid()}.sock")
        with connect() as talk:
            assert talk.call("info")["state"] == "built"
            with pytest.raises(StateError):
                talk.call("pause")
            vm.start()
            assert talk.call("info")["state"] == "running"


def test_memory_of_a_running_guest() -> None:
    with counting() as vm:
        vm.start()
        vm.serve("web")
        with connect("web") as talk:
            fd, ram = talk.memory()
        try:
            ((gpa, size, host),) = ram
            assert (gpa, size) == (0, 2 << 20)
            code = bare.assemble(COUNT)
            assert os.pread(fd, len(code), host + bare.CODE) == code
            until(lambda: any(os.pread(fd, 4, host + 0x2000)))
        finally:
            os.close(fd)


def test_a_guest_without_symcalls_says_so() -> None:
    with counting() as vm:
        vm.start()
        vm.serve("web")
        with connect("web") as talk:
            for op in ("tasks", "facts", "memory-stats"):
                with pytest.raises(SymcallError) as caught:
                    talk.call(op)
                assert caught.value.reason == "absent"
            assert talk.call("info")["symcalls"]["refused_absent"] >= 3


def test_a_client_waits_for_a_vcpu_that_a_hook_holds() -> None:
    """Others are answered meanwhile, and the end of the VM ends the waiting."""
    entered, go = threading.Event(), threading.Event()

    def hold(exit: Exit) -> None:
        entered.set()
        go.wait(SECONDS)

    with counting() as vm:
        vm.on_port(0xE0)(hold)
        vm.start()
        vm.serve("web")
        assert entered.wait(SECONDS)
        with connect("web") as waiting, connect("web") as other:
            answers: list[Any] = []
            thread = threading.Thread(target=lambda: answers.append(waiting.call("pause")))
            thread.start()
            until(lambda: vm.state == "paused")
            assert other.call("ping")["state"] == "paused"
            threading.Timer(0.3, go.set).start()
            vm.close()
            thread.join()
        assert len(answers) == 1


def test_closing_leaves_nothing_behind(folder: Path) -> None:
    with counting() as vm:
        vm.serve("first")
    before, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    for _ in range(5):
        with counting() as vm:
            vm.start()
            vm.serve("web")
            with connect("web") as talk:
                talk.call("ping")
    assert os.listdir(folder) == [".lock"]
    # A client that left by itself is nobody's to wait for: its thread may be at its last lines.
    until(lambda: len(os.listdir("/proc/self/fd")) == before)
    until(lambda: threading.active_count() == threads)


def test_close_from_a_hook_is_refused_with_a_server_too() -> None:
    refused: list[Exception] = []

    def close(exit: Exit) -> None:
        try:
            vm.close()
        except StateError as error:
            refused.append(error)
        vm.stop()

    with counting() as vm:
        vm.on_port(0xE0)(close)
        vm.start()
        vm.serve("web")
        assert vm.run(SECONDS).reason == "stopped"
        assert names() == ["web"]
    assert "cannot close" in str(refused[0])


# By the command line.


def test_a_named_run(folder: Path, capsys: Said) -> None:
    with program(folder, "--name", "web") as process:
        until(lambda: names() == ["web"])
        assert main(["info", "--json", "web"]) == status.OK
        info = json.loads(capsys.readouterr().out)
        assert (info["pid"], info["state"], info["cpus"]) == (process.pid, "running", 1)
        assert (info["memory"], info["kernel"]) == (2 << 20, str(folder.parent / "flat"))
        assert main(["pause"]) == status.OK
        assert main(["list"]) == status.OK
        assert " paused " in capsys.readouterr().out
        assert main(["resume", "web"]) == status.OK
        assert main(["ps", "web"]) == vms.REFUSED
        assert main(["symcall", "web", "1", "5", "6"]) == vms.REFUSED
        assert "the guest has not registered an entry" in capsys.readouterr().err
        assert main(["stop", "web"]) == status.OK
        assert names() == []
        assert process.wait(SECONDS) == status.STOPPED
    assert os.listdir(folder) == [".lock"]


def test_stop_of_a_paused_run(folder: Path) -> None:
    with program(folder, "--name", "web") as process:
        until(lambda: names() == ["web"])
        assert main(["pause"]) == main(["stop"]) == status.OK
        assert process.wait(SECONDS) == status.STOPPED


def test_a_run_without_a_name(folder: Path) -> None:
    with program(folder) as process:
        until(lambda: names() == [f"vm-{process.pid}"])
        process.terminate()
        assert process.wait(SECONDS) == status.STOPPED
        assert os.listdir(folder) == [".lock"]


def test_a_second_run_of_a_name(folder: Path) -> None:
    with program(folder, "--name", "web") as first:
        until(lambda: names() == ["web"])
        with program(folder, "--name", "web") as second:
            assert second.wait(SECONDS) == status.USAGE
            assert second.stdout is not None
            assert "web is running already" in second.stdout.read()
        assert [vm["pid"] for vm in running()] == [first.pid]


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (signal.SIGINT, status.INTERRUPTED),
        (signal.SIGTERM, status.STOPPED),
        (signal.SIGHUP, status.HUNG_UP),
    ],
)
def test_a_signal_leaves_no_socket(number: int, expected: int, folder: Path) -> None:
    with program(folder, "--name", "web") as process:
        until(lambda: names() == ["web"])
        process.send_signal(number)
        assert process.wait(SECONDS) == expected
        assert os.listdir(folder) == [".lock"]


def test_a_vm_whose_process_is_stopped_is_not_waited_for(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with program(folder, "--name", "web") as process:
        until(lambda: names() == ["web"])
        process.send_signal(signal.SIGSTOP)
        until(lambda: client.is_stopped(process.pid))
        assert main(["info", "web"]) == status.HOST
        assert f"its process is stopped; kill -CONT {process.pid}" in capsys.readouterr().err
        [found] = running()
        assert (found["state"], "is stopped" in found["error"]) == ("silent", True)
        # One that goes on in time has its answer.
        threading.Timer(1.5 * client.LOOK, process.send_signal, [signal.SIGCONT]).start()
        assert main(["stop", "web"]) == status.OK
        assert process.wait(SECONDS) == status.STOPPED
    assert not client.is_stopped(process.pid)


def test_a_killed_run_is_not_listed_and_its_name_is_free(folder: Path) -> None:
    with program(folder, "--name", "web") as process:
        until(lambda: names() == ["web"])
        process.kill()
        process.wait()
        assert (folder / "web.sock").exists()
        with program(folder, "--name", "web") as second:
            until(lambda: [vm["pid"] for vm in running()] == [second.pid])
            second.kill()
            second.wait()
        assert names() == []
        assert os.listdir(folder) == [".lock"]


def test_a_guest_that_ends_leaves_no_socket(folder: Path) -> None:
    code = "mov al, 7; out 0xf4, al; mov dx, 0x604; mov ax, 0x3400; out dx, ax; hlt"
    with program(folder, "--name", "web", code=code) as process:
        assert process.wait(SECONDS) == 7
        assert os.listdir(folder) == [".lock"]


def test_an_unsafe_directory(folder: Path) -> None:
    """Who gave a name has an error; who gave none has a guest, and is told."""
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    code = "mov dx, 0x604; mov ax, 0x3400; out dx, ax; hlt"
    with program(folder, code=code) as process:
        assert process.wait(SECONDS) == status.OK
        assert process.stdout is not None
        assert "no control socket" in process.stdout.read()
    with program(folder, "--name", "web") as process:
        assert process.wait(SECONDS) == status.HOST
        assert process.stdout is not None
        assert "chmod 700" in process.stdout.read()
