# SPDX-License-Identifier: Apache-2.0
"""Memory used in every way at once, two to four times the RAM, while it is swapped and bypassed;
for minutes or hours: `python -m tests.torture`.

A guest after the other, each with another seed, another share of memory and another mode, until the
time is over; in half of them the mode is switched every second, in half pages are asked back every
second. With --squeeze the host is short of memory every few seconds. Ends at the first guest that
is not well, with what it and its kernel said; with --all at the end of the time, so that a rate can
be told. --linux stock-6.12-symbiotic and others use the disk's memory as a tier; there the guest
driver is unloaded at the end, for which all pages have to come back. --mode takes the mode from the
lot, and the rest of a guest's lot stays: `--mode stock`, an ordinary disk, is the control that says
whether Linux does by itself what was seen under the bypass.
--only takes the scenarios from the lot.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.report.record import environment, revision
from pyvmm.errors import Error, SymcallError
from pyvmm.guest.cache import DEFAULT_LINUX, SYMBIOTIC
from pyvmm.guest.cache import STOCK as STOCK_GUESTS
from pyvmm.launch import status
from pyvmm.launch.parser import Parser
from tests.support.kernel_log import faults
from tests.support.squeeze import Squeeze
from tests.support.swapguest import STOCK, SwapGuest

if TYPE_CHECKING:
    from pyvmm.swap.disk import Swap

SCHEMA = 3
MODES = ("direct", "symcall", "off")
#: Takes the swap disk from the others, so that they swap elsewhere: not in every guest.
RARE = "swapoff"
#: Pages of a worker must be enough for the scenario that needs most, in MiB.
LEAST_OF_A_WORKER = 5
SCRIPT = """
start_refuge
torture -r {seed} -m {work} -t {seconds} -d $other -s $swap {scenarios}; echo STATUS=$?; used; echo WORKED
read go; {off}; echo OFF=$?; echo CLEAN; read go
"""
#: What empties the disk.
OFF, UNLOAD = "swapoff $swap", "rmmod symbiotic"
#: MiB of a guest's memory that its kernel takes: the project's, and Debian's.
OWN, DEBIANS = 32, 80
SCENARIOS = (
    "random", "race", "drop", "fork", "advise", "remap", "protect", "lock", "map", "peek", "direct", "uring", "splice",
    "pipe", "zerocopy", "faultfd", "merge", "huge", "collapse", "move", "group", "oom", "exec", "exit", "swapoff",
    "shmem", "dump", "stir",
)  # fmt: skip


class Round(NamedTuple):
    """One guest's lot."""

    seed: int
    ram: int
    work: int
    seconds: int
    switching: bool
    evicting: bool
    mode: str
    scenarios: tuple[str, ...]


class Outcome(NamedTuple):
    """The outcome: nothing in `wrong` is well."""

    round: Round
    wrong: list[str]
    text: str
    counted: dict[str, Any]


def draw(chance: random.Random, args: argparse.Namespace) -> Round:
    """Return a round by lot: as many scenarios as the memory has room for."""
    work = round(args.ram * chance.uniform(1, 2)) * 2  # in MiB; a swap disk is a multiple of 2
    eligible = [name for name in SCENARIOS if name != RARE or chance.random() < 0.25]
    if args.linux.endswith(SYMBIOTIC):
        eligible = [name for name in eligible if name != RARE]
    eligible = [name for name in eligible if name not in args.without]
    eligible = args.only or eligible
    count = min(len(eligible), work // LEAST_OF_A_WORKER)
    one = Round(
        seed=chance.randrange(1, 1 << 32),
        ram=args.ram,
        work=work,
        seconds=args.seconds,
        switching=chance.random() < 0.5,
        evicting=chance.random() < 0.5,
        mode=chance.choice(MODES[:2]),
        scenarios=tuple(chance.sample(eligible, count)),
    )
    return one._replace(switching=False, mode=args.mode) if args.mode else one


def script(one: Round, off: str) -> str:
    return SCRIPT.format(
        seed=one.seed,
        work=one.work,
        seconds=one.seconds,
        scenarios=" ".join(one.scenarios),
        off=off,
    )


def is_tier(linux: str, mode: str) -> bool:
    """Whether the guest has the disk's memory as a tier, and not as a disk."""
    return linux.endswith(SYMBIOTIC) and mode in MODES[:2]


def work(guest: SwapGuest, one: Round, squeeze: Squeeze | None, patience: float) -> None:
    """Work until the program's end, with the mode changed every second if that was drawn."""
    chance = random.Random(one.seed)
    deadline = time.monotonic() + patience
    while b"WORKED" not in guest.data and guest.vm.wait(0) is None:
        if time.monotonic() > deadline:
            raise AssertionError(f"the guest did not end within {patience:.0f} s")
        guest.pump(1)
        if squeeze:
            squeeze.step()
        if one.switching and guest.vm.swap is not None:
            guest.vm.swap.mode = chance.choice(MODES)
        if one.evicting and guest.vm.swap is not None:
            ask_back(guest.vm.swap)


def ask_back(swap: Swap) -> None:
    """Ask for all pages, as a host does that is short of memory."""
    try:
        swap.evict()
    except SymcallError:
        pass  # it is at that already, or cannot be asked now


def counts(guest: SwapGuest) -> dict[str, Any]:
    """Return the counters of both sides."""
    if guest.vm.swap is None:
        return {}
    found: dict[str, Any] = guest.vm.swap.stats._asdict()
    for key in ("guest", "host"):
        found[key] = found[key]._asdict() if found[key] is not None else None
    return found


def wrong_with(text: str, log: bytes, mode: str, counted: dict[str, Any]) -> list[str]:
    """Return all that is not as it has to be. A tier is emptied after it was counted, and the
    guest's own shell may have pages there.
    """
    found = [line for line in text.splitlines() if line.startswith(("BAD", "CANNOT", "FAILED"))]
    found += [f"{what} is missing" for what in ("STATUS=0", "OFF=0", "CLEAN") if what not in text]
    found += faults(log, killed=True)
    said = counted.get("guest")
    if mode == STOCK:
        return found
    if said is None:
        found.append("the guest's kernel was not asked")
    elif not said["tier"] and (said["adopted"] or said["used"]):
        found.append(f"{said['adopted']} pages are adopted, {said['used']} slots used at the end")
    return found


def run(args: argparse.Namespace, one: Round, squeeze: Squeeze | None) -> Outcome:
    """Return one guest."""
    tier = is_tier(args.linux, one.mode)
    guest = SwapGuest(
        script(one, UNLOAD if tier else OFF),
        one.mode,
        swap_mib=one.work + 128,
        disk_mib=one.work,
        refuge_mib=one.work + 128,
        swap={"policy": "pressure" if squeeze else "always"},
        linux=args.linux,
        cpus=args.cpus,
        memory=f"{one.ram + (DEBIANS if args.linux.startswith(STOCK_GUESTS) else OWN)}M",
        card="zerocopy" in one.scenarios,
    )
    patience = one.seconds * 20 + 600
    counted: dict[str, Any] = {}
    wrong = []
    with guest:
        guest.start()
        try:
            work(guest, one, squeeze, patience)
            guest.expect("WORKED", patience)
            counted = counts(guest)
            guest.say("go")
            guest.expect("CLEAN", patience)
            counted = counted if tier else counts(guest)
            guest.say("go")
            guest.finish()
        except AssertionError as error:
            wrong.append(str(error))
        finally:
            if squeeze:
                squeeze.loosen()
        log = guest.vm.console_log()
    wrong += wrong_with(guest.text, log, one.mode, counted)
    return Outcome(one, wrong, guest.text + log.decode("utf-8", "replace") * bool(wrong), counted)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", metavar="FILE", help="the record (tests/out/torture.json)")
    parser.add_argument("--minutes", type=float, default=10, help="of all guests together (10)")
    parser.add_argument("--seconds", type=int, default=60, help="of work in one guest (60)")
    parser.add_argument("--linux", default=DEFAULT_LINUX)
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("--ram", type=int, default=96, metavar="MIB", help="that it can use (96)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--mode", choices=[*MODES, STOCK], help="of all guests, all the time (by lot)"
    )
    parser.add_argument(
        "--without", action="append", default=[], choices=SCENARIOS, help="this scenario; repeat"
    )
    parser.add_argument(
        "--only", action="append", default=[], choices=SCENARIOS, help="this scenario; repeat"
    )
    parser.add_argument("--all", action="store_true", help="go on after a guest that is not well")
    parser.add_argument(
        "--squeeze", action="store_true", help="the host's memory is short every few seconds"
    )


def main() -> int:
    parser = Parser(prog="python -m tests.torture", description=__doc__)
    add_options(parser)
    args = parser.parse_args()
    try:
        squeezed(args)
    except Error as error:
        print(f"torture: {error}", file=sys.stderr)
        return status.of_error(error)
    return 0


def squeezed(args: argparse.Namespace) -> None:
    with Squeeze(random.Random(args.seed)) if args.squeeze else nullcontext() as squeeze:
        torture(args, squeeze)


def torture(args: argparse.Namespace, squeeze: Squeeze | None) -> None:
    """Torture guest after guest."""
    chance = random.Random(args.seed)
    end = time.monotonic() + args.minutes * 60
    done: list[Outcome] = []
    while not done or (time.monotonic() < end and (args.all or not done[-1].wrong)):
        one = draw(chance, args)
        print(f"guest {len(done) + 1}: {one}", flush=True)
        done.append(run(args, one, squeeze))
        print(summary(done[-1]), flush=True)
    write(args, done, squeeze.spells if squeeze else 0)
    conclude([one for one in done if one.wrong], len(done))


def conclude(unwell: list[Outcome], count: int) -> None:
    """End with what was wrong, the last guest's in full."""
    if unwell:
        print(unwell[-1].text)
        said = [f"torture: {what}" for one in unwell for what in one.wrong]
        raise SystemExit(
            "\n".join([*said, f"torture: {len(unwell)} of {count} guests were not well"])
        )


def summary(outcome: Outcome) -> str:
    """Return a line for a guest that is over."""
    said = outcome.counted.get("guest") or {}
    names = ("adopted_total", "mapped_by_vmm", "refused_shared", "lost_races", "evicted")
    if said.get("tier"):
        names = ("moved_ahead", "moved_behind", "move_failed", "evicted", "evict_failed")
    counted = ", ".join(f"{name} {said.get(name, '?')}" for name in names)
    counted += f", asked for pages {outcome.counted.get('evictions', '?')} times"
    return f"  {'; '.join(['WRONG', *outcome.wrong]) if outcome.wrong else 'all pages right'}; {counted}"


def write(args: argparse.Namespace, done: list[Outcome], spells: int) -> None:
    target = Path(args.json or "tests/out/torture.json")
    target.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "suite": "torture", "schema": SCHEMA, "machine": environment(), "revision": revision(),
        "linux": args.linux, "cpus": args.cpus, "seed": args.seed, "spells": spells,
        "guests": [
            {"round": one.round._asdict(), "wrong": one.wrong, "counted": one.counted} for one in done
        ],
    }  # fmt: skip
    target.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
