# SPDX-License-Identifier: Apache-2.0
"""A thread that waits for a symcall gives it up, by ctrl-c or for lack of patience, at every stage of the call."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from pyvmm._core import lib
from pyvmm.config import MachineConfig
from pyvmm.machine import symcall
from pyvmm.machine.machine import Machine
from pyvmm.machine.symcall import make
from tests.support import remote
from tests.support.remote import Remote
from tests.support.waiting import until


def interrupt() -> None:
    raise KeyboardInterrupt


def test_a_call_that_is_queued_is_withdrawn() -> None:
    """The interrupt comes when the call was posted and nobody waits for it so far."""
    with Machine(MachineConfig(1 << 20, symbiotic=True)) as built:
        c = built.vcpus[0]._c
        with pytest.raises(KeyboardInterrupt):
            make(c, lib.SYMCALL_TEST, (), b"", 0, interrupt, 60)
        assert not lib.symcall_pending(c)


def test_a_call_that_is_under_way_is_not_waited_for(guest: Remote) -> None:
    """The vCPU's thread frees it when it misses its deadline."""
    c = guest.machine.vcpus[0]._c

    def begun() -> None:
        until(lambda: lib.symcall_is_active(c))
        interrupt()

    with pytest.raises(KeyboardInterrupt):
        make(c, remote.NEVER_RETURNS, (), b"", 0, begun, 60)
    assert not guest.counters()
    until(lambda: guest.counters().get("deadlines"))
    assert guest.goes_on()


@pytest.fixture
def busy(guest: Remote) -> Iterator[Remote]:
    """Its vCPU is in a hook until the test is over, and does not come to calls."""
    inside, leave = threading.Event(), threading.Event()

    def hook(_: object) -> None:
        inside.set()
        assert leave.wait(remote.PATIENCE)

    guest.machine.on_port(0x5F8, hook)
    guest.post(remote.OUT8, 0x5F8, 1)
    assert inside.wait(remote.PATIENCE)
    yield guest
    leave.set()
    guest.finish()
    assert guest.counters() == {}
    assert guest.works()


def test_a_vcpu_that_does_not_come_to_a_call(busy: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(symcall, "SYMCALL_PATIENCE", 0.3)
    error = busy.refusal(lib.SYMCALL_TEST)
    assert error.reason == "deadline"
    assert "it is in a hook" in str(error)


def test_a_signal_ends_the_wait(busy: Remote) -> None:
    def strike() -> None:
        until(lambda: lib.symcall_pending(busy.machine.vcpus[0]._c))
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    striker = threading.Thread(target=strike)
    striker.start()
    with pytest.raises(KeyboardInterrupt):
        busy.machine.symcall(0, lib.SYMCALL_TEST)
    striker.join()
