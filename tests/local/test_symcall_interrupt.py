# SPDX-License-Identifier: Apache-2.0
"""Ctrl-c while a thread waits for a symcall: the call is given up, at every stage of it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from pyvmm._core import lib
from pyvmm.machine.machine import Machine
from pyvmm.machine.symcall import make
from pyvmm.symbiotic import abi
from tests import remote
from tests.remote import Remote
from tests.waiting import until


@pytest.fixture
def guest() -> Iterator[Remote]:
    with Remote(symcall_deadline=remote.deadline()) as made:
        yield made.start()


def interrupt() -> None:
    raise KeyboardInterrupt


def test_a_call_that_is_queued_is_withdrawn() -> None:
    """The interrupt comes when the call was posted and nobody waits for it so far."""
    with Machine(1 << 20, symbiotic=True) as machine:
        c = machine.vcpus[0]._c
        with pytest.raises(KeyboardInterrupt):
            make(c, abi.SYMCALL_TEST, (), b"", 0, interrupt, None)
        assert not lib.symcall_pending(c)


def test_a_call_that_is_under_way_is_not_waited_for(guest: Remote) -> None:
    """The vCPU's thread frees it when it misses its deadline."""
    c = guest.machine.vcpus[0]._c

    def begun() -> None:
        until(lambda: c.in_symcall)
        interrupt()

    with pytest.raises(KeyboardInterrupt):
        make(c, remote.NEVER_RETURNS, (), b"", 0, begun, None)
    assert not guest.counters()
    until(lambda: guest.counters().get("deadlines"))
    assert guest.goes_on()


def test_a_signal_ends_the_wait(guest: Remote) -> None:
    """A vCPU that is in a hook does not come to the call."""
    inside, leave = threading.Event(), threading.Event()

    def hook(_: object) -> None:
        inside.set()
        assert leave.wait(remote.PATIENCE)

    def strike() -> None:
        until(lambda: lib.symcall_pending(guest.machine.vcpus[0]._c))
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    guest.machine.on_port(0x5F8, hook)
    guest.post(remote.OUT8, 0x5F8, 1)
    assert inside.wait(remote.PATIENCE)
    striker = threading.Thread(target=strike)
    striker.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            guest.machine.symcall(0, abi.SYMCALL_TEST)
    finally:
        striker.join()
        leave.set()
    guest.finish()
    assert guest.counters() == {}
    assert guest.works()
