# SPDX-License-Identifier: Apache-2.0
"""Typed calls against guests made up here: honest ones, newer ones, and ones that lie."""

from __future__ import annotations

import errno
import re
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm._core import ffi
from pyvmm.errors import ConfigError, Error, GuestDataError, LimitError, SymcallError
from pyvmm.machine import symcall
from pyvmm.machine.question import Question
from pyvmm.machine.symcall import TYPED, Results
from pyvmm.symbiotic import answer, calls, facts, task
from tests.support.tree import ROOT
from tests.support.typed_guest import (
    FACTS_LAYOUT,
    MEMORY_LAYOUT,
    TASK_LAYOUT,
    UNKNOWN,
    WORD,
    Raw,
    endless,
    page,
    refusal,
    results,
    structure,
)

# Names.


def test_every_call_has_a_name():
    assert set(TYPED) >= {"test", "mem_lookup", "facts", "current", "tasks", "memory", "read"}


def test_example_of_the_manual(monkeypatch):
    """The function that docs/symcall.md registers."""
    monkeypatch.setattr(symcall, "TYPED", dict(TYPED))
    manual = ROOT / "docs/symcall.md"
    (code,) = [
        block
        for block in re.findall(r"^```python\n(.*?)^```$", manual.read_text(), re.M | re.S)
        if "register(" in block
    ]
    exec(compile(code, manual.name, "exec"), {"__name__": "example"})
    load = symcall.typed("load")
    assert load(Raw(lambda *_: results(150, 25, 0))) == (1.5, 0.25, 0)
    with pytest.raises(GuestDataError):
        load(Raw(lambda *_: results(2**64 - 1, 0, 0)))
    with pytest.raises(ConfigError, match="'load' exists already"):
        symcall.register("load", min)


# TEST.


@given(st.lists(WORD, max_size=5))
def test_test(numbers):
    raw = Raw(lambda _, *args: results(*((n + 1) % 2**64 for n in (*args, 0, 0, 0, 0, 0)[:5])))
    assert calls.test(raw, *numbers) == tuple((n + 1) % 2**64 for n in numbers)


def test_test_of_a_guest_that_cannot_add():
    with pytest.raises(GuestDataError, match="test"):
        calls.test(Raw(lambda *_: results(2, 1, 1, 1, 2)), 1)


# KERNEL_FACTS.

FACTS = (
    1,
    0x1A000000,
    UNKNOWN,
    0xFFFF_8880_0000_0000,
    0x4321000,
    4096,
    2,
    0xFFFF_8880_3EC0_0000,
    1,
    5,
)


def test_facts():
    raw = Raw(lambda *_: structure(FACTS_LAYOUT, *FACTS, UNKNOWN, b"6.12.117", b"#1 SMP"))
    found = calls.read_facts(raw)
    assert found == facts.Facts(
        release="6.12.117",
        version="#1 SMP",
        out_of_tree=True,
        kaslr_offset=0x1A000000,
        phys_base=None,
        page_offset=0xFFFF_8880_0000_0000,
        vmcoreinfo_gpa=0x4321000,
        vmcoreinfo_size=4096,
        kernel_pgd_gpa=None,
        page_table_levels=5,
        percpu_base=0xFFFF_8880_3EC0_0000,
        cpu=1,
        possible_cpus=2,
    )
    assert raw.calls == [(0x100,)]


def test_layouts_are_those_of_the_interface():
    structures = ("symbiotic_facts", "symbiotic_task", "symbiotic_memory")
    sizes = [ffi.sizeof(f"struct {name}") for name in structures]
    assert sizes == [FACTS_LAYOUT.size, TASK_LAYOUT.size, MEMORY_LAYOUT.size] == [200, 96, 120]


def test_facts_of_a_newer_guest():
    raw = Raw(lambda *_: structure(FACTS_LAYOUT, *FACTS, 0x5000, b"r", b"v", extra=bytes(100)))
    assert calls.read_facts(raw).kernel_pgd_gpa == 0x5000


@pytest.mark.parametrize("size", [0, 199, 0xC01, 2**63, 2**64 - 1])
@pytest.mark.parametrize("call", [calls.read_facts, calls.read_memory])
def test_structure_of_a_size_that_cannot_be(call, size):
    if call is calls.read_memory and size == 199:
        size = 119
    with pytest.raises(GuestDataError, match=f"with {size} bytes"):
        call(Raw(lambda *_: results(size, data=bytes(0xC00))))


@pytest.mark.parametrize("inner", [0, 199, 201, 2**32 - 1])
def test_structure_that_contradicts_its_size(inner):
    data = inner.to_bytes(4, "little") + bytes(196)
    with pytest.raises(GuestDataError, match=f"says it has {inner} of 200"):
        calls.read_facts(Raw(lambda *_: results(200, data=data)))


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"bash\0garbage\0", "bash"),
        (b"0123456789abcdef", "0123456789abcdef"),
        ("käse".encode(), "käse"),
        (b"\xff\xfe", "\\xff\\xfe"),
        (b"\x1b[2J\n", "\\x1b[2J\\n"),
        ("a\u202eb".encode(), "a\\u202eb"),
        (b"", ""),
    ],
)
def test_text(raw, text):
    assert answer.text(raw) == text


@given(st.binary(max_size=64))
def test_text_can_always_be_printed(raw):
    text = answer.text(raw)
    assert text.isprintable()
    text.encode()


# CURRENT_TASK.


def test_current():
    rdx, rsi = struct.unpack("<QQ", b"kworker/0:1".ljust(16, b"\0"))
    raw = Raw(lambda *_: results(7 | 6 << 32, 3 | 1 << 32, rdx, rsi, 0xFFFF_8880_0123_4000))
    found = calls.read_current(raw)
    where = 0xFFFF_8880_0123_4000
    assert found == task.Current(7, 6, "kworker/0:1", 3, True, False, False, where)


@given(st.tuples(WORD, WORD, WORD, WORD, WORD))
def test_current_of_any_bits(registers):
    found = calls.read_current(Raw(lambda *_: results(*registers)))
    assert found.comm.isprintable()
    assert found.pid | found.tgid << 32 == registers[0]


# EAGAIN.


def test_a_patient_caller_tries_again():
    answers = [refusal(errno.EAGAIN), refusal(errno.EAGAIN), None]

    def serve(*args: int) -> Results:
        if (error := answers.pop(0)) is not None:
            raise error
        return page(1)

    raw = Raw(serve, patient=True)
    assert len(calls.task_list(raw)) == 1
    assert len(raw.calls) == 3


def test_patience_ends(monkeypatch):
    monkeypatch.setattr(answer, "PATIENCE", 0.05)

    def serve(*args: int) -> Results:
        raise refusal(errno.EAGAIN)

    raw = Raw(serve, patient=True)
    with pytest.raises(SymcallError):
        calls.task_list(raw)
    assert len(raw.calls) > 2


@pytest.mark.parametrize(
    ("patient", "error"),
    [(False, refusal(errno.EAGAIN)), (True, refusal(errno.EBUSY)), (True, refusal(11, "deadline"))],
)
def test_what_is_not_tried_again(patient, error):
    def serve(*args: int) -> Results:
        raise error

    raw = Raw(serve, patient=patient)
    with pytest.raises(SymcallError):
        calls.read_facts(raw)
    assert len(raw.calls) == 1


# All of them.


@given(
    st.sampled_from(sorted({"test", "mem_lookup", "facts", "current", "tasks", "memory", "read"})),
    st.tuples(WORD, WORD, WORD, WORD, WORD),
    st.binary(max_size=0xC00),
)
def test_noise_gives_a_value_or_an_error_of_ours(name, registers, data):
    arguments = {"mem_lookup": (0x1000,), "read": (0x1000, 5000)}.get(name, ())
    replies = [results(*registers, data=data)] * 2
    raw = Raw(lambda *_: replies.pop() if replies else results(0))
    try:
        TYPED[name](raw, *arguments)
    except Error:
        pass


def test_a_question_that_is_given_up():
    left = Question(60)
    left.check()
    assert 0 < left.left <= 60
    with pytest.raises(LimitError, match="has gone"):
        Question(60, lambda: True).check()
    with pytest.raises(LimitError, match="longer than 0 s"):
        Question(0).check()


def test_arguments_that_a_call_does_not_take():
    with pytest.raises(ConfigError, match=r"symcall .facts.: .*positional"):
        symcall.call_typed("facts", Raw(endless), (1, 2, 3))

    def broken(raw):
        return None + 1

    symcall.register("broken", broken)
    try:
        with pytest.raises(TypeError):
            symcall.call_typed("broken", Raw(endless), ())
    finally:
        del TYPED["broken"]
