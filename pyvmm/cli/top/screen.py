# SPDX-License-Identifier: Apache-2.0
"""The record of `pyvmm top` as lines for people."""

from __future__ import annotations

from typing import Any

from pyvmm.cli import tasktext
from pyvmm.launch import human

LABEL = 6
TASK_HEAD = ("PID", "S", "CPU", "TIME", "RSS", "SWAP", "COMMAND:")


def amount(size: int | None) -> str:
    """Write a number of bytes, or a dash."""
    return "-" if size is None else human.amount(size)


def number(value: float | None, form: str = ".0f") -> str:
    """Return a rate or a share, or a dash."""
    return "-" if value is None else f"{value:{form}}"


def title(record: dict[str, Any]) -> str:
    """Return the line that names the VM."""
    machine = f"{record['cpus']} vCPU, {human.amount(record['memory'])}"
    return (
        f"{record['name']}  {record['state']}  pid {record['pid']}  {machine}  "
        f"up {human.duration(record['uptime'])}"
    )


def host_lines(host: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the lines of the process and of the host."""
    vcpus = " ".join(number(share) for share in host["vcpu_percent"])
    some, full = number(host["pressure_some"], ".1f"), number(host["pressure_full"], ".1f")
    guest = f"guest {amount(host['guest_rss'])}"
    if host["swap_rss"]:
        guest += f", swap disk in use {amount(host['swap_rss'])}"
    return [
        (
            "host",
            f"{amount(host['available'])} of {amount(host['total'])} available; "
            f"some wait for memory {some} % of the time, all {full} %",
        ),
        (
            "VMM",
            f"CPU {number(host['cpu_percent'])} %, vCPUs {vcpus} %; resident {amount(host['vmm_rss'])} "
            f"(PSS {amount(host['vmm_pss'])}) beyond the guest, {guest}",
        ),
    ]


def exit_line(record: dict[str, Any]) -> tuple[str, str]:
    """Return the exits by kind, those that happen first."""
    rates = sorted(record["exits"].items(), key=lambda item: -(item[1] or 0))
    kinds = ", ".join(f"{name} {number(rate)}" for name, rate in rates if rate)
    known = [rate for _, rate in rates if rate is not None]
    total = number(sum(known) if known else None)
    return (
        "exits",
        f"{total}/s{': ' if kinds else ''}{kinds}; symcalls {number(record['symcalls'])}/s",
    )


def guest_lines(record: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the guest's memory, or why it is not known."""
    guest = record["guest"]
    if guest is None:
        return [("guest", f"cannot be asked: {human.printable(record['guest_error'])}")]
    rates = {name: number(rate) for name, rate in guest["rates"].items()}
    swap = None if None in (guest["swap_total"], guest["swap_free"]) else guest["swap_total"]
    used = "-" if swap is None else amount(swap - guest["swap_free"])
    return [
        (
            "guest",
            f"{amount(guest['available'])} of {amount(guest['total'])} available, {amount(guest['free'])} free, "
            f"anonymous {amount(guest['anonymous'])}, cached {amount(guest['cached'])}, slab {amount(guest['slab'])}",
        ),
        (
            "",
            f"swap {used} of {amount(swap)} used, pages in {rates['pswpin']}/s, out {rates['pswpout']}/s; "
            f"faults {rates['pgfault']}/s, major {rates['pgmajfault']}/s",
        ),
    ]


def swap_lines(swap: dict[str, Any] | None) -> list[tuple[str, str]]:
    """Return the swap disk, if there is one."""
    if swap is None:
        return []
    rates, guest = swap["rates"], swap["guest"]
    told = "" if swap["mode"] == swap["effective"] else f" (told {swap['effective']})"
    lines = [
        (
            "swap",
            f"{swap['mode']}{told}, policy {swap['policy']}; "
            f"store {amount(swap['bytes_used'])} of {amount(swap['size'])}; "
            f"queue in {amount_rate(rates['bytes_in'])}, out {amount_rate(rates['bytes_out'])}",
        )
    ]
    if guest is not None:
        lines.append(
            (
                "",
                f"adopted {amount(guest['adopted'] << 12)}, +{number(rates['adopted_total'])}/s, freed "
                f"{number(rates['freed'])}/s, handed back {number(rates['evicted'])}/s; "
                f"copied in {number(rates['pages_in'])}/s, out {number(rates['pages_out'])}/s",
            )
        )
    if swap["offered"]:
        reasons = ", ".join(f"{name} {count}" for name, count in swap["refused"].items() if count)
        lines.append(
            (
                "",
                f"asked for {number(rates['offered'])}/s, mapped {number(rates['mapped'])}/s, refused "
                f"{number(rates['refused'])}/s" + (f"; so far: {reasons}" if reasons else ""),
            )
        )
    return lines


def amount_rate(rate: float | None) -> str:
    """Write a number of bytes a second."""
    return "-" if rate is None else f"{human.amount(int(rate))}/s"


def tasks(record: dict[str, Any]) -> str:
    """Return the table of the guest's largest tasks; KiB, as that of ps."""
    rows = []
    for task in record["tasks"]:
        sizes = [
            "-" if task[name] is None else str(task[name] >> 10)
            for name in ("rss_bytes", "swap_bytes")
        ]
        state = [
            str(task["pid"]),
            str(task["state"]),
            str(task["cpu"]),
            tasktext.clock(tasktext.used(task)),
        ]
        rows.append([*state, *sizes, tasktext.command(task)])
    table = human.table(TASK_HEAD, rows) if rows else ""
    if record["tasks_cut"] is None:
        return table
    return f"{table}\nthere are more: {human.printable(record['tasks_cut'])}"


def lines(record: dict[str, Any]) -> list[tuple[str, str]]:
    """Return (label, text) of everything but the title and the tasks."""
    return [
        *host_lines(record["host"]),
        exit_line(record),
        *guest_lines(record),
        *swap_lines(record["swap"]),
    ]


def text(record: dict[str, Any]) -> str:
    """Return a plain block."""
    body = [f"{label:{LABEL}} {text}" for label, text in lines(record)]
    table = tasks(record)
    return "\n".join([title(record), *body, *([table] if table else [])])
