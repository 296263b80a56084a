# SPDX-License-Identifier: Apache-2.0
"""The doorbell: returns without a call, and a guest that calls into the VMM."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pyvmm._core import lib
from pyvmm.errors import SymcallError
from tests.support import remote
from tests.support.remote import Remote

if TYPE_CHECKING:
    from pyvmm.machine.hooks import Hypercall

#: On VT-x exceptions and state go through VMCS fields of other rules.
pytestmark = pytest.mark.host("linux", "vmx", "shadow", rest=True)


def test_a_return_without_a_call(guest: Remote) -> None:
    for number in (lib.SYMBIOTIC_RETURN, lib.SYMBIOTIC_ERROR):
        after = guest.ring(number, 1, 2, 3, 4, 5)
        assert after == [lib.SYMBIOTIC_HYPERCALL_REFUSED, 1, 2, 3, 4, 5]
    assert guest.counters() == {"stray_returns": 2}
    assert guest.works()


def test_a_second_return_is_a_return_without_a_call(guest: Remote) -> None:
    assert guest.works()
    assert guest.ring(lib.SYMBIOTIC_RETURN)[0] == lib.SYMBIOTIC_HYPERCALL_REFUSED
    assert guest.counters() == {"stray_returns": 1}
    assert guest.works()


def test_the_doorbell_takes_four_bytes_out_only(guest: Remote) -> None:
    assert guest.do(remote.OUT8, lib.SYMBIOTIC_PORT, 0x35) == 0
    assert guest.do(remote.OUT16, lib.SYMBIOTIC_PORT, 0x535) == 0
    assert guest.do(remote.IN32, lib.SYMBIOTIC_PORT) == 0
    assert guest.result() == 0xFFFFFFFF
    assert "stray_returns" not in guest.counters()
    assert guest.works()


def test_the_doorbell_from_user_mode(guest: Remote) -> None:
    calls: list[int] = []
    guest.machine.on_hypercall(0x6000, lambda call: calls.append(call.number))
    after = guest.ring(0x6000, 1, 2, 3, 4, 5, user=True)
    assert after == [0x6000, 1, 2, 3, 4, 5]
    assert calls == []
    if remote.has_user_ports():
        assert guest.counters() == {"doorbells_refused": 1}
    assert guest.ring(0x6000)[0] == lib.SYMBIOTIC_HYPERCALL_DONE
    assert calls == [0x6000]
    assert guest.works()


def test_hypercalls(guest: Remote) -> None:
    def answer(call: Hypercall) -> tuple[int, ...]:
        return tuple(word * 2 for word in call.args)

    guest.machine.on_hypercall(0x6001, answer)
    after = guest.ring(0x6001, 1, 2, 3, 4, 1 << 63)
    assert after == [lib.SYMBIOTIC_HYPERCALL_DONE, 2, 4, 6, 8, 0]
    assert guest.ring(0x6002, 1, 2, 3, 4, 5) == [lib.SYMBIOTIC_HYPERCALL_UNKNOWN, 1, 2, 3, 4, 5]
    assert guest.ring(0x10000)[0] != lib.SYMBIOTIC_HYPERCALL_DONE
    assert guest.works()


def test_a_hypercall_s_hook_makes_symcalls(guest: Remote) -> None:
    """Both directions in one another: what the guest gets back is the hook's, not what its handler left behind."""
    found: list[tuple[int, ...]] = []

    def answer(call: Hypercall) -> tuple[int, ...]:
        for _ in range(3):
            found.append(call.vcpu.symcall(lib.SYMCALL_TEST, *call.args)[:5])
        with pytest.raises(SymcallError) as raised:
            call.vcpu.symcall(remote.FAILS, 7)
        return raised.value.code, *call.args[1:4], 1 << 63

    guest.machine.on_hypercall(0x6003, answer)
    for _ in range(3):
        after = guest.ring(0x6003, 1, 2, 3, 4, (1 << 64) - 1)
        assert after == [lib.SYMBIOTIC_HYPERCALL_DONE, 7, 2, 3, 4, 1 << 63]
    assert found == [(2, 3, 4, 5, 0)] * 9
    assert guest.counters() == {"errors": 3}
    assert guest.works()


def test_a_hypercall_s_hook_that_answers_nothing_makes_symcalls(guest: Remote) -> None:
    """The guest's registers are as it rang, but for RAX."""

    def answer(call: Hypercall) -> None:
        assert call.vcpu.symcall(lib.SYMCALL_TEST, 5).rbx == 6

    guest.machine.on_hypercall(0x6004, answer)
    assert guest.ring(0x6004, 1, 2, 3, 4, 5) == [lib.SYMBIOTIC_HYPERCALL_DONE, 1, 2, 3, 4, 5]
    assert guest.works()
