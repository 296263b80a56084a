# SPDX-License-Identifier: Apache-2.0
"""When a guest may use swapped pages where they lie: what is read of the host, and what follows from it."""

from __future__ import annotations

import os
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm._core import ffi, lib
from pyvmm.errors import ConfigError
from pyvmm.machine.memory import GIB, MIB
from pyvmm.swap import governor
from pyvmm.swap.governor import POLICIES
from tests.support import waiting

PSI = "some avg10={} avg60=0.11 avg300=0.00 total=99\nfull avg10=77.00 avg60=0.00 avg300=0.00 total=9\n"
MEMINFO = "MemTotal:       {} kB\nMemFree:         1 kB\nMemAvailable:    {} kB\nBuffers: 5 kB\n"


def read(
    folder: Path, pressure: str | None = None, meminfo: str | None = None, **group: str
) -> Any:
    for name, text in (("pressure", pressure), ("meminfo", meminfo)):
        if text is not None:
            (folder / name).write_text(text)
    for name, text in group.items():
        (folder / name.replace("_", ".")).write_text(text)
    host = ffi.new("struct hostmemory *")
    where = bytes(folder) if group else b""
    lib.hostmemory_read(host, bytes(folder / "pressure"), bytes(folder / "meminfo"), where)
    return host


# The host.


@pytest.mark.parametrize(
    ("text", "stall"), [("0.00", 0), ("1.05", 105), ("99.99", 9999), ("100.00", 10000)]
)
def test_pressure(tmp_path: Path, text: str, stall: int) -> None:
    assert read(tmp_path, PSI.format(text)).stall == stall


@pytest.mark.parametrize(
    "text", [None, "", "some", "full avg10=1.00", "some avg10=x", "some avg10=", "\0" * 9000]
)
def test_no_pressure_to_read(tmp_path: Path, text: str | None) -> None:
    """As on a kernel without pressure stall information."""
    assert read(tmp_path, text).stall == -1


def test_meminfo(tmp_path: Path) -> None:
    host = read(tmp_path, meminfo=MEMINFO.format(1000, 40))
    assert (host.total, host.available) == (1000 << 10, 40 << 10)


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "MemTotal: 5 kB",
        "MemTotal: x kB\nMemAvailable: 1 kB",
        "MemAvailable: 1 kB",
        "x" * 9999,
    ],
)
def test_no_meminfo_to_read(tmp_path: Path, text: str | None) -> None:
    host = read(tmp_path, meminfo=text)
    assert (host.total, host.available) == (0, 0)


def test_a_control_group(tmp_path: Path) -> None:
    stat = "anon 5\nfile 900\nshmem 600\ninactive_file 200\nactive_file 100\nslab 1\n"
    group = {"memory_max": "1000\n", "memory_current": "950\n", "memory_stat": stat}
    host = read(tmp_path, PSI.format("2.00"), **group)
    assert (host.limit, host.room, host.stall) == (1000, 350, 200)
    host = read(tmp_path, memory_pressure=PSI.format("30.00"), memory_current="1200\n")
    assert (host.room, host.stall) == (100, 3000)
    host = read(tmp_path, memory_max="max\n")
    assert (host.limit, host.room) == (0, 0)


@given(st.binary(max_size=300))
def test_files_that_hold_anything(text: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file in ("pressure", "meminfo", "memory.max", "memory.current", "memory.stat"):
            (folder / file).write_bytes(text)
        host = read(folder, memory_pressure=text.decode("latin-1"))
        assert -1 <= host.stall <= 99999
        assert host.room <= host.limit


# The verdict.


def judge(policy: str, before: int = 1, *, quota: int = 0, used: int = 0, **host: int) -> int:
    values = {"stall": -1, **host}
    memory = ffi.new("struct hostmemory *", values)
    return int(lib.swapgovernor_judge(POLICIES.index(policy), quota, used, memory, before))


@pytest.mark.parametrize("before", [0, 1])
def test_policies_that_never_change(before: int) -> None:
    bad = {"stall": 9999, "total": GIB, "available": 0}
    assert judge("always", before, **bad) == 1
    assert judge("never", before, stall=0) == 0
    assert judge("pressure", before) == 1, "a host that says nothing"
    assert int(lib.swapgovernor_judge(99, 0, 0, ffi.new("struct hostmemory *"), 1)) == 0


def test_a_quota() -> None:
    assert [judge("quota", quota=100, used=used) for used in (0, 100, 101)] == [1, 1, 0]
    assert judge("quota", quota=0, used=0) == 1
    assert judge("quota", quota=0, used=1) == 0


@pytest.mark.parametrize(
    ("host", "on", "off"),
    [
        ({"stall": 0}, 1, 1),
        ({"stall": 499}, 1, 1),
        ({"stall": 500}, 1, 0),
        ({"stall": 999}, 1, 0),
        ({"stall": 1000}, 0, 0),
        ({"total": GIB, "available": GIB // 10}, 1, 1),
        ({"total": GIB, "available": GIB * 6 // 100}, 1, 0),
        ({"total": GIB, "available": GIB * 4 // 100}, 0, 0),
        ({"total": GIB, "available": 0}, 0, 0),
        ({"limit": GIB, "room": GIB}, 1, 1),
        ({"limit": GIB, "room": GIB * 6 // 100}, 1, 0),
        ({"limit": GIB, "room": 0}, 0, 0),
        ({"stall": 0, "total": GIB, "available": GIB, "limit": GIB, "room": 0}, 0, 0),
    ],
)
def test_pressure_comes_and_goes_at_different_marks(
    host: dict[str, int], on: int, off: int
) -> None:
    assert judge("pressure", 1, **host) == on
    assert judge("pressure", 0, **host) == off


@given(st.integers(-1, 10000), *[st.integers(0, 1 << 60)] * 4, st.sampled_from(sorted(POLICIES)))
def test_what_is_allowed_with_little_is_allowed_with_more(
    stall: int, total: int, available: int, limit: int, room: int, policy: str
) -> None:
    """And a verdict that was yes is harder to change than one that was no is to keep."""
    now = {"total": total, "available": available, "limit": limit, "room": room, "stall": stall}
    more = {"available": available * 2, "room": room * 2, "stall": max(stall - 100, -1)}
    for before in (0, 1):
        assert judge(policy, before, **now) <= judge(policy, before, **(now | more))
    assert judge(policy, 0, **now) <= judge(policy, 1, **now)


# The thread.


class Governed:
    """A governor over a store of its own, whose files a test writes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fd = os.memfd_create("store")
        os.ftruncate(self.fd, 2 * MIB)
        self.memory = lib.guest_memory_create()
        self.spy = lib.symspy_create(self.memory, 1)
        self.bypass = lib.swapbypass_create(self.spy, self.memory, 1)
        self.store = lib.swapstore_create(self.fd, 2 * MIB)
        offer = ffi.new("struct symspy_swap *", {"mode": 2, "base": 6 << 30, "size": 2 * MIB})
        assert lib.swapbypass_offer(self.bypass, self.store, offer) == 0
        self.say("0.00")
        names = (bytes(folder / name) for name in ("pressure", "meminfo"))
        self.governor = lib.swapgovernor_create(self.bypass, self.store, *names, b"", 5)
        assert self.governor != ffi.NULL

    def say(self, stall: str) -> None:
        new = self.folder / "new"
        new.write_text(PSI.format(stall))
        new.rename(self.folder / "pressure")

    def set(self, policy: str, quota: int = 0) -> None:
        lib.swapgovernor_set(self.governor, POLICIES.index(policy), quota)

    @property
    def mode(self) -> int:
        return int(lib.swapbypass_mode(self.bypass))

    def becomes(self, mode: int) -> bool:
        for _ in range(4000):
            if self.mode == mode:
                return True
            threading.Event().wait(0.005)
        return False

    def finds(self, verdict: int) -> int:
        """How long tasks wait, once that is the verdict."""
        host = ffi.new("struct hostmemory *")
        waiting.until(lambda: lib.swapgovernor_verdict(self.governor, host) == verdict)
        return int(host.stall)

    def close(self) -> None:
        lib.swapgovernor_destroy(self.governor)
        lib.swapbypass_destroy(self.bypass)
        lib.symspy_destroy(self.spy)
        lib.guest_memory_destroy(self.memory)
        lib.swapstore_destroy(self.store)
        os.close(self.fd)


@pytest.fixture
def governed(tmp_path: Path) -> Any:
    made = Governed(tmp_path)
    yield made
    made.close()


def test_the_thread_follows_the_host(governed: Governed) -> None:
    governed.set("pressure")
    assert governed.mode == 2
    assert lib.swapgovernor_wait(governed.governor, 20) == 0
    governed.say("50.00")
    assert governed.finds(0) == 5000
    assert lib.swapgovernor_wait(governed.governor, 20_000) == 1
    governed.say("7.00")
    assert lib.swapgovernor_wait(governed.governor, 20_000) == 1, "not over so far"
    assert governed.mode == 2, "using a page where it lies costs the host nothing"
    governed.say("1.00")
    assert governed.finds(1) == 100


def test_a_quota_turns_the_mode_off_and_on(governed: Governed) -> None:
    governed.set("quota", 4096)
    os.pwrite(governed.fd, bytes(8192), 0)
    assert governed.becomes(0)
    os.ftruncate(governed.fd, 4096)
    assert governed.becomes(2)


def test_a_policy_counts_at_once(governed: Governed) -> None:
    governed.say("50.00")
    for policy, mode in (("never", 0), ("always", 2), ("pressure", 2), ("quota", 2), ("never", 0)):
        governed.set(policy)
        assert governed.mode == mode, policy
    assert lib.swapgovernor_wait(governed.governor, 30) == 0, "nobody is to hand pages back"
    os.pwrite(governed.fd, b"x", 0)
    governed.set("quota", 4096)
    assert governed.mode == 2
    governed.set("quota", 4095)
    assert governed.mode == 0
    assert lib.swapgovernor_wait(governed.governor, 20_000) == 1


def test_who_waits_comes_back_at_the_end(governed: Governed) -> None:
    results: list[int] = []
    thread = threading.Thread(
        target=lambda: results.append(lib.swapgovernor_wait(governed.governor, 600_000))
    )
    thread.start()
    lib.swapgovernor_end(governed.governor)
    thread.join(60)
    assert results == [-1]


def test_a_hook_has_no_faults_to_decide_on_in_direct_mode(governed: Governed) -> None:
    governed.set("always")
    lib.swapbypass_ask(governed.bypass, 3)
    assert governed.mode == 1
    lib.swapbypass_want(governed.bypass, 1)
    assert governed.mode == 1
    lib.swapbypass_want(governed.bypass, 2)
    lib.swapbypass_ask(governed.bypass, lib.SWAPBYPASS_NO_HOOK)
    assert governed.mode == 2
    lib.swapbypass_want(governed.bypass, 77)
    assert governed.mode == 0


# Names.


def test_names_of_policies() -> None:
    with pytest.raises(ConfigError, match="choose from always, never, pressure, quota"):
        governor.policy_number("sometimes", None)
    with pytest.raises(ConfigError, match="needs one"):
        governor.policy_number("quota", None)
    with pytest.raises(ConfigError, match="a swap quota of -1 bytes"):
        governor.policy_number("quota", -1)
    assert governor.policy_number("quota", 0) == POLICIES.index("quota")


def test_the_own_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = tmp_path / "groups"
    (groups / "a/b").mkdir(parents=True)
    monkeypatch.setattr(governor, "OWN_GROUPS", str(tmp_path / "own"))
    monkeypatch.setattr(governor, "GROUPS", str(groups))
    assert governor.own_group() == ""
    (tmp_path / "own").write_text("4:memory:/x\n0::/a/b\n")
    assert governor.own_group() == "", "no memory controller"
    (groups / "a/b/memory.current").write_text("1\n")
    assert governor.own_group() == str(groups / "a/b")
    (tmp_path / "own").write_text("4:memory:/x\n")
    assert governor.own_group() == ""
