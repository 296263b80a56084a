# SPDX-License-Identifier: Apache-2.0
"""The instruction that the lab takes out of QEMU, in made-up programs that have the same code."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import pytest

from pyvmm.lab import correction
from tests.support.qemu_code import ASKS, STORE, VMRUN, program

WRONG = {
    "no store": VMRUN.replace(STORE, ""),
    "two stores": VMRUN.replace(STORE, f"{STORE}\n{STORE}"),
    "another register": VMRUN.replace("mov %esi", "mov %ecx"),
    "not what an NMI is stored in": VMRUN.replace("movl $2, -0x28f0", "movl $2, -0x28f8"),
    "no call": VMRUN.replace("call do_interrupt_x86_hardirq", ""),
    "two calls": VMRUN.replace("pop", "call do_interrupt_x86_hardirq\npop"),
    "too far from the call": VMRUN.replace("mov $1", ".fill 80, 1, 0x90\nmov $1"),
    "another name": VMRUN.replace("helper_vmrun", "helper_other"),
    "not exported": VMRUN.replace(".globl", ".hidden helper_vmrun\n.globl"),
}


def test_the_store_goes_and_nothing_else(tmp_path: Path) -> None:
    before = program(tmp_path, VMRUN).read_bytes()
    after = correction.corrected(before)
    assert after is not None
    assert len(after) == len(before)
    changed = [at for at in range(len(before)) if before[at] != after[at]]
    assert changed[-1] - changed[0] < len(correction.NOP)
    at = changed[0]
    assert before[at : at + 6] == bytes.fromhex("89b310d7ffff")
    assert after[at : at + 6] == correction.NOP
    assert correction.corrected(after) is None


def test_the_code_runs_without_it(tmp_path: Path) -> None:
    path = program(tmp_path, VMRUN)
    after = correction.corrected(path.read_bytes())
    assert after is not None
    corrected = tmp_path / "corrected.so"
    corrected.write_bytes(after)
    for file, index in ((path, 0x20), (corrected, 0)):
        state = (ctypes.c_char * 0x6000)()
        ctypes.CDLL(str(file)).helper_vmrun(ctypes.byref(state), 0x20)
        assert state[0x10] == bytes([index])
        assert state[0x2900 + 0x33E8] == b"\xff"


@pytest.mark.parametrize("why", WRONG)
def test_in_doubt_nothing_is_changed(why: str, tmp_path: Path) -> None:
    assert correction.corrected(program(tmp_path, WRONG[why]).read_bytes()) is None


# -- reads of control registers

WRONG_ASKS = {
    "not that code": ASKS.replace("bt %esi", "bt %edi"),
    "twice": ASKS.replace("sub $0x20, %esi", ""),
    "another name": ASKS.replace("cpu_svm_has_intercept", "cpu_svm_other"),
}


def test_a_read_of_any_control_register_exits(tmp_path: Path) -> None:
    path = program(tmp_path, ASKS)
    after = correction.with_intercepted_reads(path.read_bytes())
    assert after is not None
    corrected = tmp_path / "corrected.so"
    corrected.write_bytes(after)
    reads, writes, debug = 0x3470, 0x3472, 0x3474
    state = (ctypes.c_uint8 * 0x4000)()
    before, now = (
        ctypes.CDLL(str(file)).cpu_svm_has_intercept for file in (path, corrected)
    )  # fmt: skip

    def asks(function: Any, code: int) -> int:
        return int(function(ctypes.byref(state), code)) & 1

    assert [asks(now, code) for code in (0, 3, 0x10, 0x20)] == [0, 0, 0, 0]
    state[reads] = 1 << 3  # CR3, as KVM has it with shadow paging
    assert [asks(before, code) for code in (0, 3, 4)] == [0, 1, 0]
    assert [asks(now, code) for code in (0, 3, 4, 0x10, 0x13)] == [1, 1, 1, 0, 0]
    state[writes], state[debug] = 1 << 4, 1 << 1
    assert [asks(now, code) for code in (0x13, 0x14, 0x20, 0x21)] == [0, 1, 0, 1]
    assert correction.with_intercepted_reads(after) is None


@pytest.mark.parametrize("why", WRONG_ASKS)
def test_in_doubt_no_read_is_changed(why: str, tmp_path: Path) -> None:
    path = program(tmp_path, WRONG_ASKS[why])
    assert correction.with_intercepted_reads(path.read_bytes()) is None


def test_what_is_no_program_or_half_of_one(tmp_path: Path) -> None:
    whole = program(tmp_path, VMRUN).read_bytes()
    assert correction.corrected(b"") is None
    assert correction.with_intercepted_reads(b"") is None
    assert correction.corrected(b"\x7fELF\x01\x01" + bytes(100)) is None
    for length in range(0, len(whole), 97):
        assert correction.corrected(whole[:length]) is None
