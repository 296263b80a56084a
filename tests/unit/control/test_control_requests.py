# SPDX-License-Identifier: Apache-2.0
"""Requests to the control socket as lines: right, wrong and endless ones, and the errors that are answered."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyvmm import errors
from pyvmm.control import protocol
from pyvmm.control.client import connect
from pyvmm.control.protocol import MAX_REQUEST, ProtocolError
from pyvmm.errors import SymcallError
from tests.support.fake_vm import (
    FakeVM,
    Raw,
    served,
)


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
