# SPDX-License-Identifier: Apache-2.0
"""Text for people: sizes, times, tables, and what a guest says without what a terminal would obey."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def printable(text: object) -> str:
    """Strip a text of a guest's of all that a terminal would obey."""
    return "".join(c if c.isprintable() else "?" for c in str(text))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return columns under their names; one whose name ends with a colon, which is left away,
    begins at the left.
    """
    left = [name.endswith(":") for name in head]
    lines = [[name.rstrip(":") for name in head], *rows]
    widths = [max(len(line[n]) for line in lines) for n in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if at_left else cell.rjust(width)
            for cell, width, at_left in zip(line, widths, left, strict=True)
        ).rstrip()
        for line in lines
    )


def amount(size: int) -> str:
    """Write a number of bytes as 12 KiB, 3.4 MiB, 1.5 GiB."""
    for shift, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB")):
        if size >= 1 << shift:
            return f"{size / (1 << shift):.1f} {unit}"
    return f"{size >> 10} KiB"


def duration(seconds: float) -> str:
    """Return a duration as 12.3s, 4m05s, 3h04m, 2d03h."""
    whole = int(seconds)
    if whole < 60:
        return f"{seconds:.1f}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole // 60 % 60:02}m"
    return f"{whole // 86400}d{whole // 3600 % 24:02}h"
