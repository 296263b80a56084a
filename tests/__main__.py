# SPDX-License-Identifier: Apache-2.0
"""The whole test suite, in its stages: `python -m tests [--rest] [STAGE...] [-- pytest options]`.

unit    parsers, tables, queues
bare    bare-metal guests on this machine's /dev/kvm, whatever kind that is
fuzz    the fuzz targets, half a minute each (tests/fuzz)
qemu    the guest's kernels, patches and init without pyvmm: QEMU alone boots them
lab     the lab itself, seen from outside
vmx     some of bare and linux on VT-x: here if this KVM is kvm_intel, else inside the lab that emulates it
linux   Linux guests: here if this KVM boots Linux, else inside the lab

Without --rest: what each change must pass, chosen to take 40 minutes on two CPUs with every kernel still to be built.
With it: the rest, on another machine: the tests of other guest kernels, of VT-x without EPT, and what is marked so.

A stage that cannot run fails; none is skipped. The exit status is 0 only if every stage passed. Where PYVMM_ARTEFACTS
names a folder, the report of each failed test and the lab's console are kept there.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from functools import cache
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from tests.fuzz.targets import TARGETS
from tests.runner import needs
from tests.runner.process import End, Process, at_a_time, end_all, streamed
from tests.support.tree import ROOT

if TYPE_CHECKING:
    from collections.abc import Sequence

STAGES = ("unit", "bare", "fuzz", "qemu", "lab", "vmx", "linux")
STAGES_OF_REST = ("bare", "qemu", "lab", "vmx", "linux")
#: Those that boot no kernel.
WITHOUT_GUESTS = ("unit", "bare", "fuzz")
#: Of each fuzz target.
FUZZ_SECONDS = int(os.environ.get("PYVMM_FUZZ_SECONDS", "30"))
LAB_SECONDS = 40 * 60
NO_TESTS = 5  # pytest's status where the options leave none of a file
LAB_CPUS = 2
#: Each touches 1 to 2 GiB of memory.
MAX_LABS = 4
#: The files that take longest, which begin first.
LONG = (
    "test_symcall_integrity",
    "test_symcall_steady",
    "test_guest_init",
    "test_lab_vmx_ends",
    "test_lab",
    "test_linux",
    "test_symcall_linux",
    "test_swapbypass",
    "test_control_socket",
    "test_symcall_bare",
    "test_swap_cli",
    "test_symbiotic_guest",
    "test_symbiotic_module",
    "test_workloads",
    "test_sweep",
)
#: In labs: hypothesis, which no test there uses, takes a part of their start.
LAB_PYTEST = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest")
#: The mark of tests that are only of the rest.
REST = "rest"
#: Piles of files for each lab that runs at a time: its start, and that of pytest there, take 20 s.
PILES = 2
#: The mark of tests that run once more where KVM shadows page tables.
SHADOW = "shadow"


class Job(NamedTuple):
    """Files of a stage, and what chooses their tests; with `shadow` for a lab without nested paging."""

    stage: str
    files: tuple[str, ...]
    words: tuple[str, ...] = ()
    shadow: bool = False

    def __str__(self) -> str:
        return f"{self.stage}/{named(self.files)}{', shadow paging' * self.shadow}"

    @property
    def arguments(self) -> list[str]:
        """For pytest."""
        return [*(f"tests/{self.stage}/{name}.py" for name in self.files), *self.words]


class Part(NamedTuple):
    """What a stage comes to: so many processes at a time, or 0: its one process here, with nothing else beside it."""

    stage: str
    count: int
    processes: list[Process]


class Choice(NamedTuple):
    """Which tests of a stage: those of every change or the rest, and what pytest's options leave of them."""

    rest: bool = False
    options: tuple[str, ...] = ()

    @property
    def words(self) -> tuple[str, ...]:
        """For pytest."""
        return ("-m", REST if self.rest else f"not {REST}", *self.options)


def named(files: Sequence[str]) -> str:
    """What to call a pile of files."""
    return files[0] + f" and {len(files) - 1} more" * (len(files) > 1)


def pytest_command(arguments: Sequence[str], words: Sequence[str] = ()) -> list[str]:
    return [sys.executable, "-m", "pytest", *arguments, *words]


def part_of(stage: str, choice: Choice) -> Part:
    """What a stage comes to on this machine."""
    if stage == "fuzz":
        return Part(stage, number_of(1), searches())
    if stage == "linux":
        here = linux_boots()
    elif stage == "vmx":
        here = os.path.exists("/sys/module/kvm_intel")
    else:
        return Part(stage, number_of(1), in_processes(stage, choice))
    if here:
        return Part(stage, 0, [Process(stage, pytest_command([f"tests/{stage}"], choice.words))])
    return Part(stage, labs_at_a_time(), in_labs(stage, choice))


def linux_boots() -> bool:
    """Whether this machine's own KVM boots Linux; says what kind it is."""
    from pyvmm.probe import probe

    found = probe()
    print(f"tests: {found.verdict}", flush=True)
    return found.boots_linux


def searches() -> list[Process]:
    """Of the fuzz targets one each."""
    command = [sys.executable, "-m", "tests.fuzz", "--seconds", str(FUZZ_SECONDS)]
    return [Process(f"fuzz/{name}", [*command, name]) for name in TARGETS]


def in_processes(stage: str, choice: Choice) -> list[Process]:
    """Of unit tests a pile for each process, of others each file."""
    names = file_names(stage, choice.words)
    piles = in_piles(names, number_of(1) if stage == "unit" else len(names))
    jobs = [Job(stage, pile, choice.words) for pile in piles]
    return [Process(str(job), pytest_command(job.arguments)) for job in jobs]


def in_piles(names: Sequence[str], count: int) -> list[tuple[str, ...]]:
    """Deals files out, so many piles or less."""
    return [tuple(names[first::count]) for first in range(min(count, len(names)))]


@cache
def file_names(stage: str, words: tuple[str, ...]) -> list[str]:
    """The files with tests of that choice, those that take long first.

    Pytest finds them, and compiles them for labs, where an emulated CPU takes 20 times as long. A file that it could
    not read is one of them, so that it fails in its turn.
    """
    command = pytest_command([f"tests/{stage}"], ("--collect-only", "-q", *words))
    listed = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    names = set(
        re.findall(rf"^(?:ERROR )?tests/{stage}/([\w/]+)\.py\b", listed.stdout, re.MULTILINE)
    )
    return sorted(names, key=lambda name: (rank(name), name))


def rank(name: str) -> int:
    """The place of a file among those that take long."""
    base = name.rpartition("/")[2]
    return LONG.index(base) if base in LONG else len(LONG)


def run(parts: Sequence[Part]) -> list[tuple[Part, list[End]]]:
    """Runs stages in order, those with as many processes at a time as one queue: no CPU idles at the end of each."""
    ends: list[tuple[Part, list[End]]] = []
    for count, equals in groupby(parts, key=lambda part: part.count):
        group = list(equals)
        print(f"\n==== {', '.join(part.stage for part in group)} ====", flush=True)
        processes = [process for part in group for process in part.processes]
        done = iter(at_a_time(count, processes) if count else map(streamed, processes))
        ends += [(part, [next(done) for _ in part.processes]) for part in group]
    return ends


def in_labs(stage: str, choice: Choice) -> list[Process]:
    """The files of a stage in labs."""
    command = vmx_command if stage == "vmx" else lab_command
    return [Process(str(job), command(job)) for job in jobs(stage, choice)]


def jobs(stage: str, choice: Choice) -> list[Job]:
    """What runs in a lab each. What is about VT-x without EPT is of the rest."""
    shadow = (*choice.words, "-m", SHADOW)
    names = file_names(stage, choice.words)
    if stage == "linux":
        return [
            Job(stage, pile, choice.words) for pile in in_piles(names, PILES * labs_at_a_time())
        ]
    found = [Job(stage, (name,), choice.words) for name in names]
    if choice.rest:
        found += [Job(stage, (name,), shadow, shadow=True) for name in file_names(stage, shadow)]
    return found


def worst(codes: Sequence[int]) -> int:
    """The status of a stage, 0 only if that of each of its processes is; below 0 is a signal's."""
    return next((code for code in codes if code), 0) if codes else NO_TESTS


def labs_at_a_time() -> int:
    """A lab takes one CPU of this machine, or as many as it has itself (docs/lab.md)."""
    from pyvmm.lab import emulator

    each = 1 if emulator.find().one_thread else LAB_CPUS
    return number_of(each)


def number_of(cpus: int) -> int:
    """Processes at a time, each of which keeps so many CPUs busy."""
    return max(1, min(MAX_LABS, (os.cpu_count() or 1) // cpus))


def lab_command(job: Job) -> list[str]:
    keep = os.environ.get("PYVMM_ARTEFACTS")
    log = os.path.join(keep, f"{job.files[0]}-console.log") if keep else ""
    kept = ["--share", keep, "--env", "PYVMM_ARTEFACTS", "--log", log] if keep else []
    lab = [sys.executable, "-m", "pyvmm", "lab", "--cpus", str(LAB_CPUS), "--memory", "8G"]
    test = pytest_command(LAB_PYTEST, job.arguments)
    return [*lab, "--timeout", str(LAB_SECONDS), *kept, "--", *test]


def vmx_command(job: Job) -> list[str]:
    """The same in the lab with VT-x, which brings no files back: the console's log is all that can be kept."""
    keep = os.environ.get("PYVMM_ARTEFACTS")
    name = f"vmx-{job.files[0]}{'-shadow' * job.shadow}-console.log"
    log = os.path.join(keep, name) if keep else ""
    lab = [sys.executable, "-m", "pyvmm", "lab", "--arch", "vmx", "--timeout", str(LAB_SECONDS)]
    lab += ["--no-npt"] if job.shadow else []
    lab += ["--log", log] if keep else []
    # To rewrite assertions is a minute's work there; modules as they are have been compiled here.
    test = pytest_command([*LAB_PYTEST, "--assert=plain"], job.arguments)
    return [*lab, "--env", "PYVMM_ARTEFACTS=", "--", *test]


def main() -> int:
    words = sys.argv[1:]
    at = words.index("--") if "--" in words else len(words)
    words, options = words[:at], words[at + 1 :]
    rest = "--rest" in words
    stages = [word for word in words if word != "--rest"] or (STAGES_OF_REST if rest else STAGES)
    unknown = set(stages) - set(STAGES)
    if unknown:
        print(f"no stage {', '.join(sorted(unknown))}; there are {', '.join(STAGES)}")
        return 2
    os.chdir(ROOT)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, end_all)
    return run_stages(stages, Choice(rest, tuple(options)))


def run_stages(chosen: Sequence[str], choice: Choice) -> int:
    """Runs them, and says what each came to; 0 if all passed."""
    late = [stage for stage in chosen if stage not in WITHOUT_GUESTS]
    early = [part_of(stage, choice) for stage in chosen if stage not in late]
    ended = run([*needs_of(late, choice.rest), *early])
    if late and worst([end.code for end in ended[0][1]]) == 0:
        # Labs first: what is short fills the gaps at the end.
        ended += reversed(run([part_of(stage, choice) for stage in reversed(late)]))
    elif late:
        print("tests: what the other stages need could not be made, as said above")
    codes = [tell(part, ends) for part, ends in ended]
    return int(any(codes))


def needs_of(stages: Sequence[str], rest: bool) -> list[Part]:
    """What is built for them, beside the tests that need none of it."""
    if not stages:
        return []
    return [Part("needs", number_of(1), needs.builds(set(stages), rest=rest))]


def tell(part: Part, ends: Sequence[End]) -> int:
    """Says what a stage came to; its status."""
    code = worst([end.code for end in ends])
    said = "ok" if code == 0 else f"FAILED ({code})"
    print(f"{part.stage:6} {said}  {sum(end.seconds for end in ends):.0f} s of work")
    return code


if __name__ == "__main__":
    sys.exit(main())
