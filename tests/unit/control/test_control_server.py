# SPDX-License-Identifier: Apache-2.0
"""The control socket's server against clients that ask, that are wrong, slow, gone, many, or someone else."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pyvmm
from pyvmm import errors
from pyvmm.control import client, operations, protocol, server
from pyvmm.control.client import Client, connect
from pyvmm.control.protocol import MAX_REQUEST, ProtocolError
from pyvmm.control.runtime_dir import RuntimeDir
from pyvmm.errors import ConfigError, HostError, StateError, SymcallError
from pyvmm.symbiotic.task import TaskList
from tests.support import waiting
from tests.support.fake_vm import (
    SECONDS,
    FakeSwap,
    FakeVM,
    Raw,
    descriptors,
    served,
    task,
)

until = partial(waiting.until, seconds=SECONDS)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The runtime directory that will be."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "pyvmm"


# What can be asked.


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


# Lines.


def test_answers_have_the_number_of_their_request() -> None:
    with served(), Raw() as raw:
        for number in (1, "a", None, 2**70):
            assert raw.ask(id=number, op="ping")["id"] == number
        assert raw.ask(op="ping")["id"] is None
        assert raw.ask(id=5, op="fly")["id"] == 5


def test_requests_in_one_piece_and_in_many() -> None:
    with served(), Raw() as raw:
        lines = b"".join(b'{"id":%d,"op":"ping"}\n' % n for n in range(50))
        raw.send(lines)
        assert [raw.line()["id"] for _ in range(50)] == list(range(50))
        for byte in b'\n\r\n  \n{"id": "x", "op": "ping"}\r\n':
            raw.send(bytes([byte]))
        assert raw.line()["id"] == "x"


BAD = [
    (b"", "no JSON"),
    (b"hello", "no JSON"),
    (b"{", "no JSON"),
    (b"\xff\xfe{}", "no JSON"),
    ('{"op":"ping"}'.encode("utf-16"), "no JSON"),
    (b"[" * 60000, "more than 100 lists and objects"),
    (b"[" * 99, "no JSON"),
    (b'{"op":' + b"1" * 5000 + b"}", "no JSON"),
    (b"[1]", "no JSON object but a list"),
    (b"null", "no JSON object but a NoneType"),
    (b"{}", "no operation None"),
    (b'{"op": 1}', "no operation 1"),
    (b'{"op": ["ping"]}', "no operation"),
    (b'{"op": "fly"}', "no operation 'fly'; there are: ping, info"),
    (b'{"op": "__init__"}', "no operation"),
    (b'{"op": "ping", "id": [1]}', "'id' is to be a number or a text"),
    (b'{"op": "ping", "now": 1}', "no parameter is named 'now'"),
    (b'{"op": "symcall"}', "'call' is missing"),
    (b'{"op": "symcall", "call": 1.5}', "'call' is to be int or str, not float"),
    (b'{"op": "symcall", "call": true}', "'call' is to be int or str, not bool"),
    (b'{"op": "symcall", "call": 1, "args": 5}', "'args' is to be list, not int"),
    (b'{"op": "symcall", "call": 1, "args": ["5"]}', "'args' is to be a list of integers"),
    (b'{"op": "symcall", "call": 1, "args": [NaN]}', "'args' is to be a list of integers"),
    (b'{"op": "symcall", "call": 1, "data": "!"}', "data is no base64"),
    (b'{"op": "symcall", "call": "facts", "want": 5}', "data and want go with a number"),
    (b'{"op": "tasks", "threads": 1}', "'threads' is to be bool, not int"),
]


@pytest.mark.parametrize(("line", "complaint"), BAD, ids=lambda value: str(value)[:40])
def test_wrong_requests(line: bytes, complaint: str) -> None:
    with served(), Raw() as raw:
        if line:
            raw.send(line + b"\n")
            answer = raw.line()
            assert answer["ok"] is False
            assert answer["error"]["kind"] == "ProtocolError"
            assert complaint in answer["error"]["message"]
        assert raw.ask(op="ping")["ok"]


@pytest.mark.parametrize("extra", [1, 3 * MAX_REQUEST])
def test_a_line_that_is_too_long(extra: int) -> None:
    """One complaint, at the latest at its end, and none of it is obeyed."""
    with served(), Raw() as raw:
        raw.send(b'{"op":"stop"}' + b" " * (MAX_REQUEST + extra))
        raw.send(b'\n{"id":1,"op":"ping"}\n')
        answer = raw.line()
        assert f"longer than {MAX_REQUEST} bytes" in answer["error"]["message"]
        answer = raw.line()
        assert (answer["id"], answer["result"]["state"]) == (1, "running")


def test_the_longest_line() -> None:
    with served(), Raw() as raw:
        raw.send(b'{"op":"ping"}'.ljust(MAX_REQUEST) + b"\n")
        assert raw.line()["ok"]


def test_an_endless_line_takes_no_memory() -> None:
    with served(), Raw() as raw:
        for _ in range(200):
            raw.send(b"x" * MAX_REQUEST)
        raw.send(b"\n")
        assert "longer than" in raw.line()["error"]["message"]
        assert raw.ask(op="ping")["ok"]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)
names = st.sampled_from(["id", "op", "call", "args", "cpu", "data", "want", "threads", "x"])
safe_ops = st.sampled_from(["ping", "info", "symcall", "tasks", "facts", "memory", "power-button"])


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.binary(max_size=60).map(lambda data: data.replace(b"\n", b""))
        | st.builds(
            lambda op, rest: json.dumps(rest | {"op": op}).encode(),
            safe_ops | values,
            st.dictionaries(names, values, max_size=5),
        ),
        max_size=8,
    ),
    st.integers(1, 40),
)
def test_whatever_comes_the_next_one_is_served(lines: list[bytes], step: int) -> None:
    """Every line that is not blank has one answer, and the server goes on."""
    vm = FakeVM()
    vm.hung.set()
    with served(vm), Raw() as raw:
        data = b"".join(line + b"\n" for line in lines)
        for at in range(0, len(data), step):
            raw.send(data[at : at + step])
        for line in lines:
            if line.strip():
                assert raw.line()["ok"] in (True, False)
        with Raw() as other:
            assert other.ask(id=1, op="ping")["id"] == 1
        assert raw.ask(id=2, op="ping")["id"] == 2


# What is not the client's fault.


def test_any_exception_is_the_clients_to_hear() -> None:
    vm = FakeVM()

    def fail(cpu: int, *args: object) -> Any:
        raise LookupError("of the user's own function")

    vm.answers["mine"] = fail
    vm.answers["odd"] = lambda cpu: object()
    with served(vm), connect() as talk:
        with pytest.raises(errors.Error, match="InternalError: LookupError: of the user's own"):
            talk.call("symcall", call="mine")
        assert "object" in talk.call("symcall", call="odd")
        assert talk.call("ping")


@pytest.mark.parametrize(
    "error",
    [
        errors.ConfigError("x"),
        errors.StateError("x"),
        errors.GuestDataError("x"),
        errors.GuestMemoryError("x"),
        errors.HostError(errno.ENOMEM, "x"),
        SymcallError("x", "deadline"),
        SymcallError("x", "error", 14),
        ProtocolError("x"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_arrive_as_what_they_were(error: errors.Error) -> None:
    record = json.loads(json.dumps(protocol.error_record(error)))
    there = protocol.error_of(record)
    assert type(there) is type(error)
    assert str(there) == str(error)
    assert getattr(there, "reason", None) == getattr(error, "reason", None)
    assert getattr(there, "code", None) == getattr(error, "code", None)


@pytest.mark.parametrize(
    ("record", "kind"),
    [
        (None, ProtocolError),
        ({}, errors.Error),
        ({"kind": "NewError", "message": "x"}, errors.Error),
        ({"kind": "os", "message": "x"}, errors.Error),
        ({"kind": "Error", "message": 5}, errors.Error),
        ({"kind": "HostError", "code": "x"}, errors.HostError),
    ],
)
def test_error_records_of_other_versions(record: Any, kind: type[errors.Error]) -> None:
    assert type(protocol.error_of(record)) is kind


def test_serving_loads_no_json() -> None:
    code = """
import sys, pyvmm.vm
from tests.support.fake_vm import FakeVM
for name in ("json", "json.decoder", "json.encoder", "json.scanner"):
    sys.modules.pop(name, None)
from pyvmm.control.server import Server
served = Server(FakeVM(), "web")
print("json" in sys.modules, "base64" in sys.modules)
served.close(); served.join()
"""
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False False\n"


# Clients that leave, wait, or are many.


def test_clients_that_leave_in_the_middle() -> None:
    before = descriptors()
    with served():
        for data in (b"", b'{"op":', b'{"op":"ping"}\n', b'{"op":"memory"}\n' * 3, b"x" * 10**5):
            for _ in range(20):
                with Raw() as raw:
                    raw.send(data)
        with Raw() as raw:
            assert raw.ask(op="ping")["ok"]
    until(lambda: descriptors() == before)


def test_a_hundred_clients_at_once() -> None:
    with served() as control:
        clients = [Raw() for _ in range(100)]
        for n, raw in enumerate(clients):
            raw.send(b'{"id":%d,"op":"info"}\n' % n)
        for n, raw in reversed(list(enumerate(clients))):
            assert raw.line()["id"] == n
        for raw in clients:
            raw.socket.close()
        until(lambda: not control._clients)


def test_the_client_that_was_silent_longest_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_CLIENTS", 3)
    with served() as control:
        clients = [Raw() for _ in range(3)]
        for raw in (*clients, clients[0]):
            assert raw.ask(op="ping")["ok"]
            until(lambda: not any(visit.busy for visit in control._clients.values()))
        with connect("web") as talk:
            assert talk.call("ping")
        with pytest.raises((EOFError, ConnectionError)):
            clients[1].ask(op="ping")
        assert clients[0].ask(op="ping")["ok"]
        assert clients[2].ask(op="ping")["ok"]
        for raw in clients:
            raw.socket.close()
        until(lambda: not control._clients)


def test_nobody_is_sent_away_in_the_middle_of_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that begins a line and does not end it is not in the middle of one."""
    monkeypatch.setattr(server, "MAX_CLIENTS", 2)
    vm = FakeVM()
    with served(vm), Raw() as one, Raw() as two:
        for number, raw in enumerate((one, two), 1):
            raw.send(b'{"id":7,"op":"symcall","call":2}\n')
            until(lambda number=number: len(vm.made) == number)  # type: ignore[misc]
        with connect("web") as talk, pytest.raises(HostError, match="2 clients are asking") as no:
            talk.call("ping")
        assert no.value.errno == errno.EBUSY
        vm.hung.set()
        assert one.line()["id"] == two.line()["id"] == 7
        one.send(b'{"op":')
        with connect("web") as talk:
            assert talk.call("ping")


def patient(vm: FakeVM) -> Any:
    """A guest that takes for ever, for an operation in the time of its question."""

    def answer(cpu: int, *args: Any) -> Any:
        question = vm.questions[-1]
        while True:
            question.check()
            threading.Event().wait(0.01)

    return answer


def test_an_answer_has_a_time_in_total(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where one vCPU after the other is tried."""
    monkeypatch.setattr(server, "ANSWER_SECONDS", 0.3)
    vm = FakeVM()
    vm.vcpus *= 500

    def late(cpu: int) -> Any:
        vm.questions[-1].check()
        threading.Event().wait(0.01)
        raise SymcallError("not in time", "deadline")

    vm.answers |= {"facts": late, "memory": patient(vm)}
    with served(vm), connect("web") as talk:
        for op in ("facts", "memory-stats"):
            with pytest.raises(errors.LimitError, match=r"would take longer than 0\.3 s"):
                talk.call(op)
        assert talk.call("ping")
    assert len(vm.made) < 1000


def test_a_client_that_leaves_ends_the_work_for_it() -> None:
    vm = FakeVM()
    vm.answers["facts"] = patient(vm)
    with served(vm) as control:
        with Raw() as raw:
            raw.send(b'{"op":"facts"}\n')
            until(lambda: vm.questions)
        until(lambda: not control._clients)


def test_a_client_that_only_says_no_more_gets_its_answer() -> None:
    """As one that is fed by a pipe."""
    vm = FakeVM()
    with served(vm), Raw() as raw:
        raw.send(b'{"op":"symcall","call":2}\n')
        raw.socket.shutdown(socket.SHUT_WR)
        until(lambda: vm.made)
        vm.questions[-1].check()
        vm.hung.set()
        assert raw.line()["ok"]


def test_answers_of_the_guests_size_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "LARGE_ANSWERS", 1)
    monkeypatch.setattr(server, "ANSWER_SECONDS", 0.5)
    vm = FakeVM()
    vm.answers["tasks"] = vm.hang
    with served(vm), Raw() as one, Raw() as two:
        one.send(b'{"id":1,"op":"tasks"}\n')
        until(lambda: vm.made)
        said = two.ask(op="symcall", call="tasks")
        assert said["error"]["kind"] == "LimitError"
        assert two.ask(op="ping")["ok"]
        vm.hung.set()
        assert one.line()["id"] == 1


def test_an_answer_that_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "MAX_ANSWER", 1000)
    monkeypatch.setattr(protocol, "MAX_PARTS", 100)
    vm = FakeVM()
    vm.answers["text"] = lambda cpu: "x" * 1000
    vm.answers["parts"] = lambda cpu: iter(int, 1)
    with served(vm), connect("web") as talk:
        for call, complaint in (("text", "1031 bytes, and 1000"), ("parts", "more than 100 parts")):
            with pytest.raises(errors.LimitError, match=complaint):
                talk.call("symcall", call=call)
        assert talk.call("ping")


def test_an_answer_that_was_cut_says_so() -> None:
    vm = FakeVM()
    some = TaskList([task(1, "init")])
    some.cut = "cut after 1 task"
    with served(vm), connect("web") as talk:
        vm.answers["tasks"] = lambda cpu, threads: some
        assert len(talk.call("tasks")) == 1
        assert talk.cut == "cut after 1 task"
        talk.call("ping")
        assert talk.cut is None


def test_who_waits_for_the_guest_makes_nobody_wait() -> None:
    vm = FakeVM()
    with served(vm), Raw() as waiting:
        waiting.send(b'{"id":1,"op":"symcall","call":2}\n{"id":2,"op":"ping"}\n')
        until(lambda: len(vm.made) == 1)
        for _ in range(3):
            with Raw() as other:
                assert other.ask(op="symcall", call=1, args=[1])["result"]["rbx"] == 2
        vm.hung.set()
        assert [waiting.line()["id"] for _ in range(2)] == [1, 2]


def test_who_does_not_read_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "SEND_SECONDS", 0.2)
    vm = FakeVM()
    vm.answers["tasks"] = lambda cpu, threads: [task(n, "x" * 15) for n in range(1, 40000)]
    with served(vm) as control, Raw() as slow:
        slow.send(b'{"op":"tasks"}\n')
        with Raw() as other:
            assert other.ask(op="ping")["ok"]
        until(lambda: not control._clients)
        with pytest.raises((EOFError, ConnectionError)):
            slow.line()


def test_a_long_answer() -> None:
    vm = FakeVM()
    vm.answers["tasks"] = lambda cpu, threads: [task(n, "x" * 15) for n in range(1, 40000)]
    with served(vm), connect() as talk:
        assert [found["pid"] for found in talk.call("tasks")] == list(range(1, 40000))


@pytest.mark.parametrize("stranger", [1, 12345, 2**32 - 2])
def test_another_user_is_refused(stranger: int, monkeypatch: pytest.MonkeyPatch) -> None:
    vm = FakeVM()
    monkeypatch.setattr(server, "peer_uid", lambda connection: os.geteuid() + stranger)
    with served(vm):
        with Raw() as raw:
            answer = raw.line()
            assert "belongs to user" in answer["error"]["message"]
            with pytest.raises((EOFError, ConnectionError)):
                raw.ask(op="stop")
        with connect("web") as talk, pytest.raises(ProtocolError, match="belongs to user"):
            talk.call("ping")
    assert vm.state == "running"


def test_root_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    with served(), Raw() as raw:
        monkeypatch.setattr(server, "peer_uid", lambda connection: 0)
        assert raw.ask(op="ping")["ok"]


def test_the_kernel_says_who_it_is() -> None:
    one, other = socket.socketpair(socket.AF_UNIX)
    with one, other:
        assert server.peer_uid(one) == os.geteuid()


def test_descriptors_that_a_client_sends_are_not_kept() -> None:
    with served(), Raw() as raw:
        assert raw.ask(op="ping")["ok"]
        before = descriptors()
        for _ in range(20):
            socket.send_fds(raw.socket, [b'{"op":"ping"}\n'], [0, 1, 2])
            assert raw.line()["ok"]
        until(lambda: descriptors() == before)


class Short(socket.socket):
    """A listener in a process that has no descriptors left, three times."""

    failures = 3

    def accept(self) -> tuple[socket.socket, Any]:
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EMFILE if self.failures else errno.ECONNABORTED, "no")
        return super().accept()


def test_a_shortage_of_descriptors_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    claim = RuntimeDir.claim
    monkeypatch.setattr(server, "SHORTAGE", 0.01)
    monkeypatch.setattr(
        RuntimeDir, "claim", lambda self, name: Short(fileno=claim(self, name).detach())
    )
    with served(), Raw() as raw:
        assert raw.ask(op="ping")["ok"]


# The end.


def test_the_end_lets_an_answer_arrive() -> None:
    vm = FakeVM()
    control = server.Server(vm, "web")
    with Raw() as raw, Raw() as idle:
        assert idle.ask(op="ping")["ok"]
        raw.send(b'{"id":1,"op":"symcall","call":2}\n')
        until(lambda: len(vm.made) == 1)
        control.close()
        assert not os.path.exists(control.path)
        with pytest.raises(EOFError):
            idle.line()
        threading.Timer(0.1, vm.hung.set).start()
        control.join()
        assert raw.line()["id"] == 1
        with pytest.raises(EOFError):
            raw.line()
    control.close()
    control.join()


def test_the_end_does_not_wait_for_who_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "LAST_WORDS", 0.1)
    vm = FakeVM()
    vm.answers["tasks"] = lambda cpu, threads: [task(n, "x" * 15) for n in range(1, 40000)]
    control = server.Server(vm, "web")
    with Raw() as slow:
        slow.send(b'{"op":"tasks"}\n')
        until(lambda: bool(vm.made))
        control.close()
        control.join()


def test_a_request_that_does_not_end_keeps_the_vm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "LAST_WORDS", 0.05)
    monkeypatch.setattr(server, "STUCK_SECONDS", 0.05)
    vm = FakeVM()
    control = server.Server(vm, "web")
    with Raw() as raw:
        raw.send(b'{"op":"symcall","call":2}\n')
        until(lambda: bool(vm.made))
        control.close()
        with pytest.raises(HostError, match="did not end"):
            control.join()
        vm.hung.set()
        control.join()


def test_nothing_is_left(folder: Path) -> None:
    before, threads = descriptors(), threading.active_count()
    for _ in range(5):
        with served(), connect() as talk:
            talk.call("ping")
    assert os.listdir(folder) == [".lock"]
    # A connection's own thread may be at its last instructions.
    until(lambda: threading.active_count() == threads)
    assert descriptors() == before


# The client.


def test_no_vm_and_too_many() -> None:
    for name in (None, "web"):
        with pytest.raises(ConfigError, match=r"no VM .*is running; pyvmm run starts one"):
            connect(name)
    with served(name="a"), served(name="b"):
        with pytest.raises(ConfigError, match="2 VMs are running; name one of: a, b"):
            connect()
        with pytest.raises(ConfigError, match="no VM named c is running; name one of: a, b"):
            connect("c")
        with pytest.raises(ConfigError, match="cannot be the name"):
            connect("../c")
        with connect("b") as talk:
            assert talk.call("ping")["name"] == "b"
    with pytest.raises(ConfigError, match="no VM is running"):
        connect()


def test_a_vm_that_does_not_answer() -> None:
    vm = FakeVM()
    with served(vm):
        with (
            connect("web", 0.2) as talk,
            pytest.raises(HostError, match=r"not answered for 0\.2 s"),
        ):
            talk.call("symcall", call=2)
        vm.hung.set()


def test_a_vm_that_ends_meanwhile() -> None:
    control = server.Server(FakeVM(), "web")
    with connect("web") as talk:
        talk.call("ping")
        control.close()
        talk.wait_gone(SECONDS)
        control.join()
        with pytest.raises(StateError, match="ended before it answered"):
            talk.call("ping")


def test_a_vm_that_stays() -> None:
    with served(), connect("web") as talk, pytest.raises(HostError, match="is still there"):
        talk.wait_gone(0.1)


ANSWERS = [
    b"no json\n",
    b"[]\n",
    b"{}\n",
    b'{"id":1,"ok":true}\n',
    b'{"id":2,"ok":true,"result":1}\n',
    b'{"id":1,"ok":false}\n',
]


@pytest.mark.parametrize("answer", ANSWERS)
def test_answers_that_are_none(answer: bytes) -> None:
    one, other = socket.socketpair(socket.AF_UNIX)
    with other, Client(one, "web") as talk:
        other.sendall(answer)
        with pytest.raises(ProtocolError):
            talk.call("ping")


def test_an_endless_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "MAX_ANSWER", 1000)
    one, other = socket.socketpair(socket.AF_UNIX)
    with other, Client(one, "web") as talk:
        other.sendall(b"x" * 5000)
        with pytest.raises(ProtocolError, match="more than 1000 bytes"):
            talk.call("ping")


def test_descriptors_that_nobody_asked_for() -> None:
    one, other = socket.socketpair(socket.AF_UNIX)
    with other, Client(one, "web") as talk:
        before = descriptors()
        socket.send_fds(other, [b'{"id":1,"ok":true,"result":1}\n'], [0, 1])
        assert talk.call("ping") == 1
        assert descriptors() == before
        other.sendall(b'{"id":2,"ok":true,"result":{"ram":[]}}\n')
        with pytest.raises(ProtocolError, match="no descriptor"):
            talk.memory()


def test_a_list_skips_what_ends_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    def ends(self: Client, op: str, **params: Any) -> Any:
        raise StateError("gone")

    with served():
        monkeypatch.setattr(Client, "call", ends)
        assert client.running() == []


def test_a_connection_that_is_closed() -> None:
    with served():
        talk = connect("web")
        talk.close()
        talk.close()
        for ask in (lambda: talk.call("ping"), talk.memory, talk.wait_gone):
            with pytest.raises(StateError, match="this connection to web is closed"):
                ask()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("timeout", [float("nan"), float("inf"), 1e10])
def test_a_timeout_that_cannot_be(timeout: float) -> None:
    with served(), pytest.raises(ConfigError, match="a timeout"):
        connect("web", timeout)
