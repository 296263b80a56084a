# SPDX-License-Identifier: Apache-2.0
"""`pyvmm top`: a running VM watched from the host, with what its guest's kernel says; no agent in
the guest.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any

from pyvmm.cli import vms
from pyvmm.launch import status
from pyvmm.launch.number import Duration, Whole

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.control.client import Client

INTERVAL = 2.0
#: Shorter ones would show mostly top's own symcalls.
LEAST = 0.1
#: Tasks in a plain block and in a JSON object; on a screen, those that fit.
TASKS = 10


def add_parser(sub: argparse._SubParsersAction[Any]) -> None:
    """Add the subcommand's options."""
    parser = vms.add_parser(
        sub,
        "top",
        "watch a running VM: its load, its exits, its guest's memory and swapping",
        "Without NAME the only VM there is. On a terminal a screen that q or ctrl-c ends, else a block an interval. "
        "Rates are per second, top's own symcalls among them.",
    )
    parser.add_argument(
        "--interval",
        metavar="S",
        type=Duration(least=LEAST, most=86400),
        default=INTERVAL,
        help="seconds (%(default)g)",
    )
    parser.add_argument(
        "--count",
        metavar="N",
        type=Whole("number of intervals"),
        help="end after so many intervals",
    )
    vms.add_vm(parser)


class Watch:
    """One VM, looked at again and again."""

    def __init__(self, client: Client, interval: float, limit: int | None) -> None:
        from pyvmm.control.reading import Source

        self._source = Source(client)
        self._interval = interval
        self._limit = limit

    def run(
        self,
        show: Callable[[dict[str, Any]], None],
        wait: Callable[[float], bool],
        *,
        tasks: Callable[[], int],
        at_once: bool,
    ) -> bool:
        """Show a record an interval, with `at_once` one without rates before; False if the VM ended
        meanwhile.

        Ends after the last one too, and when `wait` says so.
        """
        from pyvmm.control.reading import Interval

        shown, before = 0, None
        while (after := self._source.read()) is not None:
            if before is not None or at_once:
                show(Interval(before, after).record(tasks()))
            if before is not None:
                shown += 1
                if shown == self._limit:
                    return True
            before = after
            if wait(self._interval):
                return True
        return False


def on_screen(watch: Watch) -> bool:
    """Show it on the terminal, which is as before afterwards."""
    from rich.console import Console, Group, RenderableType
    from rich.table import Table
    from rich.text import Text

    from pyvmm.cli.top import screen
    from pyvmm.cli.top.keyboard import Keyboard

    console = Console()

    def draw(record: dict[str, Any]) -> None:
        known = Table.grid(padding=(0, 1))
        for label, words in screen.lines(record):
            known.add_row(Text(label, style="cyan"), Text(words))
        parts: list[RenderableType] = [Text(screen.title(record), style="bold"), known]
        head, _, rows = screen.tasks(record).partition("\n")
        if rows:
            table = [Text(), Text(head, style="reverse"), *map(Text, rows.split("\n"))]
            for line in table:
                line.no_wrap, line.overflow = True, "ellipsis"
            parts += table
        place.update(Group(*parts))

    with Keyboard() as keys, console.screen() as place:
        try:
            return watch.run(draw, keys.wait, tasks=lambda: console.height, at_once=True)
        except KeyboardInterrupt:
            return True


def in_blocks(watch: Watch, as_json: bool) -> bool:
    """Print it for a pipe or a file: a plain block, or a line of JSON."""
    import json
    import time

    from pyvmm.cli.top import screen

    first = True

    def write(record: dict[str, Any]) -> None:
        nonlocal first
        gap = "" if first or as_json else "\n"
        first = False
        print(gap + (json.dumps(record) if as_json else screen.text(record)), flush=True)

    def wait(interval: float) -> bool:
        time.sleep(interval)
        return False

    return watch.run(write, wait, tasks=lambda: TASKS, at_once=False)


def main(args: argparse.Namespace) -> int:
    """Show it until it is enough; the VM's end is one as well."""

    def question(client: Client) -> int:
        watch = Watch(client, args.interval, args.count)
        plain = args.json or not sys.stdout.isatty() or os.environ.get("TERM") == "dumb"
        if not (in_blocks(watch, args.json) if plain else on_screen(watch)):
            print(f"pyvmm: {client.name} has ended", file=sys.stderr)
        return status.OK

    return vms.ask(args.vm, question)
