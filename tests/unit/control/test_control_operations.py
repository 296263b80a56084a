# SPDX-License-Identifier: Apache-2.0
"""The operations of the control socket: what can be asked of a VM, and of its swap disk."""

from __future__ import annotations

import json
import os
import threading
from functools import partial
from typing import Any

import pytest

import pyvmm
from pyvmm.control import operations, protocol
from pyvmm.control.client import connect
from pyvmm.control.protocol import ProtocolError
from pyvmm.errors import ConfigError, StateError, SymcallError
from tests.support import waiting
from tests.support.fake_vm import (
    SECONDS,
    FakeSwap,
    FakeVM,
    descriptors,
    served,
    task,
)

until = partial(waiting.until, seconds=SECONDS)


def test_ping_and_info() -> None:
    with served(), connect("web") as vm:
        ping = vm.call("ping")
        assert ping == {
            "name": "web",
            "pid": os.getpid(),
            "state": "running",
            "version": pyvmm.__version__,
            "protocol": 1,
        }
        info = vm.call("info")
    assert info["seconds"] >= 0
    del info["seconds"]
    assert info == ping | {
        "cpus": 2,
        "memory": 8192,
        "kernel": "vmlinux",
        "exits": {"io": 5},
        "symcalls": {"calls": 3},
        "threads": [threading.get_native_id(), None],
        "swap": None,
    }


def test_pause_resume_stop() -> None:
    vm = FakeVM()
    with served(vm), connect() as talk:
        assert talk.call("pause") == {"state": "paused"}
        assert vm.state == "paused"
        assert talk.call("resume") == {"state": "running"}
        with pytest.raises(StateError, match="the machine is running, not paused"):
            talk.call("resume")
        assert talk.call("power-button") == {"pressed": True}
        assert talk.call("stop") == {"state": "ended"}
        with pytest.raises(StateError, match="the VM has ended"):
            talk.memory()


def test_symcall_by_number() -> None:
    vm = FakeVM()
    with served(vm), connect() as talk:
        answer = talk.call("symcall", call=1, args=[5, 6], data=protocol.to_base64(b"abc"))
        assert [answer[name] for name in ("rbx", "rcx", "rdx", "rsi", "rdi")] == [6, 7, 1, 1, 1]
        assert protocol.from_base64(answer["data"]) == b"cba"
        talk.call("symcall", call=1, cpu=1)
        assert vm.made == [(0, 1, 5, 6), (1, 1)]
        big = 2**64 - 2
        assert talk.call("symcall", call=1, args=[big])["rbx"] == big + 1


@pytest.mark.parametrize("cpu", [2, -1, 2**80])
def test_a_vcpu_that_is_not_there(cpu: int) -> None:
    with (
        served(),
        connect() as talk,
        pytest.raises(ConfigError, match=f"no vCPU {cpu}; there are 0 to 1"),
    ):
        talk.call("symcall", call=1, cpu=cpu)


def test_symcall_by_name() -> None:
    vm = FakeVM()
    vm.answers["text"] = lambda cpu, *args: {"a": b"\xff\0", "b": (1, None, True), "c": list(args)}
    with served(vm), connect() as talk:
        answer = talk.call("symcall", call="text", args=[7])
        assert answer == {"a": {"base64": "/wA="}, "b": [1, None, True], "c": [7]}


def test_a_symcall_that_fails() -> None:
    with served(), connect() as talk:
        with pytest.raises(SymcallError, match="symcall 99: the guest answered") as caught:
            talk.call("symcall", call=99)
        assert (caught.value.reason, caught.value.code) == ("error", 38)
        assert talk.call("ping")


def test_tasks_facts_and_memory_statistics() -> None:
    vm = FakeVM()
    vm.answers["facts"] = lambda cpu: task(1, "as good a record as any")
    vm.answers["memory"] = lambda cpu: {"total": 5}
    with served(vm), connect() as talk:
        tasks = talk.call("tasks", threads=True)
        assert tasks == [task(1, "init")._asdict(), task(7, "sh", ppid=1)._asdict()]
        assert talk.call("facts")["comm"] == "as good a record as any"
        assert talk.call("memory-stats", cpu=1) == {"total": 5}
    assert vm.made == [(0, "tasks", True), (0, "facts"), (1, "memory")]


# The swap disk.


@pytest.mark.parametrize(
    ("op", "params"), [("swap-stats", {}), ("swap-set", {"mode": "off"}), ("swap-evict", {})]
)
def test_a_vm_without_a_swap_disk(op: str, params: dict[str, Any]) -> None:
    with served(), connect() as talk, pytest.raises(StateError, match="pyvmm run --swap SIZE"):
        talk.call(op, **params)


def test_what_a_swap_disk_says() -> None:
    vm = FakeVM()
    vm.swap = FakeSwap()
    with served(vm), connect() as talk:
        brief = {"size": 4 << 20, "mode": "symcall", "effective": "off", "policy": "pressure"}
        assert talk.call("info")["swap"] == brief
        said = talk.call("swap-stats")
        assert said == json.loads(json.dumps(protocol.plain(vm.swap.stats))) | {
            "serial": "swap-disk",
            "backing": None,
            "policy": "pressure",
            "quota": None,
        }
        assert said["guest"]["refused_reasons"] == [7, 0, 3, 20, 0, 0, 2, 0]
        vm.swap.policy = len
        vm.swap.guest = None
        assert talk.call("info")["swap"]["policy"] == "function"
        assert talk.call("swap-stats")["policy"] == "function"
        assert talk.call("swap-stats")["guest"] is None


def test_a_swap_disk_is_set() -> None:
    vm = FakeVM()
    vm.swap = FakeSwap()
    with served(vm), connect() as talk:
        said = talk.call("swap-set", mode="direct", policy="quota", quota=1 << 20)
        assert (said["mode"], said["policy"]) == ("direct", "quota")
        assert (vm.swap.mode, vm.swap.policy, vm.swap.quota) == ("direct", "quota", 1 << 20)
        with pytest.raises(ConfigError, match="choose from off, symcall, direct"):
            talk.call("swap-set", mode="fast")
        with pytest.raises(ProtocolError, match="nothing to set"):
            talk.call("swap-set")
        with pytest.raises(ProtocolError, match="'quota' is to be int"):
            talk.call("swap-set", quota="1M")


def test_pages_are_handed_back() -> None:
    vm = FakeVM()
    vm.swap = FakeSwap()
    with served(vm), connect() as talk:
        assert talk.call("swap-evict") == {"adopted": 100}
        assert talk.call("swap-evict", pages=7) == {"adopted": 100}
        assert vm.swap.evicted == [None, 7]
        vm.swap.guest = None
        with pytest.raises(SymcallError, match="No such device"):
            talk.call("swap-evict")


@pytest.mark.parametrize("reason", sorted(operations.OF_THIS_CPU))
def test_another_vcpu_answers_where_one_cannot(reason: str) -> None:
    vm = FakeVM()

    def only_the_second(cpu: int) -> Any:
        if cpu == 0:
            raise SymcallError("not here", reason)
        return {"cpu": cpu}

    vm.answers["facts"] = only_the_second
    with served(vm), connect() as talk:
        assert talk.call("facts") == {"cpu": 1}
        with pytest.raises(SymcallError, match="not here") as caught:
            talk.call("facts", cpu=0)
        assert caught.value.reason == reason


def test_no_other_vcpu_is_asked_where_it_would_not_help() -> None:
    vm = FakeVM()

    def ended(cpu: int) -> Any:
        raise SymcallError("over", "stopped")

    vm.answers["facts"] = ended
    with served(vm), connect() as talk, pytest.raises(SymcallError, match="over"):
        talk.call("facts")
    assert len(vm.made) == 1


def test_the_first_complaint_of_all_vcpus() -> None:
    vm = FakeVM()

    def none(cpu: int) -> Any:
        raise SymcallError(f"vCPU {cpu}", "absent")

    vm.answers["facts"] = none
    with served(vm), connect() as talk, pytest.raises(SymcallError, match="vCPU 0"):
        talk.call("facts")
    assert len(vm.made) == 2


def test_memory_is_read_without_the_server() -> None:
    vm = FakeVM()
    with served(vm), connect() as talk:
        talk.call("ping")
        before = descriptors()
        fd, ram = talk.memory()
        assert [(gpa, size) for gpa, size, _ in ram] == [(0, 4096), (1 << 32, 4096)]
        assert os.pread(fd, 11, ram[0][2]) == b"guest memory"[:11]
        vm.memory.buffer[4096:4100] = b"more"
        assert os.pread(fd, 4, ram[1][2]) == b"more"
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.pwrite(fd, b"x", ram[0][2])
        assert not os.get_inheritable(fd)
        os.close(fd)
        # What came with an answer that was to have none is closed too.
        talk.call("memory")
        until(lambda: descriptors() == before)
