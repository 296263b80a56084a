# SPDX-License-Identifier: Apache-2.0
"""Orders to a QEMU, against one that is played."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from bench.peers import hotplug, qmp

GREETING = {"QMP": {"version": {}, "capabilities": []}}


class Played:
    """Takes one visitor and answers what it is told to."""

    def __init__(self, door: Path, *answers: dict[str, Any]) -> None:
        self.heard: list[dict[str, Any]] = []
        self._answers = answers
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(door))
        self._socket.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        visitor, _ = self._socket.accept()
        with visitor, visitor.makefile("rwb") as lines:
            for answer in (GREETING, *self._answers):
                if answer is not GREETING:
                    self.heard.append(json.loads(visitor.recv(4096)))
                lines.write(json.dumps(answer).encode() + b"\n")
                lines.flush()

    def close(self) -> None:
        self._thread.join()
        self._socket.close()


def test_an_order_comes_after_the_greeting(tmp_path: Path) -> None:
    played = Played(tmp_path / "qmp", {"return": {}}, {"return": {}})
    qmp.order(str(tmp_path / "qmp"), "balloon", {"value": 5})
    played.close()
    assert played.heard == [
        {"execute": "qmp_capabilities"},
        {"execute": "balloon", "arguments": {"value": 5}},
    ]


def test_a_refusal_is_told(tmp_path: Path) -> None:
    played = Played(
        tmp_path / "qmp",
        {"return": {}},
        {"error": {"class": "GenericError", "desc": "no such thing"}},
    )
    with pytest.raises(RuntimeError, match="balloon: no such thing"):
        qmp.order(str(tmp_path / "qmp"), "balloon", {"value": 5})
    played.close()


def test_a_guest_that_is_to_get_more_has_room_for_it() -> None:
    class Guest:
        kernel = "bzImage"

    line = hotplug.command(Guest, "initrd", "door", 256, 512)
    assert "256M,maxmem=1536M" in line
    assert "memory-backend-ram,id=more,size=512M" in line
    assert f"virtio-mem-pci,memdev=more,requested-size=0,id={hotplug.DEVICE}" in line
