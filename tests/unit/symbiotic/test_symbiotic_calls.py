# SPDX-License-Identifier: Apache-2.0
"""Typed calls against guests made up here: honest ones, newer ones, and ones that lie."""

from __future__ import annotations

import errno
import re
import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm._core import ffi, lib
from pyvmm.errors import ConfigError, Error, GuestDataError, LimitError, SymcallError
from pyvmm.machine import symcall
from pyvmm.machine.question import Question
from pyvmm.machine.symcall import TYPED, Results
from pyvmm.symbiotic import answer, calls, facts, memory, task
from tests.support.tree import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

WORD = st.integers(0, 2**64 - 1)
UNKNOWN = 2**64 - 1

#: What include/symbiotic.h says in C, once more: guests that exist have it like this, so it never changes.
FACTS_LAYOUT = struct.Struct("<IIQQQQIIQIIQ64s64s")
TASK_LAYOUT = struct.Struct("<IIIIc3xIIIQQQQQQ16s")
MEMORY_LAYOUT = struct.Struct("<II14Q")


def results(*registers: int, data: bytes = b"") -> Results:
    return Results(*registers, *(0,) * (5 - len(registers)), data)


def refusal(code: int, reason: str = "error") -> SymcallError:
    return SymcallError("the guest said no", reason, code)


class Raw:
    """What VM.symcall and Vcpu.symcall hand to typed calls; `serve` plays the guest."""

    def __init__(self, serve: Callable[..., Results], *, patient: bool = False) -> None:
        self.serve = serve
        self.calls: list[tuple[int, ...]] = []
        if patient:
            self.patient = True

    def __call__(self, number: int, *args: int, data: bytes = b"", want: int = 0) -> Results:
        assert len(args) <= 5
        assert 0 <= want <= lib.SYMBIOTIC_DATA_SIZE
        self.calls.append((number, *args))
        found = self.serve(number, *args)
        return found._replace(data=found.data[:want])


def structure(layout: struct.Struct, *fields: object, extra: bytes = b"") -> Results:
    data = layout.pack(layout.size + len(extra), *fields) + extra
    return results(len(data), data=data + b"left over from before")


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


# TASKS.


def record(pid: int, *, comm: bytes = b"sh", state: bytes = b"S", rss: int = 4096) -> bytes:
    return TASK_LAYOUT.pack(pid, pid, 1, 0, state, 4, 1, 1, 10, 20, 30, rss, 0, UNKNOWN, comm)


def page(*pids: int, after: int = 0, extra: int = 0) -> Results:
    data = b"".join(record(pid) + bytes(extra) for pid in pids)
    return results(len(pids), after, 96 + extra, data=data)


class Guest:
    """Has these pids and gives `at_once` a page, as the driver does."""

    def __init__(self, pids: list[int], at_once: int = 32) -> None:
        self.pids = sorted(pids)
        self.at_once = at_once
        self.threads: set[int] = set()

    def __call__(self, number: int, cursor: int, threads: int) -> Results:
        assert number == lib.SYMCALL_TASKS
        self.threads.add(threads)
        rest = [pid for pid in self.pids if pid >= cursor]
        shown = rest[: self.at_once]
        return page(*shown, after=shown[-1] + 1 if len(rest) > len(shown) else 0)


@given(st.sets(st.integers(1, task.PID_LIMIT - 1), max_size=200), st.integers(1, 32))
def test_tasks_are_those_of_the_guest(pids, at_once):
    found = calls.task_list(Raw(Guest(list(pids), at_once)))
    assert [entry.pid for entry in found] == sorted(pids)


def test_task():
    (found,) = calls.task_list(Raw(lambda *_: page(42)))
    flags = {"kernel_thread": False, "exiting": False, "idle": True}
    times = {"start_ns": 10, "utime_ns": 20, "stime_ns": 30}
    amounts = {"rss_bytes": 4096, "swap_bytes": 0, "vsize_bytes": None}
    expected = task.Task(42, 42, 1, 0, "S", "sh", 1, 1, **flags, **times, **amounts)
    assert found == expected


def test_threads_are_asked_for():
    guest = Guest([1])
    calls.task_list(Raw(guest), threads=True)
    calls.task_list(Raw(guest))
    assert guest.threads == {0, 1}


def test_a_page_is_asked_for_when_needed():
    raw = Raw(Guest(list(range(1, 200))))
    tasks = calls.tasks(raw)
    next(tasks)
    assert len(raw.calls) == 1


def test_longer_records_of_a_newer_guest():
    assert [t.pid for t in calls.tasks(Raw(lambda *_: page(5, 6, extra=16)))] == [5, 6]


def test_pid_met_again_is_shown_once():
    pages = [page(1, 5, after=6), page(5, 9)]
    assert [t.pid for t in calls.tasks(Raw(lambda *_: pages.pop(0)))] == [1, 5, 9]


@pytest.mark.parametrize("state", [b"\0", b"\xff", b"\x1b", b"9"])
def test_state_that_is_no_letter(state):
    data = record(1, state=state)
    (found,) = calls.task_list(Raw(lambda *_: results(1, 0, 96, data=data)))
    assert found.state == "?"


@pytest.mark.parametrize("after", [3, 2, task.PID_LIMIT + 1, 2**63, 2**64 - 1])
def test_cursor_that_does_not_advance(after):
    pages = [page(1, after=3), page(2, after=after)]
    with pytest.raises(GuestDataError, match=f"after pid 3 the guest wants to go on at {after}"):
        calls.task_list(Raw(lambda *_: pages.pop(0)))


def test_pages_without_end(monkeypatch):
    monkeypatch.setattr(task, "MAX_PAGES", 50)
    raw = Raw(lambda _, cursor, threads: results(0, cursor + 1, 96))
    with pytest.raises(GuestDataError, match="no end after 50 pages"):
        calls.task_list(raw)
    assert len(raw.calls) == 50


@pytest.mark.parametrize(
    ("count", "size"),
    [
        (1, 0),
        (1, 95),
        (1, 2**64 - 96),
        (33, 96),
        (2**32, 96),
        (2**64 - 1, 96),
        (2**63, 2**63),
        (2, 0xC00),
    ],
)
def test_records_that_cannot_be(count, size):
    with pytest.raises(GuestDataError, match="tasks"):
        calls.task_list(Raw(lambda *_: results(count, 0, size, data=bytes(0xC00))))


def test_no_records_need_no_size():
    assert calls.task_list(Raw(lambda *_: results(0, 0, 0))) == []


@given(st.lists(st.tuples(WORD, WORD, WORD, st.binary(max_size=0xC00)), min_size=1, max_size=3))
def test_tasks_of_noise(answers):
    pages = [results(a, b, c, data=data) for a, b, c, data in answers]
    try:
        found = calls.task_list(Raw(lambda *_: pages.pop(0) if pages else results(0)))
    except GuestDataError:
        return
    pids = [entry.pid for entry in found]
    assert pids == sorted(set(pids))


# MEMORY.


def test_memory():
    raw = Raw(lambda *_: structure(MEMORY_LAYOUT, 4096, *range(1, 14), UNKNOWN))
    found = calls.read_memory(raw)
    assert (found.page_size, found.total, found.swap_cached) == (4096, 1, 10)
    assert (found.pswpin, found.pgmajfault) == (11, None)


# MEM_LOOKUP.


def test_lookup():
    raw = Raw(lambda *_: results(0x1000, 0x7000, 5))
    found = memory.lookup(raw, 0x1000, access=4)
    assert found == memory.Lookup(0x1000, 0x7000, 5)
    assert (found.readable, found.writable, found.executable) == (True, False, True)
    assert raw.calls == [(10, 0x1000, 0, 4)]


def test_lookup_that_is_refused():
    found = memory.lookup(Raw(lambda *_: results(0, 0, 1)), 0x1000, access=2)
    assert found == memory.Lookup(None, None, 1)


@pytest.mark.parametrize(("permissions", "vaddr"), [(1, 0), (0, None), (2, None)])
def test_lookup_of_address_zero(permissions, vaddr):
    assert memory.lookup(Raw(lambda *_: results(0, 0, permissions)), 0).vaddr == vaddr


@pytest.mark.parametrize("registers", [(0x2000, 0, 1), (0x1000, 0, 8), (0x1000, 0, 2**64 - 1)])
def test_lookup_that_cannot_be(registers):
    with pytest.raises(GuestDataError, match="0x1000"):
        memory.lookup(Raw(lambda *_: results(*registers)), 0x1000)


@pytest.mark.parametrize(
    "arguments", [(-1,), (2**64,), (0, -1), (0, 2**64), (0, 0, 0), (0, 0, 8), (0, 0, -1)]
)
def test_lookup_of_what_cannot_be(arguments):
    with pytest.raises(ConfigError):
        memory.lookup(Raw(lambda *_: results()), *arguments)


# READ.


class Space:
    """An address space that holds these bytes at this address."""

    def __init__(self, start: int, data: bytes) -> None:
        self.start = start
        self.data = data

    def __call__(self, number: int, vaddr: int, length: int) -> Results:
        assert number == lib.SYMCALL_READ
        assert length <= lib.SYMBIOTIC_DATA_SIZE
        found = self.data[vaddr - self.start :][:length]
        if not found:
            raise refusal(errno.EFAULT)
        return results(len(found), data=found + b"left over")


@given(st.binary(min_size=1, max_size=20000), st.integers(0, 25000))
def test_read(data, length):
    found = memory.read(Raw(Space(2**63, data)), 2**63, length)
    assert found == data[:length]


def test_read_of_what_is_not_mapped():
    with pytest.raises(SymcallError):
        memory.read(Raw(Space(0, b"")), 0, 1)


@pytest.mark.parametrize("error", [refusal(errno.EINVAL), refusal(0, "deadline")])
def test_read_that_fails_half_way(error):
    def serve(_: int, vaddr: int, length: int) -> Results:
        if vaddr:
            raise error
        return results(length, data=bytes(length))

    with pytest.raises(SymcallError):
        memory.read(Raw(serve), 0, 4096)


@pytest.mark.parametrize("claim", [0, 11, 2**64 - 1])
def test_read_of_a_length_that_cannot_be(claim):
    with pytest.raises(GuestDataError, match=f"read {claim} of 10 bytes"):
        memory.read(Raw(lambda *_: results(claim, data=bytes(100))), 0, 10)


@pytest.mark.parametrize(
    ("vaddr", "length"), [(0, -1), (0, memory.MAX_READ + 1), (-1, 1), (2**64 - 1, 2), (2**64, 1)]
)
def test_read_of_what_cannot_be(vaddr, length):
    with pytest.raises(ConfigError):
        memory.read(Raw(lambda *_: results()), vaddr, length)


def test_read_up_to_the_last_byte():
    assert memory.read(Raw(Space(2**64 - 3, b"end")), 2**64 - 3, 3) == b"end"


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


# What an answer may cost in total.


def endless(number: int, cursor: int, threads: int) -> Results:
    """A guest with as many tasks as its pids can name."""
    page = b"".join(packed(pid) for pid in range(cursor + 1, cursor + 33))
    return results(32, cursor + 32, TASK_LAYOUT.size, data=page)


def packed(pid: int) -> bytes:
    """The record of a task that says nothing else."""
    return TASK_LAYOUT.pack(pid, pid, 1, 0, b"R", 0, 0, 1, *(1 << 60,) * 6, b"\x1b" * 16)


def test_a_guest_that_claims_millions_of_tasks(monkeypatch):
    monkeypatch.setattr(task, "MAX_TASKS", 1000)
    raw = Raw(endless)
    found = calls.task_list(raw)
    assert len(found) == 1000
    assert found.cut == "cut after 1000 tasks: the guest has more than 1000 tasks, or says so"
    walked = calls.tasks(Raw(endless))
    with pytest.raises(LimitError):
        list(walked)


def test_as_many_as_there_may_be_are_all_of_them(monkeypatch):
    monkeypatch.setattr(task, "MAX_TASKS", 100)
    found = calls.task_list(Raw(Guest(list(range(1, 101)))))
    assert (len(found), found.cut) == (100, None)


def test_a_guest_that_takes_its_time(monkeypatch):
    """Each call within its own, and thousands of them."""
    now = iter(range(10**6))
    monkeypatch.setattr(task.time, "monotonic", lambda: float(next(now)))
    found = calls.task_list(Raw(endless))
    assert "longer than 10 s" in found.cut
    assert 0 < len(found) <= 32 * 12


def test_a_long_read_of_a_slow_guest(monkeypatch):
    now = iter(range(10**6))
    monkeypatch.setattr("pyvmm.machine.question.time.monotonic", lambda: float(next(now)))
    raw = Raw(lambda number, at, length: results(length, data=b"x" * length))
    with pytest.raises(LimitError, match="longer than 10 s"):
        memory.read(raw, 0x1000, memory.MAX_READ)


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
