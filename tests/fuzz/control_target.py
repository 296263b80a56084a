# SPDX-License-Identifier: Apache-2.0
"""The control socket from both sides: requests to a VM, and answers that a client believes or not."""

from __future__ import annotations

import json
import os
import threading
from typing import Any

from tests.fuzz import python

with python.instrumented(include=["pyvmm"]):
    from pyvmm.control import client, operations, protocol, server
    from pyvmm.errors import Error

from tests.support import fake_vm

#: What a request may have, and values that fit or do not.
OPERATIONS = (
    *(
        "ping",
        "info",
        "pause",
        "resume",
        "stop",
        "power-button",
        "symcall",
        "tasks",
        "facts",
        "no such",
    ),
    *("memory-stats", "memory", "swap-stats", "swap-set", "swap-evict"),
)
FIELDS = (
    "cpu",
    "call",
    "args",
    "data",
    "want",
    "threads",
    "mode",
    "policy",
    "quota",
    "pages",
    "other",
)
VALUES: tuple[Any, ...] = (
    *(
        0,
        1,
        -1,
        1 << 70,
        1.5,
        1e308,
        float("nan"),
        True,
        None,
        "",
        "tasks",
        "AAAA",
        "!",
        "off",
        "direct",
    ),
    *([], [1, 2], [1 << 80], ["x"], {}, {"a": {}}, "\ud800", "pressure", "quota", 1e18),
)


NOBODY = os.pipe()[0]


class Connection:
    """A socket that has been given all that will come, in pieces of the input's choice."""

    def __init__(self, provider: Any, line: bytes) -> None:
        self.provider = provider
        self.line = line
        self.sent = bytearray()

    def fileno(self) -> int:
        return NOBODY  # whose other end is open

    def settimeout(self, seconds: float | None) -> None:
        pass

    def gettimeout(self) -> float:
        return 1.0

    def recv(self, size: int) -> bytes:
        # Small pieces are for small lines: a piece is looked through again with each that comes.
        size = min(
            size, 1 << self.provider.ConsumeIntInRange(0 if len(self.line) < 500 else 14, 16)
        )
        piece, self.line = self.line[:size], self.line[size:]
        return piece

    def recvmsg(self, size: int, *_: int) -> tuple[bytes, list[Any], int, None]:
        return self.recv(size), [], 0, None

    def sendall(self, data: bytes) -> None:
        self.sent += data

    def sendmsg(self, buffers: Any, *_: Any) -> int:
        data = b"".join(buffers)
        self.sent += data
        return len(data)

    def close(self) -> None:
        pass


def some_request(provider: Any) -> bytes:
    """A line: JSON of a request, or anything."""
    kind = provider.ConsumeIntInRange(0, 15)
    if kind < 4:
        return bytes(provider.ConsumeBytes(200)) + b"\n"
    if kind == 4:  # nested deeper than a parser may go
        return (b"[", b'{"a":')[provider.ConsumeIntInRange(0, 1)] * provider.ConsumeIntInRange(
            0, 60000
        ) + b"\n"
    request: dict[str, Any] = {"id": VALUES[provider.ConsumeIntInRange(0, len(VALUES) - 1)]}
    request["op"] = OPERATIONS[provider.ConsumeIntInRange(0, len(OPERATIONS) - 1)]
    for _ in range(provider.ConsumeIntInRange(0, 4)):
        name = FIELDS[provider.ConsumeIntInRange(0, len(FIELDS) - 1)]
        request[name] = VALUES[provider.ConsumeIntInRange(0, len(VALUES) - 1)]
    text = bytearray(json.dumps(request).encode())
    if provider.ConsumeBool():
        text[provider.ConsumeIntInRange(0, len(text) - 1)] = provider.ConsumeIntInRange(0, 255)
    return bytes(text) + b"\n"


def serve(provider: Any) -> None:
    """Requests, one after another: each that is a line of something has one answer, which is a line of JSON."""
    vm = fake_vm.FakeVM()
    if provider.ConsumeBool():
        vm.swap = fake_vm.FakeSwap()
    vm.answers.pop(2)  # it would wait for another thread
    lines = b"".join(some_request(provider) for _ in range(provider.ConsumeIntInRange(1, 3)))
    connection = Connection(provider, lines)
    visit = server.Visit(connection)  # type: ignore[arg-type]
    locks = threading.Lock(), threading.BoundedSemaphore(2)
    server.Client(visit, operations.Operations(vm, "web"), *locks).serve()  # type: ignore[arg-type]
    answers = bytes(connection.sent).split(b"\n")
    assert answers.pop() == b""
    asked = [line for line in lines.split(b"\n")[:-1] if line.strip()]
    assert len(answers) == len(asked), (asked, answers)
    for answer in answers:
        assert json.loads(answer)["ok"] in (True, False)


def ask(provider: Any) -> None:
    """A client that hears something else than it should."""
    heard = provider.ConsumeIntInRange(0, 3)
    number = provider.ConsumeIntInRange(0, 2)
    if heard == 0:
        line = bytes(provider.ConsumeBytes(300)) + b"\n"
    else:
        value = VALUES[provider.ConsumeIntInRange(0, len(VALUES) - 1)]
        kinds = ("SymcallError", "HostError", "StateError", "Nonsense", "__class__", 5)
        kind = kinds[provider.ConsumeIntInRange(0, len(kinds) - 1)]
        error = {"kind": kind, "message": value, "reason": value, "code": value}
        line = json.dumps(
            {"id": number, "ok": heard == 1, "result": value, "error": error}
        ).encode()
        line += b"\n"
    speaker = client.Client(Connection(provider, line), "web")  # type: ignore[arg-type]
    try:
        speaker.call("tasks")
        speaker.memory()
    except Error:
        pass


def one(data: bytes) -> None:
    provider = python.Provider(data)
    (serve if provider.ConsumeBool() else ask)(provider)


if __name__ == "__main__":
    os.environ.setdefault("PYVMM_RUNTIME_DIR", "/nonexistent")
    assert protocol.VERSION
    python.run(one)
