# SPDX-License-Identifier: Apache-2.0
"""The thread of devices: watches, calls from outside, and the promise that a deleted watch stays silent."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import c_library
from tests.support.waiting import until

EPOLLIN = 1
PATIENCE = 60.0
MORE = """
struct iothread_watch;
typedef void iothread_handler(struct iothread_watch *watch, uint32_t events);
struct iothread_watch { int fd; iothread_handler *handler; void *opaque; };
int iothread_add(struct iothread *thread, struct iothread_watch *watch, uint32_t events);
int iothread_mod(struct iothread *thread, struct iothread_watch *watch, uint32_t events);
int iothread_del(struct iothread *thread, struct iothread_watch *watch);
void iothread_call(struct iothread *thread, void (*fn)(void *opaque), void *opaque);
typedef bool iothread_give_up(const void *who);
int iothread_call_unless(struct iothread *thread, void (*fn)(void *opaque), void *opaque,
                         iothread_give_up *give_up, const void *who);
bool iothread_is_wanted(const struct iothread *thread);
void eventfd_signal(int fd);
void eventfd_drain(int fd);
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    return c_library.load(tmp_path_factory.mktemp("iothread"), ("host/iothread",), MORE)


class Thread:
    """An iothread whose handlers are Python functions; only tests may do that."""

    def __init__(self, library: tuple[Any, Any]) -> None:
        self.ffi, self.lib = library
        self.c = self.lib.iothread_create(b"test")
        assert self.c != self.ffi.NULL
        self.fds: list[int] = []
        self.kept: list[Any] = []

    def eventfd(self, count: int = 0) -> int:
        self.fds.append(os.eventfd(count, os.EFD_NONBLOCK | os.EFD_CLOEXEC))
        return self.fds[-1]

    def watch(self, fd: int, handler: Any) -> Any:
        callback = self.ffi.callback("iothread_handler", lambda watch, events: handler())
        watch = self.ffi.new("struct iothread_watch *", (fd, callback, self.ffi.NULL))
        self.kept += [callback, watch]
        return watch

    def add(self, fd: int, handler: Any) -> Any:
        watch = self.watch(fd, handler)
        assert self.lib.iothread_add(self.c, watch, EPOLLIN) == 0
        return watch

    def call(self, function: Any) -> None:
        def call(opaque: Any) -> None:
            function()

        callback = self.ffi.callback("void(void *)", call)
        self.lib.iothread_call(self.c, callback, self.ffi.NULL)

    def call_unless(self, function: Any, give_up: Any) -> int:
        callback = self.ffi.callback("void(void *)", lambda opaque: function())
        asked = self.ffi.callback("bool(const void *)", lambda who: give_up())
        self.kept += [callback, asked]
        return int(
            self.lib.iothread_call_unless(self.c, callback, self.ffi.NULL, asked, self.ffi.NULL)
        )

    def close(self) -> None:
        self.lib.iothread_destroy(self.c)
        for fd in self.fds:
            os.close(fd)


@pytest.fixture
def thread(library: tuple[Any, Any]) -> Iterator[Thread]:
    thread = Thread(library)
    yield thread
    thread.close()


def test_a_handler_runs_for_each_event(thread: Thread) -> None:
    fd, seen = thread.eventfd(), []
    thread.add(fd, lambda: seen.append(os.eventfd_read(fd)))
    for count in range(1, 6):
        thread.lib.eventfd_signal(fd)
        until(lambda count=count: len(seen) == count)
    assert seen == [1] * 5


def test_level_triggered(thread: Thread) -> None:
    fd, turns = thread.eventfd(1), []

    def handler() -> None:
        turns.append(1)
        if len(turns) == 10:
            thread.lib.eventfd_drain(fd)

    thread.add(fd, handler)
    until(lambda: len(turns) == 10)
    thread.call(lambda: None)
    assert len(turns) == 10


def test_a_deleted_watch_stays_silent(thread: Thread) -> None:
    """Also when its descriptor is ready all the time."""
    for _ in range(50):
        turns: list[int] = []
        watch = thread.add(thread.eventfd(1), lambda turns=turns: turns.append(1))
        until(lambda turns=turns: turns)
        assert thread.lib.iothread_del(thread.c, watch) == 0
        count = len(turns)
        thread.call(lambda: None)
        assert len(turns) == count


def test_a_handler_may_delete_the_other(thread: Thread) -> None:
    seen: list[str] = []
    fds = {"a": thread.eventfd(), "b": thread.eventfd()}
    watches: dict[str, Any] = {}

    def handler(me: str, other: str) -> None:
        seen.append(me)
        thread.lib.iothread_del(thread.c, watches[other])
        thread.lib.eventfd_drain(fds[me])

    watches["a"] = thread.add(fds["a"], lambda: handler("a", "b"))
    watches["b"] = thread.add(fds["b"], lambda: handler("b", "a"))
    thread.call(lambda: [thread.lib.eventfd_signal(fd) for fd in fds.values()])
    until(lambda: seen)
    thread.call(lambda: None)
    assert len(seen) == 1


def test_a_call_runs_on_the_thread_and_is_waited_for(thread: Thread) -> None:
    where: list[int] = []
    thread.call(lambda: where.append(threading.get_native_id()))
    assert where
    assert where[0] != threading.get_native_id()
    with open(f"/proc/self/task/{where[0]}/comm") as file:
        assert file.read() == "test\n"


def test_a_call_on_the_thread_runs_at_once(thread: Thread) -> None:
    order: list[str] = []

    def outer() -> None:
        thread.call(lambda: order.append("inner"))
        order.append("outer")

    thread.call(outer)
    assert order == ["inner", "outer"]


def test_calls_from_many_threads(thread: Thread) -> None:
    done: list[int] = []
    callers = [
        threading.Thread(target=lambda: [thread.call(lambda: done.append(1)) for _ in range(50)])
        for _ in range(8)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(PATIENCE)
    assert len(done) == 400


class Busy:
    """A handler that does not come to an end, but for being told."""

    def __init__(self, thread: Thread) -> None:
        self.thread = thread
        self.go_on, self.began = threading.Event(), threading.Event()
        self.wanted: list[bool] = []
        fd = thread.eventfd(1)

        def handler() -> None:
            thread.lib.eventfd_drain(fd)
            self.began.set()
            self.go_on.wait(PATIENCE)
            self.wanted.append(thread.lib.iothread_is_wanted(thread.c))

        thread.add(fd, handler)
        assert self.began.wait(PATIENCE)


def test_a_caller_may_give_up(thread: Thread) -> None:
    """A call that had not begun is not made later either; others are served."""
    busy, done = Busy(thread), []
    looks: list[int] = []

    def give_up() -> bool:
        looks.append(1)
        return len(looks) > 2

    assert thread.call_unless(lambda: done.append("late"), give_up) == -errno.ECANCELED
    busy.go_on.set()
    until(lambda: busy.wanted)
    assert busy.wanted == [False]  # it was withdrawn
    assert thread.call_unless(lambda: done.append("patient"), lambda: False) == 0
    thread.call(lambda: done.append("call"))
    assert done == ["patient", "call"]


def test_a_handler_learns_that_somebody_waits(thread: Thread) -> None:
    busy, done = Busy(thread), []

    def look() -> bool:
        busy.go_on.set()
        return False

    assert thread.call_unless(lambda: done.append(1), look) == 0
    assert busy.wanted == [True]
    assert done == [1]
    assert not thread.lib.iothread_is_wanted(thread.c)


def test_a_caller_that_gives_up_what_has_begun(thread: Thread) -> None:
    begun, go_on, done = threading.Event(), threading.Event(), []

    def slow() -> None:
        begun.set()
        go_on.wait(PATIENCE)
        done.append(1)

    assert thread.call_unless(slow, begun.is_set) == -errno.ECANCELED
    assert not done
    go_on.set()
    thread.call(lambda: done.append(2))
    assert done == [1, 2]


def test_a_stop_that_fails_can_be_repeated(thread: Thread) -> None:
    busy, done = Busy(thread), []
    assert thread.lib.iothread_stop(thread.c, 0) == -errno.ETIMEDOUT
    assert thread.lib.iothread_stop(thread.c, 20) == -errno.ETIMEDOUT
    busy.go_on.set()
    assert thread.lib.iothread_stop(thread.c, 60000) == 0
    assert thread.lib.iothread_stop(thread.c, 0) == 0
    assert busy.wanted == [True]
    thread.call(lambda: done.append(threading.get_native_id()))
    assert done == [threading.get_native_id()]


def test_calls_while_it_stops_are_made(library: tuple[Any, Any]) -> None:
    """By the thread or by the caller, but once."""
    for _ in range(30):
        thread, done = Thread(library), []
        callers = [
            threading.Thread(target=thread.call, args=(lambda done=done: done.append(1),))
            for _ in range(4)
        ]
        for caller in callers:
            caller.start()
        assert thread.lib.iothread_stop(thread.c, 60000) == 0
        for caller in callers:
            caller.join(PATIENCE)
        assert len(done) == 4
        thread.close()


def test_it_takes_no_signals(thread: Thread) -> None:
    blocked: list[int] = []

    def look() -> None:
        with open(f"/proc/self/task/{threading.get_native_id()}/status") as file:
            blocked.extend(int(line.split()[1], 16) for line in file if line.startswith("SigBlk"))

    thread.call(look)
    unblockable = 1 << 8 | 1 << 18  # SIGKILL, SIGSTOP
    reserved = 1 << 31 | 1 << 32  # the C library's own
    assert blocked[0] | unblockable | reserved == 2**64 - 1


def test_errors_come_back(thread: Thread) -> None:
    with open("/dev/null") as file:
        watch = thread.watch(file.fileno(), lambda: None)
        assert thread.lib.iothread_add(thread.c, watch, EPOLLIN) == -errno.EPERM
    watch = thread.watch(thread.eventfd(), lambda: None)
    assert thread.lib.iothread_mod(thread.c, watch, EPOLLIN) == -errno.ENOENT
    assert thread.lib.iothread_del(thread.c, watch) == -errno.ENOENT


def test_nothing_is_left(library: tuple[Any, Any]) -> None:
    Thread(library).close()
    before = len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))
    for _ in range(20):
        Thread(library).close()
    assert (len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))) == before


def test_destroying_nothing_is_allowed(library: tuple[Any, Any]) -> None:
    ffi, lib = library
    lib.iothread_destroy(ffi.NULL)
