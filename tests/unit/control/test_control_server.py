# SPDX-License-Identifier: Apache-2.0
"""The control socket's server against clients that leave, wait, are many, or someone else; and its end."""

from __future__ import annotations

import errno
import os
import socket
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pyvmm import errors
from pyvmm.control import protocol, server
from pyvmm.control.client import connect
from pyvmm.control.protocol import ProtocolError
from pyvmm.control.runtime_dir import RuntimeDir
from pyvmm.errors import HostError, SymcallError
from pyvmm.symbiotic.task import TaskList
from tests.support import waiting
from tests.support.fake_vm import (
    SECONDS,
    FakeVM,
    Raw,
    descriptors,
    served,
    task,
)

until = partial(waiting.until, seconds=SECONDS)


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
