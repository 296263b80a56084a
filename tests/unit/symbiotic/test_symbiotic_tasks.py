# SPDX-License-Identifier: Apache-2.0
"""The tasks of guests made up here: honest ones, newer ones, and ones that lie."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm._core import lib
from pyvmm.errors import GuestDataError, LimitError
from pyvmm.machine.symcall import Results
from pyvmm.symbiotic import calls, task
from tests.support.typed_guest import WORD, Raw, endless, page, record, results


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
