# SPDX-License-Identifier: Apache-2.0
"""A running VM seen from the host and asked over its socket, at one moment; and what happened
between two of them.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import psutil

from pyvmm.errors import Error, GuestDataError, LimitError, StateError, SymcallError
from pyvmm.machine.footprint import footprint

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyvmm.control.client import Client

#: Pressure stall information of the host (Documentation/accounting/psi.rst in Linux).
PRESSURE = "/proc/pressure/memory"
OVER = ("ended", "closed")
#: Counters of the guest's memory statistics and of a swap disk, the VMM's and the guest's, that are shown as rates.
PAGING = ("pswpin", "pswpout", "pgfault", "pgmajfault")
SWAPPING = ("bytes_in", "bytes_out", "offered", "mapped")
GUEST_SWAPPING = ("adopted_total", "freed", "evicted", "pages_in", "pages_out")


class Reading(NamedTuple):
    """The findings.

    `at` is in seconds of some clock, processor times are in seconds, sizes in bytes.

    `swap` is None without a swap disk; `guest` and `tasks` are None if the guest cannot be asked,
    which `guest_error` explains. `tasks_cut` says why `tasks` are not all, if they are not.
    """

    at: float
    info: dict[str, Any]
    cpu: float | None
    threads: dict[int, float]
    host: dict[str, Any]
    swap: dict[str, Any] | None
    guest: dict[str, Any] | None
    tasks: list[dict[str, Any]] | None
    guest_error: str | None
    tasks_cut: str | None


class Source:
    """Where readings of a VM come from."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._ram: list[tuple[int, int]] = []
        self._windows: list[tuple[int, int]] = []
        self._cut: str | None = None
        info = client.call("info")
        self._process = psutil.Process(info["pid"])
        self._find_memory(info["memory"])

    def _find_memory(self, ram: int) -> None:
        """Find where in the VMM guest memory lies: RAM is told first."""
        fd, slots = self._client.memory()
        os.close(fd)
        for _, size, address in slots:
            (self._ram if ram > 0 else self._windows).append((address, size))
            ram -= size

    def read(self) -> Reading | None:
        """Take a reading now; return None once the VM has ended."""
        try:
            info = self._client.call("info")
        except StateError:
            return None
        if info["state"] in OVER:
            return None
        cpu, threads = self._processor()
        guest, tasks, error = self._guest()
        return Reading(
            time.monotonic(),
            info,
            cpu,
            threads,
            self._host(),
            self._swap(info),
            guest,
            tasks,
            error,
            self._cut,
        )

    def _processor(self) -> tuple[float | None, dict[int, float]]:
        try:
            times = self._process.cpu_times()
            threads = self._process.threads()
        except psutil.Error:
            return None, {}
        used = {thread.id: thread.user_time + thread.system_time for thread in threads}
        return times.user + times.system, used

    def _host(self) -> dict[str, Any]:
        memory = psutil.virtual_memory()
        try:
            use = footprint(self._ram, self._windows, self._process.pid)._asdict()
        except OSError:
            use = dict.fromkeys(("vmm_rss", "vmm_pss", "guest_rss", "swap_rss"))
        some, full = pressure()
        return {
            **use,
            "total": memory.total,
            "available": memory.available,
            "pressure_some": some,
            "pressure_full": full,
        }

    def _swap(self, info: dict[str, Any]) -> dict[str, Any] | None:
        if info.get("swap") is None:
            return None
        try:
            return {**self._client.call("swap-stats")}
        except (StateError, GuestDataError, LimitError):
            return None

    def _guest(self) -> tuple[dict[str, Any] | None, list[dict[str, Any]] | None, str | None]:
        self._cut = None
        try:
            memory = self._client.call("memory-stats")
            tasks = self._client.call("tasks")
            self._cut = self._client.cut
            return memory, tasks, None
        except (StateError, SymcallError, GuestDataError, LimitError) as error:
            return None, None, text_of(error)


def text_of(error: Error) -> str:
    """Return its message, on one line."""
    return " ".join(str(error).split())


def pressure(path: str = PRESSURE) -> tuple[float | None, float | None]:
    """Return percent of the last ten seconds in which some tasks, and all of them, waited for
    memory; None if not known.
    """
    found: dict[str, float] = {}
    try:
        with open(path, encoding="ascii") as file:
            for line in file:
                kind, average = line.split()[:2]
                found[kind] = float(average.removeprefix("avg10="))
    except (OSError, ValueError):
        pass
    return found.get("some"), found.get("full")


class Interval:
    """From one reading to a later one; without an earlier one no rate is known."""

    def __init__(self, before: Reading | None, after: Reading) -> None:
        self.before = before
        self.after = after
        self.seconds = None if before is None else max(after.at - before.at, 1e-9)

    def record(self, tasks: int) -> dict[str, Any]:
        """Return all of it in what JSON has, with so many tasks, the largest first.

        Rates are per second.
        """
        now, info = self.after, self.after.info
        return {
            **{key: info[key] for key in ("name", "pid", "state", "cpus", "memory", "kernel")},
            "uptime": info["seconds"],
            "seconds": self.seconds,
            "host": {**self._percent(), **now.host},
            "exits": self._rates(lambda one: one.info["exits"], info["exits"]),
            "symcalls": self._rates(lambda one: one.info["symcalls"], ("calls",))["calls"],
            "swap": self._swap(),
            "guest": self._with_rates(now.guest, lambda one: one.guest, PAGING),
            "guest_error": now.guest_error,
            "tasks": largest(now.tasks or [], tasks),
            "tasks_cut": now.tasks_cut,
        }

    def _percent(self) -> dict[str, Any]:
        """Return percent of a processor of the host."""
        used = self._rates(lambda one: {"cpu": one.cpu}, ("cpu",))["cpu"]
        threads = self.after.info.get("threads") or []
        vcpus = self._rates(lambda one: one.threads, [thread for thread in threads if thread])
        return {
            "cpu_percent": hundredfold(used),
            "vcpu_percent": [hundredfold(vcpus.get(thread)) for thread in threads],
        }

    def _swap(self) -> dict[str, Any] | None:
        made = self._with_rates(self.after.swap, lambda one: one.swap, SWAPPING)
        if made is not None:
            made["rates"] |= self._rates(
                lambda one: one.swap and {"refused": sum(one.swap["refused"].values())},
                ("refused",),
            )
            made["rates"] |= self._rates(lambda one: one.swap and one.swap["guest"], GUEST_SWAPPING)
        return made

    def _with_rates(self, values: Any, find: Any, names: tuple[str, ...]) -> dict[str, Any] | None:
        return None if values is None else {**values, "rates": self._rates(find, names)}

    def _rates(self, find: Any, names: Any) -> dict[Any, float | None]:
        """Return the rate of each counter that `find` gets from a reading; None where one of the
        two does not say.
        """
        after: Mapping[Any, Any] = find(self.after) or {}
        before: Mapping[Any, Any] = (self.before and find(self.before)) or {}
        result: dict[Any, float | None] = {}
        for name in names:
            new, old = after.get(name), before.get(name)
            if self.seconds is None or new is None or old is None:
                result[name] = None
            else:
                result[name] = max(new - old, 0) / self.seconds
        return result


def hundredfold(share: float | None) -> float | None:
    """Turn a share of 1 into percent; None stays."""
    return None if share is None else round(share * 100, 1)


def largest(tasks: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Return the tasks with most in memory, without those that have none; last those of which it is
    not known.
    """
    found = [task for task in tasks if task["rss_bytes"] != 0]
    return sorted(found, key=lambda task: (-(task["rss_bytes"] or 0), task["pid"]))[:count]
