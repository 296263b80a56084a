# SPDX-License-Identifier: Apache-2.0
"""The whole test suite, in its stages: `python -m tests [STAGE...] [-- pytest options]`.

unit    parsers, tables, queues
local   bare-metal guests on this machine's /dev/kvm, whatever kind that is
host    the lab itself, seen from outside
lab     Linux guests: here if this KVM boots Linux, else inside the lab
vmx     some of both on VT-x: here if this KVM is kvm_intel, else inside the lab that emulates it, with EPT and without

A stage that cannot run fails; none is skipped. The exit status is 0 only if every stage passed. Where PYVMM_ARTEFACTS
names a folder, the report of each failed test and the lab's console are kept there.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).resolve().parent.parent
STAGES = ("unit", "local", "host", "lab", "vmx")
GUESTS = ("6.12", "6.1")
DEBUG_GUEST = "6.12-debug"
LAB_SECONDS = 25 * 60
#: The longest test is silent for about 200 s on an emulated machine.
SILENT_SECONDS = 420
NO_TESTS = 5  # pytest's status where the options leave none of a file
SILENT = 1000  # no status of a program: one of 124 is a lab that was not silent, but at work for too long
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
)
SHOWING = Lock()


#: The mark of tests that run once more where KVM shadows page tables.
SHADOW = "shadow"


class Job(NamedTuple):
    """A file of a stage, for a lab of its own; with `shadow` one without nested paging, for what is marked so."""

    stage: str
    file: str
    shadow: bool = False

    def __str__(self) -> str:
        return f"{self.stage}/{self.file}{', shadow paging' * self.shadow}"


class Process(NamedTuple):
    """What is run, and what to call it."""

    what: str
    command: list[str]


def pytest_command(tests: list[str], options: list[str]) -> list[str]:
    return [sys.executable, "-m", "pytest", *tests, *options]


def build_guests(stages: set[str]) -> None:
    """Everything the Linux guests and the labs need, from the cache, or fetched or built now."""
    from bench import workloads
    from pyvmm.guest.stock import stock
    from pyvmm.lab import bochs, emulator
    from tests import example, guest64
    from tests.lab.swapguest import torture

    emulated_vtx = bool({"host", "vmx"} & stages)
    build_kernels(emulated_vtx)
    for linux in GUESTS:
        stock(linux)
        stock(linux, symbiotic=True)
    for name in example.NAMES:
        example.cached(GUESTS[0], name)
    emulator.find()
    torture()
    workloads.prepare()
    if not emulated_vtx:
        return
    bochs.find()
    for sources in guest64.GUESTS:  # the lab with VT-x has no compiler
        guest64.build(*sources)


def build_kernels(emulated_vtx: bool) -> None:
    """Two at a time, as the end of each build is the work of one CPU. Those of one version wait for each other."""
    processes = [
        Process(
            f"guest {linux}", [sys.executable, "-m", "pyvmm", "guest", "build", "--linux", linux]
        )
        for linux in (DEBUG_GUEST, *GUESTS)
    ]
    if emulated_vtx:
        code = "from pyvmm.lab import vmx; vmx.prepared()"
        processes.append(Process("the VT-x lab", [sys.executable, "-c", code]))
    if any(at_a_time(2, processes)):
        sys.exit("tests: a kernel could not be built, as said above")


def run_here(stage: str, options: list[str]) -> int:
    """A stage in one process, one test after another."""
    command = pytest_command([f"tests/{stage}"], options)
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def run_piles(stage: str, options: list[str]) -> int:
    """A stage in several processes: unit tests in a pile for each, of others each file."""
    count = number_of(1)
    names = file_names(stage)
    piles = (
        [names[first::count] for first in range(count)]
        if stage == "unit"
        else [[name] for name in names]
    )
    processes = []
    for pile in piles:
        more = f" and {len(pile) - 1} more" if len(pile) > 1 else ""
        files = [f"tests/{stage}/{name}.py" for name in pile]
        processes.append(Process(f"{stage}/{pile[0]}{more}", pytest_command(files, options)))
    return worst(at_a_time(count, processes), chosen=bool(options))


def file_names(stage: str) -> list[str]:
    """The test files of a stage, those that take long first."""
    names = [path.stem for path in (ROOT / "tests" / stage).glob("test_*.py")]
    return sorted(names, key=lambda name: (LONG.index(name) if name in LONG else len(LONG), name))


def at_a_time(count: int, processes: list[Process]) -> list[int]:
    """Runs all, so many at a time; the status of each."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(shown, processes))


def run_linux(options: list[str]) -> int:
    """The Linux guests: here where they boot, else each file in a lab of its own, as many at a time as are good."""
    from pyvmm.probe import probe

    found = probe()
    print(f"tests: {found.verdict}", flush=True)
    if found.boots_linux:
        return run_here("lab", options)
    return run_in_labs("lab", options)


def run_vmx(options: list[str]) -> int:
    """What is about VT-x: here where KVM has it, else each file in a lab of its own that emulates it."""
    if os.path.exists("/sys/module/kvm_intel"):
        return run_here("vmx", options)
    return run_in_labs("vmx", options)


def run_in_labs(stage: str, options: list[str]) -> int:
    """Each file of a stage in a lab of its own, as many at a time as are good."""
    command = vmx_command if stage == "vmx" else lab_command
    processes = [Process(str(job), command(job, options)) for job in jobs(stage)]
    return worst(at_a_time(labs_at_a_time(), processes), chosen=bool(options))


def jobs(stage: str) -> list[Job]:
    """The files of a stage, those first that take longest. What is about VT-x also runs without EPT, in short."""
    kinds = (False, True) if stage == "vmx" else (False,)
    return [Job(stage, name, shadow) for name in file_names(stage) for shadow in kinds]


def worst(codes: Sequence[int], *, chosen: bool) -> int:
    """The status of a stage, 0 only if that of each file is; below 0 is a signal's.

    Options that choose may leave no test of a file, but not of all.
    """
    ran = [code for code in codes if not (chosen and code == NO_TESTS)]
    return next((code for code in ran if code), 0) if ran else NO_TESTS


def labs_at_a_time() -> int:
    """A lab takes one CPU of this machine, or as many as it has itself (docs/lab.md)."""
    from pyvmm.lab import emulator

    each = 1 if emulator.find().one_thread else LAB_CPUS
    return number_of(each)


def number_of(cpus: int) -> int:
    """Processes at a time, each of which keeps so many CPUs busy."""
    return max(1, min(MAX_LABS, (os.cpu_count() or 1) // cpus))


def shown(process: Process) -> int:
    """Runs it, and shows its output at the end. If it fell silent it is started once more, and both are shown."""
    start = time.monotonic()
    code, output = watch(process.command)
    if code == SILENT:
        code, more = watch(process.command)
        output += b"\nonce more\n" + more
    with SHOWING:
        print(f"\n-- {process.what}: status {code}, {time.monotonic() - start:.0f} s", flush=True)
        sys.stdout.buffer.write(output)
        sys.stdout.buffer.flush()
    return code


def lab_command(job: Job, options: list[str]) -> list[str]:
    keep = os.environ.get("PYVMM_ARTEFACTS")
    log = os.path.join(keep, f"{job.file}-console.log") if keep else ""
    kept = ["--share", keep, "--env", "PYVMM_ARTEFACTS", "--log", log] if keep else []
    lab = [sys.executable, "-m", "pyvmm", "lab", "--cpus", str(LAB_CPUS), "--memory", "8G"]
    test = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"tests/lab/{job.file}.py"]
    return [*lab, "--timeout", str(LAB_SECONDS), *kept, "--", *test, *options]


def vmx_command(job: Job, options: list[str]) -> list[str]:
    """The same in the lab with VT-x, which brings no files back: the console's log is all that can be kept."""
    keep = os.environ.get("PYVMM_ARTEFACTS")
    log = os.path.join(keep, f"vmx-{job.file}{'-shadow' * job.shadow}-console.log") if keep else ""
    lab = [sys.executable, "-m", "pyvmm", "lab", "--arch", "vmx", "--timeout", str(LAB_SECONDS)]
    lab += ["--no-npt"] if job.shadow else []
    lab += ["--log", log] if keep else []
    # To rewrite assertions is a minute's work there; modules as they are have been compiled here.
    test = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--assert=plain"]
    test += ["-m", SHADOW] if job.shadow else []
    return [*lab, "--env", "PYVMM_ARTEFACTS=", "--", *test, f"tests/vmx/{job.file}.py", *options]


def watch(command: list[str]) -> tuple[int, bytes]:
    """Runs it to its end, or ends it when it has said nothing for too long; its status and output."""
    output = b""
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        assert process.stdout is not None
        fd = process.stdout.fileno()
        while True:
            if not select.select([fd], [], [], SILENT_SECONDS)[0]:
                process.terminate()
                said = f"\nnothing was said for {SILENT_SECONDS} s: ended\n"
                return SILENT, output + said.encode()
            piece = os.read(fd, 65536)
            if not piece:
                break
            output += piece
        return process.wait(), output


def main() -> int:
    words = sys.argv[1:]
    options: list[str] = []
    if "--" in words:
        at = words.index("--")
        words, options = words[:at], words[at + 1 :]
    unknown = set(words) - set(STAGES)
    if unknown:
        print(f"no stage {', '.join(sorted(unknown))}; there are {', '.join(STAGES)}")
        return 2
    os.chdir(ROOT)
    if set(words or STAGES) != {"unit"}:
        build_guests(set(words or STAGES))
    outcome = {}
    for stage in words or STAGES:
        start = time.monotonic()
        print(f"\n==== {stage} ====", flush=True)
        code = {"lab": run_linux, "vmx": run_vmx}.get(stage, partial(run_piles, stage))(options)
        outcome[stage] = (code, time.monotonic() - start)
    print()
    for stage, (code, seconds) in outcome.items():
        print(f"{stage:6} {'ok' if code == 0 else f'FAILED ({code})'}  {seconds:.0f} s")
    return int(any(code for code, _ in outcome.values()))


if __name__ == "__main__":
    sys.exit(main())
