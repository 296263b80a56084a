# SPDX-License-Identifier: Apache-2.0
"""The client of the control socket against VMs that are missing, silent, ending, or that answer nonsense."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest

from pyvmm.control import client, protocol, server
from pyvmm.control.client import Client, connect
from pyvmm.control.protocol import ProtocolError
from pyvmm.errors import ConfigError, HostError, StateError
from tests.support.fake_vm import (
    SECONDS,
    FakeVM,
    descriptors,
    served,
)


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


def test_a_vm_that_stays_and_talks() -> None:
    """The time is of the whole wait, and not of each word."""
    one, other = socket.socketpair(socket.AF_UNIX)
    over = threading.Event()

    def talks() -> None:
        while not over.wait(0.01):
            other.send(b"x")

    thread = threading.Thread(target=talks)
    with other, Client(one, "web") as talk:
        thread.start()
        with pytest.raises(HostError, match="is still there"):
            talk.wait_gone(0.3)
        over.set()
        thread.join()


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
