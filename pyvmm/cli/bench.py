# SPDX-License-Identifier: Apache-2.0
"""`pyvmm bench`: measures pyvmm against its peers, here or in the lab, and makes one report of it."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyvmm.errors import ConfigError
from pyvmm.launch.number import Duration, Whole

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence
    from typing import BinaryIO

ALL = "all"
#: A suite did not end well, or a figure got worse.
FAILED = 1
LAB_MEMORY = "8G"
#: Options that all cells of a sweep have in common.
COMMON = ("quick", "rounds", "budget", "linux", "lab", "icount")


def add_parser(sub: argparse._SubParsersAction[Any]) -> None:
    """Adds the subcommand's options."""
    parser = sub.add_parser(
        "bench",
        help="measure pyvmm against its peers, and make one report of it",
        description="Runs suites of benchmarks, those that boot Linux in the lab where this machine's KVM cannot, and "
        "writes all samples as JSON, a page with tables and pictures (report.html) and a summary in Markdown. "
        "Without SUITE it says which there are.",
    )
    add = parser.add_argument
    add("suites", metavar="SUITE", nargs="*", help="one or more, or all")
    add("--out", metavar="FOLDER", help="where to (bench/out/DATE)")
    add("--quick", action="store_true", help="few rounds, little work in each")
    add(
        "--rounds",
        type=Whole("number of rounds"),
        metavar="N",
        help="at most so many; each suite has its own idea",
    )
    add(
        "--budget",
        type=Duration("minutes", 1e6),
        metavar="MINUTES",
        help="of each suite: no new round after so long",
    )
    add("--linux", default="6.12", help="which guest (%(default)s)")
    add("--lab", action="store_true", help="everything in the lab")
    add("--icount", action="store_true", help="the same, with time counted in instructions")
    add(
        "--sweep",
        metavar="OPTION=V1,V2",
        action="append",
        default=[],
        help="run each suite with each value of an option of its own; repeat for more options",
    )
    add(
        "--repeat",
        type=Whole("number of runs"),
        default=1,
        metavar="N",
        help="run each so often, and pool the ratios",
    )
    add("--scheduler", metavar="ADDRESS", help="spread the runs over the workers of a Dask cluster")
    add(
        "--cell-timeout",
        type=Duration(),
        default=7200.0,
        metavar="S",
        help="give up a run of a sweep after S seconds (%(default)g)",
    )
    add("--compare", metavar="OLD", help="an earlier FOLDER; the status is 1 if a figure got worse")
    add("--report", metavar="FOLDER", help="measure nothing: make the report of this one again")


def main(args: argparse.Namespace) -> int:
    """Measures, reports, and returns 1 if a suite failed or a figure got worse."""
    old = Path(args.compare).absolute() if args.compare else None
    again = Path(args.report).absolute() if args.report else None
    out = Path(args.out).absolute() if args.out else None
    if old and out and old.resolve() == out.resolve():
        raise ConfigError(f"--out {args.out}: --compare reads the same folder; nothing was changed")
    if again and args.suites:
        raise ConfigError("--report measures nothing; leave SUITE away, or --report")
    enter_source_tree()
    if again:
        return report(again, old)
    suites = importlib.import_module("bench.suites").SUITES
    if not args.suites:
        print("\n".join(f"{name:10} {suite.text}" for name, suite in suites.items()))
        return 0
    names = chosen(args.suites, list(suites))
    folder = out or Path(time.strftime("bench/out/%Y-%m-%d-%H%M%S")).absolute()
    if args.sweep or args.repeat != 1 or args.scheduler:
        return sweep(args, names, folder, old)
    folder.mkdir(parents=True, exist_ok=True)
    failed = measure(args, {name: suites[name].linux for name in names}, folder)
    worse = report(folder, old) if len(failed) < len(names) else FAILED
    for name in failed:
        print(f"bench: {name} failed; what it said is in {folder / name}.txt", file=sys.stderr)
    return FAILED if failed else worse


def sweep(args: argparse.Namespace, names: Sequence[str], folder: Path, old: Path | None) -> int:
    """Measures each cell of a sweep, here or on a cluster, and reports those that ended well."""
    matrix, sweeps = (
        importlib.import_module(f"bench.sweep.{name}") for name in ("matrix", "sweep")
    )
    cells = matrix.cells(names, matrix.axes(args.sweep), args.repeat)
    common = {name: getattr(args, name) for name in COMMON}
    folder.mkdir(parents=True, exist_ok=True)
    failed = sweeps.run(
        sweeps.Sweep(cells, common, folder, args.cell_timeout, args.scheduler or "")
    )
    worse = report(folder, old) if len(failed) < len(cells) else FAILED
    for name, reason in failed.items():
        print(f"bench: {name} {reason}", file=sys.stderr)
    return FAILED if failed else worse


def enter_source_tree() -> None:
    """Benchmarks are no part of what is installed. Raises ConfigError where they are not beside the package."""
    import pyvmm

    root = Path(pyvmm.__file__).resolve().parents[1]
    if not (root / "bench" / "suites").exists():
        raise ConfigError(
            "the benchmarks are in pyvmm's source tree: get it, and run `make bench` in it"
        )
    os.chdir(root)
    sys.path.insert(0, str(root))


def chosen(given: Sequence[str], known: list[str]) -> list[str]:
    """The suites that are meant, in their own order. Raises ConfigError for what is none."""
    unknown = set(given) - {*known, ALL}
    if unknown:
        raise ConfigError(f"no suite {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    return [name for name in known if ALL in given or name in given]


def measure(args: argparse.Namespace, linux: dict[str, bool], folder: Path) -> list[str]:
    """Runs suites, of which `linux` says whether they boot it; those that failed."""
    from pyvmm.demo.prepare import ensure_guest
    from pyvmm.probe import probe

    found = probe()
    inside = {
        name: args.lab
        or args.icount
        or not (found.boots_linux if boots else found.usable and not found.missing)
        for name, boots in linux.items()
    }
    if "PYVMM_LAB" in os.environ:
        inside = dict.fromkeys(inside, False)
    if any(linux.values()):
        ensure_guest(args.linux)  # outside the lab, where what it builds stays
    for name in linux:
        suite = importlib.import_module(f"bench.suites.{name}")
        getattr(suite, "prepare", lambda: None)()
    failed = [name for name in linux if not inside[name] and not here(args, name, folder)]
    if any(inside.values()):
        print(f"bench: {found.verdict}" * (not args.lab), file=sys.stderr)
        failed += in_the_lab(args, [name for name in linux if inside[name]], folder)
    return failed


def command(args: argparse.Namespace, name: str, folder: Path) -> list[str]:
    """The suite as a program of its own."""
    words = [sys.executable, "-m", "bench", name, "--json", str(folder / f"{name}.json")]
    words += ["--quick"] if args.quick else []
    words += ["--rounds", str(args.rounds)] if args.rounds else []
    words += ["--budget", str(args.budget)] if args.budget is not None else []
    if importlib.import_module("bench.suites").SUITES[name].linux:
        words += ["--linux", args.linux]
    return words + getattr(args, "words", [])


class Tee:
    """Output that is shown and kept."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, data: bytes) -> None:
        """Both at once."""
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        self._file.write(data)


def ended_well(name: str, where: str, folder: Path, run: Callable[[Tee], int]) -> bool:
    """Runs a suite, whose output is shown and kept in the folder."""
    print(f"\n== {name}, {where}", flush=True)
    with (folder / f"{name}.txt").open("wb") as file:
        return run(Tee(file)) == 0


def here(args: argparse.Namespace, name: str, folder: Path) -> bool:
    """Whether a suite ended well on this machine's KVM."""

    def run(tee: Tee) -> int:
        words = command(args, name, folder)
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert process.stdout is not None
        with process.stdout:
            while data := os.read(process.stdout.fileno(), 65536):
                tee.write(data)
        return process.wait()

    return ended_well(name, "on this machine's KVM", folder, run)


def in_the_lab(args: argparse.Namespace, names: Sequence[str], folder: Path) -> list[str]:
    """Runs suites in one lab; those that failed."""
    from pyvmm.lab import Lab

    with Lab(memory=LAB_MEMORY, icount=args.icount, share=[str(folder)]) as machine:

        def ran(name: str) -> bool:
            words = command(args, name, folder)
            none = subprocess.DEVNULL
            return ended_well(
                name,
                "in the lab",
                folder,
                lambda tee: machine.run(words, stdin=none, stdout=tee, stderr=tee),
            )

        return [name for name in names if not ran(name)]


def report(folder: Path, old: Path | None) -> int:
    """Makes the page, compares with an earlier run; 1 if a figure got worse."""
    page = importlib.import_module("bench.report.page").write(folder)
    print(f"\n{page}")
    if old is None:
        return 0
    return FAILED if got_worse(folder, old) else 0


def got_worse(folder: Path, old: Path) -> bool:
    """Compares each record that both folders have. Raises ConfigError if there is none."""
    compare, record = (
        importlib.import_module(f"bench.report.{name}") for name in ("compare", "record")
    )
    pairs = [
        (path, folder / path.name)
        for path in sorted(old.glob("*.json"))
        if (folder / path.name).exists()
    ]
    if not pairs:
        raise ConfigError(f"{old} has no record of a suite that {folder} has")
    worse = False
    for before, after in pairs:
        print(f"\n== {after.stem}, against {before}")
        made = compare.compare(record.load(before), record.load(after))
        worse |= compare.got_worse(made)
    return worse
