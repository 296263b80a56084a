# SPDX-License-Identifier: Apache-2.0
"""`pyvmm swap`: the swap disk of a running VM, what became of the pages in it, and what the guest
may do with it.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from pyvmm.cli import vms
from pyvmm.control import swapfaults
from pyvmm.launch import human

if TYPE_CHECKING:
    from pyvmm.control.client import Client

HEAD = ("FAULTS:", "GUEST", "VMM")
#: `--evict` without a number.
ALL = 0


def add_parser(sub: argparse._SubParsersAction[Any]) -> None:
    """Add the subcommand's options."""
    # The launch path has these names too; importing them there would load the machine.
    from pyvmm.swap.bypass import MODES
    from pyvmm.swap.governor import POLICIES

    parser = vms.add_parser(
        sub,
        "swap",
        "show and change how a running guest uses its swap disk",
        "Without NAME the disk of the only VM there is. GUEST counts what the guest's kernel says, VMM what it was "
        "asked for (in the mode symcall). What is set holds at once, for faults that come.",
    )
    parser.add_argument("--mode", metavar="MODE", choices=MODES, help=f"set it: {', '.join(MODES)}")
    parser.add_argument(
        "--policy", metavar="POLICY", choices=POLICIES, help=f"set it: {', '.join(POLICIES)}"
    )
    parser.add_argument(
        "--quota", metavar="SIZE", help="for the policy quota: what the pages may take, as in 512M"
    )
    parser.add_argument(
        "--evict",
        metavar="PAGES",
        nargs="?",
        type=pages,
        const=ALL,
        help="ask the guest to take so many pages back into its memory (all)",
    )
    vms.add_vm(parser)


def pages(text: str) -> int:
    """Return a number of pages for argparse, 1 and more."""
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else 0
    if number < 1:
        raise argparse.ArgumentTypeError(
            f"{text[:40]!r} is no number of pages; a VM's NAME comes before --evict"
        )
    return number


def rows(said: dict[str, Any]) -> list[list[str]]:
    """Return the lines of the table of faults."""
    found = []
    for fault in swapfaults.faults(said):
        name = fault.word if fault.word in swapfaults.TOTALS else f"  refused: {fault.word}"
        counts = ("-" if count is None else str(count) for count in (fault.guest, fault.vmm))
        found.append([name, *counts])
    return found


def mode_line(said: dict[str, Any]) -> str:
    """Return the wanted mode, and the one that the guest is told if that is another."""
    if said["mode"] == said["effective"]:
        return str(said["mode"])
    return f"{said['mode']} is wanted, the guest is told {said['effective']}"


def policy_line(said: dict[str, Any]) -> str:
    """Return the policy, its quota, and what it says now."""
    quota = f" of {human.amount(said['quota'])}" if said["policy"] == "quota" else ""
    return f"{said['policy']}{quota}; it says {'yes' if said['allowed'] else 'no'} now"


def host_line(host: dict[str, Any]) -> str:
    """Return the host's memory as the policy sees it."""
    parts = []
    if host["available"] is not None:
        parts.append(
            f"{human.amount(host['available'])} of {human.amount(host['total'])} available"
        )
    if host["room"] is not None:
        parts.append(
            f"{human.amount(host['room'])} of {human.amount(host['limit'])} left to its group"
        )
    if host["stall"] is not None:
        parts.append(f"{host['stall']:.1f} % of the time waiting for memory")
    return ", ".join(parts) or "says nothing of its memory"


def guest_lines(said: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the lines of the guest's side."""
    guest = said["guest"]
    if guest is None:
        why = "cannot be asked now" if said["attached"] else "has not taken the aperture"
        return [("guest", why)]
    if guest["tier"]:
        return tier_lines(guest)
    flags = [
        "uses the aperture" if guest["mapped"] else "has not mapped the aperture",
        "swaps to the disk" if guest["on"] else "does not swap to the disk",
        *(["is handing pages back"] if guest["evicting"] else []),
    ]
    return [
        ("guest", ", ".join(flags)),
        ("slots", f"{guest['used']} of {guest['slots']} used"),
        ("adopted", f"{guest['adopted']} pages now, {guest['adopted_total']} so far"),
        (
            "given up",
            f"{guest['freed']} pages freed, {guest['evicted']} handed back, {guest['evict_failed']} could not be",
        ),
        (
            "copied",
            f"{guest['pages_out']} pages out, {guest['pages_in']} in, {guest['zero_filled']} were zero",
        ),
    ]


def tier_lines(guest: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the same for a guest that moves pages to the store."""
    back = ["is handing pages back"] if guest["evicting"] else []
    return [
        ("guest", ", ".join(["moves pages to the store, and has no disk meanwhile", *back])),
        ("slots", f"{guest['used']} of {guest['slots']} used"),
        (
            "moved",
            f"{guest['adopted_total']} pages so far: {guest['moved_ahead']} while memory was short, "
            f"{guest['moved_behind']} behind swap-ins; {guest['move_failed']} could not be",
        ),
        (
            "given up",
            f"{guest['freed']} pages freed, {guest['evicted']} handed back, {guest['evict_failed']} could not be",
        ),
        ("returned", f"{guest['discarded']} slots to the host"),
        (
            "followed",
            f"{guest['offered']} swap-ins seen, {guest['follow_missed']} not noted; "
            f"{guest['mover_ns'] / 1e9:.2f} s spent on moving",
        ),
    ]


def lines(said: dict[str, Any]) -> list[tuple[str, str]]:
    """Return (name, text) of everything but the faults."""
    where = human.printable(said["backing"] or "host memory")
    return [
        ("disk", f"{human.printable(said['serial'])}, {human.amount(said['size'])} in {where}"),
        ("mode", mode_line(said)),
        ("policy", policy_line(said)),
        *([("host", host_line(said["host"]))] if said["host"] else []),
        ("store", f"{human.amount(said['bytes_used'])} of {human.amount(said['size'])} used"),
        (
            "queue",
            f"{human.amount(said['bytes_out'])} written by the guest, {human.amount(said['bytes_in'])} read",
        ),
        *guest_lines(said),
        ("symcalls", f"{said['symcalls']} made"),
    ]


def text(said: dict[str, Any]) -> str:
    """Write it for people."""
    head = "\n".join(f"{name:9} {value}" for name, value in lines(said))
    return f"{head}\n\n{human.table(HEAD, rows(said))}"


def main(args: argparse.Namespace) -> int:
    """Set what is asked for, then print how it is."""
    from pyvmm.quantity import parse_size

    quota = None if args.quota is None else parse_size(args.quota, "--quota")

    def question(client: Client) -> int:
        if args.mode or args.policy or quota is not None:
            client.call("swap-set", mode=args.mode, policy=args.policy, quota=quota)
        if args.evict is not None:
            client.call("swap-evict", pages=args.evict or None)
        said = client.call("swap-stats")
        said["symcalls"] = client.call("info")["symcalls"].get("calls", 0)
        return vms.say(said, as_json=args.json, text="" if args.json else text(said))

    return vms.ask(args.vm, question)
