# SPDX-License-Identifier: Apache-2.0
"""Progress of a long build: a moving bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pyvmm.debian import tools

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# make's lines in one build of the small kernel; only the bar's scale hangs on it.
USUAL_STEPS = 1850


@contextmanager
def progress(title: str) -> Iterator[Callable[[], None]]:
    """Give a function to call once for each step."""
    if not sys.stderr.isatty():
        yield from lines(title)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed} steps"))
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=USUAL_STEPS)

        def step() -> None:
            bar.advance(task)

        yield step


def lines(title: str) -> Iterator[Callable[[], None]]:
    """Yield the form for logs."""
    started = shown = time.monotonic()
    count = 0
    tools.say(title)

    def step() -> None:
        nonlocal count, shown
        count += 1
        now = time.monotonic()
        if now - shown >= tools.QUIET_SECONDS:
            shown = now
            tools.say(f"{count} steps of about {USUAL_STEPS}, {now - started:.0f} s")

    yield step
    tools.say(f"{count} steps in {time.monotonic() - started:.0f} s")
