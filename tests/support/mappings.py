# SPDX-License-Identifier: Apache-2.0
"""The mappings of a process, as /proc/PID/smaps tells them."""

from __future__ import annotations

from typing import NamedTuple


class Mapping(NamedTuple):
    """Addresses from `start` to before `end`; `flags` are the words of VmFlags (proc_pid_smaps(5))."""

    start: int
    end: int
    name: str
    flags: tuple[str, ...]


def mappings(pid: int | str = "self") -> list[Mapping]:
    """Collect them in the order of their addresses. Raises OSError for a process that is gone, or somebody else's."""
    found = []
    head: list[str] = []
    with open(f"/proc/{pid}/smaps", encoding="utf-8", errors="replace") as file:
        for line in file:
            words = line.split(None, 5)
            if not words[0].endswith(":"):
                head = words
            elif words[0] == "VmFlags:":
                start, end = (int(part, 16) for part in head[0].split("-"))
                name = head[5].strip() if len(head) > 5 else ""
                found.append(Mapping(start, end, name, tuple(line.split()[1:])))
    return found
