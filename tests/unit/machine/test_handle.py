# SPDX-License-Identifier: Apache-2.0
"""Owners of C objects: who may use one, who waits for whom, and what is left of it afterwards."""

from __future__ import annotations

import errno
import threading
from typing import Any

import pytest

from pyvmm._core import ffi, lib
from pyvmm.errors import HostError, StateError
from pyvmm.machine import handle
from pyvmm.machine.device import check_stands
from pyvmm.machine.handle import Closed, Handle
from pyvmm.machine.part import Part

SECONDS = 30.0


class Made:
    """Something of C's, and what was destroyed of it."""

    def __init__(self) -> None:
        self.pointer = ffi.new("int *", 7)
        self.destroyed: list[Any] = []
        self.handle = Handle(self.pointer, self.destroyed.append, "the thing")


def test_it_is_there_until_it_is_released_once() -> None:
    made = Made()
    with made.handle as pointer, made.handle as again:
        assert pointer == again == made.handle.pointer == made.pointer
    made.handle.check()
    assert not made.handle.released
    made.handle.release()
    made.handle.release()
    assert made.destroyed == [made.pointer]
    assert made.handle.released
    for use in (lambda: made.handle.pointer, made.handle.check, made.handle.__enter__):
        with pytest.raises(StateError, match="the thing is closed"):
            use()


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, "No space left on device"),
        (errno.EAGAIN, ".* unavailable; raise ulimit -u.*"),
    ],
)
def test_what_c_could_not_make(number: int, reason: str) -> None:
    ffi.errno = number
    with pytest.raises(HostError, match=f"^the thing cannot be made: {reason}$") as caught:
        Handle(ffi.NULL, print, "the thing")
    assert caught.value.errno == number


def test_a_release_waits_for_those_who_use_it_and_lets_nobody_in() -> None:
    made = Made()
    inside, over = threading.Event(), threading.Event()

    def use() -> None:
        with made.handle:
            inside.set()
            assert over.wait(SECONDS)

    user = threading.Thread(target=use)
    user.start()
    assert inside.wait(SECONDS)
    closer = threading.Thread(target=made.handle.release)
    closer.start()
    while not made.handle.released:
        pass
    with pytest.raises(StateError), made.handle:
        pass
    assert made.destroyed == []
    over.set()
    user.join(SECONDS)
    closer.join(SECONDS)
    assert made.destroyed == [made.pointer]


def test_a_use_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is kept, and the release can be made again."""
    monkeypatch.setattr(handle, "RELEASE_SECONDS", 0.05)
    made = Made()
    inside, over = threading.Event(), threading.Event()

    def use() -> None:
        with made.handle:
            inside.set()
            assert over.wait(SECONDS)

    user = threading.Thread(target=use)
    user.start()
    assert inside.wait(SECONDS)
    with pytest.raises(HostError, match="still in use by another thread") as caught:
        made.handle.release()
    assert caught.value.errno == errno.ETIMEDOUT
    assert made.destroyed == []
    over.set()
    user.join(SECONDS)
    made.handle.release()
    assert made.destroyed == [made.pointer]


def test_a_thread_does_not_wait_for_itself() -> None:
    made = Made()
    with made.handle:
        with pytest.raises(StateError, match="by the thread that closes it"):
            made.handle.release()
        assert not made.handle.released
    made.handle.release()
    assert made.destroyed == [made.pointer]


def test_what_stands_for_a_pointer_is_none() -> None:
    closed = Closed("vCPU 0")
    for use in (
        lambda: closed.exits,
        lambda: setattr(closed, "held", 1),
    ):
        with pytest.raises(StateError, match="vCPU 0 is closed"):
            use()
    with pytest.raises(TypeError):
        lib.bus_destroy(closed)


def test_a_part_of_a_machine() -> None:
    part = Part()
    part.close()
    part.keep()
    with pytest.raises(StateError, match="the Part is part of a machine"):
        part.close()
    part.give_back()
    part.close()


@pytest.mark.parametrize("state", ["built", "running", "paused", "stopping", "ended", None])
def test_a_machine_that_stands(state: str | None) -> None:
    class Machine:
        pass

    machine = Machine()
    machine.state = state  # type: ignore[attr-defined]
    if state in ("running", "paused", "stopping"):
        with pytest.raises(StateError, match=f"the machine is {state}"):
            check_stands(machine)
    else:
        check_stands(machine)
