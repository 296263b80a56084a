# SPDX-License-Identifier: Apache-2.0
"""Symcalls at moments that are not the usual ones: in user mode, halted, paused, from many threads."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

from pyvmm import kvm
from pyvmm._core import lib
from tests.support import remote
from tests.support.remote import Remote
from tests.support.waiting import until

if TYPE_CHECKING:
    from pyvmm.machine.hooks import Exit

#: On VT-x exceptions and state go through VMCS fields of other rules.
pytestmark = pytest.mark.host("linux", "vmx", "shadow", rest=True)


def test_a_symcall_that_comes_while_a_device_is_written(guest: Remote) -> None:
    """Another thread asks during the exit of a write: it is done once, and the call comes after it."""
    vcpu = guest.machine.vcpus[0]
    written: list[int] = []
    answers: list[int] = []

    def hook(exit: Exit) -> None:
        written.append(exit.value)
        caller = threading.Thread(target=lambda: answers.append(guest.symcall(1, exit.value).rbx))
        caller.start()
        callers.append(caller)
        until(vcpu.is_called, remote.PATIENCE)
        assert answers == [value + 1 for value in written[:-1]]

    callers: list[threading.Thread] = []
    guest.machine.on_port(0x5F8, hook)
    for value in range(1, 50):
        assert guest.do(remote.OUT8, 0x5F8, value) == 0
        callers[-1].join(remote.PATIENCE)
    assert written == list(range(1, 50))
    assert answers == list(range(2, 51))
    assert guest.works()


def test_a_symcall_in_user_mode(guest: Remote) -> None:
    guest.post(remote.USER)
    assert guest.goes_on(1)
    for i in range(500):
        assert guest.symcall(lib.SYMCALL_TEST, i).rbx == i + 1
    assert guest.goes_on(1)
    assert not guest.done()
    guest.set_value("leave", 1)
    assert guest.finish() == 0
    assert guest.works()


def test_a_symcall_while_halted(guest: Remote) -> None:
    """The guest sleeps on after each; only the interrupt ends its HLT, once."""
    guest.post(remote.HALT)
    time.sleep(0.05)
    turns = guest.turns()
    for i in range(500):
        assert guest.symcall(lib.SYMCALL_TEST, i).rbx == i + 1
        assert not guest.done()
    assert guest.turns() == turns
    guest.machine.pause()
    assert guest.machine.vcpus[0].kvm.get_mp_state() == kvm.KVM_MP_STATE_HALTED
    guest.machine.resume()
    guest.wake()
    assert guest.finish() == 1
    assert guest.works()


def test_a_symcall_while_paused(guest: Remote) -> None:
    guest.machine.pause()
    turns = guest.turns()
    for i in range(20):
        assert guest.symcall(lib.SYMCALL_TEST, i).rbx == i + 1
    assert guest.turns() == turns
    guest.machine.resume()
    assert guest.works()


@pytest.mark.parametrize("paused", [False, True])
def test_many_callers(guest: Remote, paused: bool) -> None:
    wrong: list[int] = []
    if paused:
        guest.machine.pause()

    def call(first: int) -> None:
        for i in range(first, first + 300):
            if guest.symcall(lib.SYMCALL_TEST, i).rbx != i + 1:
                wrong.append(i)

    threads = [threading.Thread(target=call, args=(n * 1000,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert guest.machine.symcalls["returned"] == 1200
    if paused:
        guest.machine.resume()
    assert guest.works()
