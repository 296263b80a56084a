# SPDX-License-Identifier: Apache-2.0
"""The whole test suite, in its stages: `python -m tests [--rest] [STAGE...] [-- pytest options]`.

unit    parsers, tables, queues
bare    bare-metal guests on this machine's /dev/kvm, whatever kind that is
fuzz    the fuzz targets, half a minute each (tests/fuzz)
qemu    the guest's kernels, patches and init without pyvmm: QEMU alone boots them
lab     the lab itself, seen from outside
vmx     tests of bare and linux that name VT-x: here if this KVM is kvm_intel, else in labs
linux   Linux guests, and tests of bare that name them: here if this KVM boots Linux, else in labs

Without --rest the stages run the tests that each change must pass: 40 minutes on two CPUs with
every kernel still to be built. With --rest, for another machine, they run the tests that have that
mark: of other guest kernels, of VT-x without EPT, of what takes long.

A stage that cannot run fails; none is skipped. The exit status is 0 only if every stage passed.
Where PYVMM_ARTEFACTS names a folder, the report of each failed test and each lab's console stay there.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.fuzz.targets import TARGETS
from tests.runner import labs, needs
from tests.runner.process import End, Process, at_a_time, end_all, number_of
from tests.support.hosts import HERE, LINUX, REST, SHADOW, VMX
from tests.support.tree import ROOT

if TYPE_CHECKING:
    from collections.abc import Sequence


class Stage(NamedTuple):
    """The folders of a stage, and the host that chooses the tests (tests/support/hosts.py)."""

    folders: tuple[str, ...]
    host: str = HERE


STAGES = {
    "unit": Stage(("unit",)),
    "bare": Stage(("bare",)),
    "fuzz": Stage(()),
    "qemu": Stage(("qemu",)),
    "lab": Stage(("lab",)),
    "vmx": Stage(("bare", "linux"), VMX),
    "linux": Stage(("bare", "linux"), LINUX),
}
#: Stages that boot no kernel, and so run beside the builds.
EARLY = ("unit", "bare", "fuzz")
STAGES_OF_REST = ("bare", "qemu", "lab", "vmx", "linux")
#: The search of each fuzz target.
FUZZ_SECONDS = int(os.environ.get("PYVMM_FUZZ_SECONDS", "30"))
NO_TESTS = 5  # pytest's status where the options leave none of a file
#: The files that take longest, which begin first.
LONG = (
    "test_symcall_integrity",
    "test_symcall_steady",
    "test_guest_init",
    "test_lab_vmx_ends",
    "test_lab_ends",
    "test_lab",
    "test_symcall_linux",
    "test_swapbypass",
    "test_control_socket",
    "test_swap_cli",
    "test_symbiotic_guest",
    "test_symbiotic_module",
    "test_workloads",
    "test_sweep",
)


class Choice(NamedTuple):
    """The half of a stage's tests, and the options for pytest that narrow it."""

    rest: bool = False
    options: tuple[str, ...] = ()

    @property
    def words(self) -> tuple[str, ...]:
        """What pytest is told."""
        return ("-m", REST if self.rest else f"not {REST}", *self.options)


def processes(name: str, choice: Choice) -> list[Process]:
    """Return what a stage runs on this machine."""
    if name == "fuzz":
        return searches()
    folders, host = STAGES[name]
    if host != HERE and not labs.is_here(host):
        hosts = (VMX, SHADOW) if host == VMX and choice.rest else (host,)
        return [process for host in hosts for process in in_labs(name, host, choice)]
    words = (*(("--host", host) if host != HERE else ()), *choice.words)
    files = file_names(folders, words)
    piles = in_piles(files, number_of(1) if name == "unit" else len(files))
    return [Process(called(name, pile), pytest(*pile, *words)) for pile in piles]


def searches() -> list[Process]:
    """Return a process for each fuzz target."""
    command = [sys.executable, "-m", "tests.fuzz", "--seconds", str(FUZZ_SECONDS)]
    return [Process(f"fuzz/{name}", [*command, name]) for name in TARGETS]


def in_labs(name: str, host: str, choice: Choice) -> list[Process]:
    """Return labs that share the files of a stage: the start of one with pytest takes 20 s."""
    words = ("--host", host, *choice.words)
    files = file_names(STAGES[name].folders, words)
    piles = in_piles(files, labs.at_a_time() * labs.PILES[host])
    return [labs.process(called(host, pile), host, (*pile, *words)) for pile in piles]


def in_piles(files: Sequence[str], count: int) -> list[tuple[str, ...]]:
    """Deal files out to so many piles, none of them empty."""
    return [tuple(files[first::count]) for first in range(min(count, len(files)))]


def called(stage: str, files: Sequence[str]) -> str:
    """Name a pile of files of a stage, or of a host."""
    return f"{stage}/{Path(files[0]).stem}" + f" and {len(files) - 1} more" * (len(files) > 1)


def pytest(*words: str) -> list[str]:
    return [sys.executable, "-m", "pytest", *words]


@cache
def file_names(folders: tuple[str, ...], words: tuple[str, ...]) -> list[str]:
    """Return the files that have such tests, those that take long first.

    Pytest finds them, and compiles them for labs, where an emulated CPU takes 20 times as long. A
    file that pytest cannot read is among them, so that it fails in its turn.
    """
    command = pytest(*(f"tests/{folder}" for folder in folders), "--collect-only", "-q", *words)
    listed = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    names = set(re.findall(r"^(?:ERROR )?(tests/[\w/]+\.py)\b", listed.stdout, re.MULTILINE))
    return sorted(names, key=lambda name: (rank(Path(name).stem), name))


def rank(name: str) -> int:
    """Return the place of a file among those that take long."""
    return LONG.index(name) if name in LONG else len(LONG)


def main() -> int:
    words = sys.argv[1:]
    at = words.index("--") if "--" in words else len(words)
    words, options = words[:at], words[at + 1 :]
    if {"-h", "--help"} & set(words):
        print(__doc__, end="")
        return 0
    rest = "--rest" in words
    stages = [word for word in words if word != "--rest"] or (STAGES_OF_REST if rest else STAGES)
    unknown = set(stages) - set(STAGES)
    if unknown:
        said = f"no stage {', '.join(sorted(unknown))}; there are {', '.join(STAGES)}"
        print(said, file=sys.stderr)
        return 2
    os.chdir(ROOT)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, end_all)
    return run_stages(list(stages), Choice(rest, tuple(options)))


def run_stages(chosen: Sequence[str], choice: Choice) -> int:
    """Run the stages, and say how each ended; 0 if all passed."""
    late = [stage for stage in chosen if stage not in EARLY]
    builds = {"needs": needs.builds(set(late), rest=choice.rest)} if late else {}
    early = {stage: processes(stage, choice) for stage in chosen if stage in EARLY}
    ended = run(number_of(1), builds | early)
    if late and status(ended["needs"]) == 0:
        # Labs first: short files fill the gaps at the end.
        parts = {stage: processes(stage, choice) for stage in reversed(late)}
        ended |= run(labs.at_a_time(), parts)
    elif late:
        print("tests: the other stages did not run: a build that they need failed, as said above")
    codes = [tell(stage, ended[stage]) for stage in ("needs", *chosen) if stage in ended]
    return int(any(codes))


def run(count: int, parts: dict[str, list[Process]]) -> dict[str, list[End]]:
    """Run the processes of stages as one queue, so that no CPU idles at the end of each stage."""
    print(f"\n==== {', '.join(parts)} ====", flush=True)
    ends = iter(at_a_time(count, [process for part in parts.values() for process in part]))
    return {stage: [next(ends) for _ in part] for stage, part in parts.items()}


def status(ends: Sequence[End]) -> int:
    """Return the first status that is not 0; below 0 is a signal. NO_TESTS where nothing ran."""
    return next((end.code for end in ends if end.code), 0) if ends else NO_TESTS


def tell(stage: str, ends: Sequence[End]) -> int:
    """Say how a stage ended; its status."""
    code = status(ends)
    said = "ok" if code == 0 else f"FAILED ({code})"
    print(f"{stage:6} {said}  {sum(end.seconds for end in ends):.0f} s of work")
    return code


if __name__ == "__main__":
    sys.exit(main())
