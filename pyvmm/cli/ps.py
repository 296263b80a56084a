# SPDX-License-Identifier: Apache-2.0
"""`pyvmm ps`: the processes of a running guest, as its kernel knows them; nothing in the guest's
user space helps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyvmm.cli import tasktext, vms
from pyvmm.launch import human
from pyvmm.launch.number import Whole

if TYPE_CHECKING:
    import argparse

    from pyvmm.control.client import Client

#: Column to sort by -> key in a task's record, and whether the largest comes first.
SORTS = {
    "pid": ("pid", False),
    "rss": ("rss_bytes", True),
    "swap": ("swap_bytes", True),
    "start": ("start_ns", False),
    "time": ("utime_ns", True),
}
HEAD = ("PID", "PPID", "UID", "S", "CPU", "TIME", "RSS", "SWAP", "START", "COMMAND:")


def add_parser(sub: argparse._SubParsersAction[Any]) -> None:
    """Add the subcommand's options."""
    parser = vms.add_parser(
        sub,
        "ps",
        "show the processes of a running guest",
        "Without NAME the guest of the only VM there is. Asks the guest's kernel by a symcall, so the guest needs a "
        "symbiotic kernel or module, and no agent. TIME is processor time in minutes and seconds, RSS and SWAP are in "
        "KiB, START is in seconds after the guest's boot.",
    )
    parser.add_argument("-T", "--threads", action="store_true", help="every thread, with its TID")
    parser.add_argument(
        "--sort", metavar="WHAT", choices=SORTS, default="pid", help=f"{', '.join(SORTS)} (pid)"
    )
    parser.add_argument(
        "--cpu", metavar="N", type=Whole("vCPU", 0), help="ask on this vCPU (any that answers)"
    )
    vms.add_vm(parser)


def row(task: dict[str, Any], threads: bool) -> list[str]:
    """Return a line of the table."""
    rss, swap = (
        "-" if task[name] is None else str(task[name] >> 10) for name in ("rss_bytes", "swap_bytes")
    )
    start = "-" if task["start_ns"] is None else f"{task['start_ns'] / 1e9:.2f}"
    ids = [str(task["tgid"]), str(task["pid"])] if threads else [str(task["pid"])]
    numbers = [str(task[name]) for name in ("ppid", "uid", "state", "cpu")]
    return [
        *ids,
        *numbers,
        tasktext.clock(tasktext.used(task)),
        rss,
        swap,
        start,
        tasktext.command(task),
    ]


def ordered(tasks: list[dict[str, Any]], what: str) -> list[dict[str, Any]]:
    """Return the tasks sorted, those of which it is not known last."""
    key, largest_first = SORTS[what]

    def place(task: dict[str, Any]) -> tuple[bool, int, int]:
        value = tasktext.used(task) if what == "time" else task[key]
        return (
            value is None,
            (-value if largest_first else value) if value is not None else 0,
            task["pid"],
        )

    return sorted(tasks, key=place)


def main(args: argparse.Namespace) -> int:
    """Print the table."""

    def question(client: Client) -> int:
        tasks = ordered(client.call("tasks", threads=args.threads, cpu=args.cpu), args.sort)
        head = [HEAD[0], "TID", *HEAD[1:]] if args.threads else HEAD
        text = "" if args.json else human.table(head, [row(task, args.threads) for task in tasks])
        vms.say({"tasks": tasks, "cut": client.cut}, as_json=args.json, text=text)
        return vms.complete(client)

    return vms.ask(args.vm, question)
