# SPDX-License-Identifier: Apache-2.0
"""Fuzzes the engine and the parsers: `python -m tests.fuzz [TARGET...] [--seconds N]`.

Each target searches for so long, from the inputs of tests/fuzz/corpus.py on. What it finds is a file; with
`TARGET --input FILE` that one is run again. `--pack` makes a small set of all inputs the repository's seeds.
The status is 0 only if no target found anything.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pyvmm.launch.parser import Parser
from tests.fuzz import compile as compiling
from tests.fuzz import corpus
from tests.fuzz.targets import TARGETS
from tests.support.tree import ROOT

if TYPE_CHECKING:
    from tests.fuzz.targets import Target

#: Seconds for one input, after which it counts as a hang. No input asks for more than milliseconds of work.
HANG = 20
MEMORY = 2048  # MiB
#: Memory that was freed is kept from use for a while, to find who still uses it; the default of 256 MiB is slow.
SANITIZERS = {
    "ASAN_OPTIONS": "quarantine_size_mb=16:detect_leaks=1:symbolize=1",
    "UBSAN_OPTIONS": "print_stacktrace=1",
}


#: Lines of libFuzzer's that tell of the search.
PROGRESS = re.compile(r"#\d+\s+(NEW|REDUCE|pulse|RELOAD|INITED)|INFO: |\s*NEW_FUNC")


class Outcome(NamedTuple):
    """Of a search. `edges` of the code under test were taken, of `all_edges`, most of which are the
    sanitizers' own; `finding` is a file, or ""."""

    target: str
    seconds: float
    executions: int
    edges: int
    all_edges: int
    inputs: int
    finding: str
    status: int

    def __str__(self) -> str:
        rate = self.executions / max(self.seconds, 1)
        said = (
            "no finding"
            if self.status == 0
            else f"FOUND: {self.finding or f'status {self.status}'}"
        )
        return (
            f"{self.target:9} {self.executions:>13,} executions {rate:>9,.0f}/s"
            f"  {self.edges:>5} edges  {self.inputs:>5} inputs  {said}"
        )


def command(target: Target) -> list[str]:
    """What runs the target, to which options of libFuzzer and folders of inputs are added."""
    if target.is_c:
        return [str(compiling.program(target))]
    return [sys.executable, "-m", f"tests.fuzz.{target.name}_target"]


def folders_of(target: Target) -> list[Path]:
    """Where its inputs are; a search adds to the first."""
    return [corpus.gathered(target.name), corpus.seeds(target.name), corpus.found(target.name)]


def search(target: Target, seconds: int) -> Outcome:
    """Searches for so long, or to the first finding. The output goes to a file beside the target's program."""
    out = compiling.OUT / target.name
    out.mkdir(parents=True, exist_ok=True)
    folders = folders_of(target)
    options = [
        f"-max_total_time={seconds}", f"-max_len={target.max_length}", f"-timeout={HANG}",
        f"-rss_limit_mb={MEMORY}", f"-artifact_prefix={out}/", "-print_final_stats=1",
        "-report_slow_units=5", "-reload=0", "-verbosity=1",
    ]  # fmt: skip
    start = time.monotonic()
    with (out / "log").open("wb") as log:
        done = subprocess.run(
            [*command(target), *options, *(str(each) for each in folders if each.exists())],
            cwd=ROOT, env=os.environ | SANITIZERS, stdin=subprocess.DEVNULL, stdout=log,
            stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
    text = (out / "log").read_text(errors="replace")
    outcome = read(target.name, text, time.monotonic() - start, done.returncode)
    print(outcome, flush=True)
    if outcome.status:
        tell(outcome, text)
    return outcome


def read(name: str, text: str, seconds: float, status: int) -> Outcome:
    """What libFuzzer's output says."""
    executions = re.findall(
        r"stat::number_of_executed_units:\s*(\d+)|^#(\d+)\s", text, re.MULTILINE
    )
    edges = re.findall(r" cov: (\d+)", text)
    inputs = re.findall(r" corp: (\d+)", text)
    known = re.findall(r"\((\d+) inline 8-bit counters\)", text)
    named = re.findall(r"Test unit written to (\S+)", text)
    return Outcome(
        name,
        seconds,
        max((int(number) for pair in executions for number in pair if number), default=0),
        int(edges[-1]) if edges else 0,
        sum(map(int, known)),
        int(inputs[-1]) if inputs else 0,
        named[-1] if named else "",
        status,
    )


def tell(outcome: Outcome, text: str) -> None:
    """Shows a finding, and how to have it again."""
    lines = [line for line in text.splitlines() if not PROGRESS.match(line)]
    print("\n".join(lines[-80:]))
    if outcome.finding:
        print(f"again: python -m tests.fuzz {outcome.target} --input {outcome.finding}", flush=True)


def run_input(target: Target, path: str) -> int:
    """Runs one input, or those of a folder, with what the sanitizers say; the status."""
    inputs = sorted(str(each) for each in Path(path).iterdir()) if os.path.isdir(path) else [path]
    environment = os.environ | SANITIZERS
    return subprocess.run([*command(target), *inputs], env=environment, check=False).returncode


def pack(target: Target) -> None:
    """Makes the smallest set that reaches what all inputs reach the repository's seeds.

    Under atheris libFuzzer cannot make it: there it is all of them.
    """
    sources = [corpus.gathered(target.name), corpus.seeds(target.name)]
    folder = compiling.OUT / target.name / "small"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if target.is_c:
        options = ["-merge=1", f"-max_len={target.max_length}", str(folder), *map(str, sources)]
        merge = [*command(target), *options]
        subprocess.run(
            merge, cwd=ROOT, env=os.environ | SANITIZERS, check=True, capture_output=True
        )
    else:
        for path in (path for source in sources for path in source.iterdir()):
            shutil.copy(path, folder)
    size = corpus.pack(target.name, folder)
    print(f"{target.name:9} {len(list(folder.iterdir()))} inputs, {size:,} bytes packed")


def arguments() -> argparse.Namespace:
    lines = (__doc__ or "").splitlines()
    parser = Parser(
        prog="python -m tests.fuzz",
        description=lines[0],
        epilog="\n".join(f"{each.name:9} {each.what}" for each in TARGETS.values()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="all of them by default")
    parser.add_argument("--seconds", type=int, default=60, help="of each target (60)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="targets at a time")
    parser.add_argument(
        "--input", metavar="FILE", help="run this input, or those of a folder, once"
    )
    parser.add_argument("--pack", action="store_true", help="renew the repository's seeds")
    parser.add_argument("--lines", action="store_true", help="which lines all inputs reach, of C")
    parser.add_argument("--json", metavar="FILE", help="the outcomes, as a list")
    options = parser.parse_args()
    unknown = set(options.targets) - set(TARGETS)
    if unknown:
        parser.error(f"no target {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    if options.input and (len(options.targets) != 1 or not os.path.exists(options.input)):
        parser.error("--input takes a file that is there, and one TARGET before it")
    return options


def main() -> int:
    options = arguments()
    chosen = [TARGETS[name] for name in options.targets] or list(TARGETS.values())
    if options.input:
        return run_input(chosen[0], options.input)
    if options.lines:
        for target in filter(lambda each: each.is_c, chosen):
            print(f"{target.name}:\n{compiling.lines_reached(target, folders_of(target))}")
        return 0
    if options.pack:
        for target in chosen:
            pack(target)
        return 0
    with ThreadPoolExecutor(options.jobs) as pool:
        outcomes = list(pool.map(lambda target: search(target, options.seconds), chosen))
    if options.json:
        Path(options.json).write_text(
            json.dumps([each._asdict() for each in outcomes], indent=1) + "\n"
        )
    total = sum(each.executions for each in outcomes)
    found = sum(each.status != 0 for each in outcomes)
    print(f"{total:,} executions of {len(outcomes)} targets, {found} with a finding")
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main())
