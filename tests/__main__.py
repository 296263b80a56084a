# SPDX-License-Identifier: Apache-2.0
"""The whole test suite, in its stages: `python -m tests [STAGE...] [-- pytest options]`.

unit    parsers, tables, queues
local   bare-metal guests on this machine's /dev/kvm, whatever kind that is
host    the lab itself, seen from outside
lab     Linux guests: here if this KVM boots Linux, else inside the lab

A stage that cannot run fails; none is skipped. The exit status is 0 only if every stage passed. Where PYVMM_ARTEFACTS
names a folder, the report of each failed test and the lab's console are kept there.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STAGES = ("unit", "local", "host", "lab")
GUESTS = ("6.12", "6.1")
DEBUG_GUEST = "6.12-debug"
LAB_SECONDS = 25 * 60
#: The longest test is silent for about 200 s on an emulated machine.
SILENT_SECONDS = 420
NO_TESTS = 5  # pytest's status where the options leave none of a file
LAB_CPUS = 2


def pytest_command(stage: str, options: list[str]) -> list[str]:
    return [sys.executable, "-m", "pytest", f"tests/{stage}", *options]


def build_guests() -> None:
    """Everything the Linux guests and the lab need, from the cache, or fetched or built now."""
    from pyvmm.guest.build import build
    from pyvmm.guest.stock import stock
    from pyvmm.lab import emulator
    from tests import example
    from tests.lab.swapguest import torture

    for linux in GUESTS:
        build(linux)
        stock(linux)
        stock(linux, symbiotic=True)
    build(DEBUG_GUEST)
    example.cached(GUESTS[0])
    emulator.find()
    torture()


def run_here(stage: str, options: list[str]) -> int:
    return subprocess.run(pytest_command(stage, options), cwd=ROOT, check=False).returncode


def run_linux(options: list[str]) -> int:
    """The Linux guests: here where they boot, else each file in a lab of its own."""
    from pyvmm.probe import probe

    found = probe()
    print(f"tests: {found.verdict}", flush=True)
    if found.boots_linux:
        return run_here("lab", options)
    files = sorted(path.stem for path in (ROOT / "tests" / "lab").glob("test_*.py"))
    return max([run_in_lab(name, options) for name in files])


def run_in_lab(name: str, options: list[str]) -> int:
    """One file. An outer machine that hangs (docs/lab.md) is ended, and the file runs once more."""
    for again in (False, True):
        print(f"\n-- {name}{', once more' if again else ''}", flush=True)
        try:
            return watch(lab_command(name, options))
        except TimeoutError as error:
            print(f"\n{name}: {error}", flush=True)
    return 124


def lab_command(name: str, options: list[str]) -> list[str]:
    keep = os.environ.get("PYVMM_ARTEFACTS")
    log = os.path.join(keep, f"{name}-console.log") if keep else ""
    kept = ["--share", keep, "--env", "PYVMM_ARTEFACTS", "--log", log] if keep else []
    lab = [sys.executable, "-m", "pyvmm", "lab", "--cpus", str(LAB_CPUS), "--memory", "8G"]
    test = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"tests/lab/{name}.py"]
    return [*lab, "--timeout", str(LAB_SECONDS), *kept, "--", *test, *options]


def watch(command: list[str]) -> int:
    """Runs it, its output shown; TimeoutError if it says nothing for too long."""
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        fd = process.stdout.fileno()
        while True:
            if not select.select([fd], [], [], SILENT_SECONDS)[0]:
                process.send_signal(signal.SIGTERM)
                raise TimeoutError(f"the lab has said nothing for {SILENT_SECONDS} s")
            piece = os.read(fd, 65536)
            if not piece:
                break
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
        code = process.wait()
    return 0 if code == NO_TESTS else code


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
        build_guests()
    outcome = {}
    for stage in words or STAGES:
        start = time.monotonic()
        print(f"\n==== {stage} ====", flush=True)
        code = run_linux(options) if stage == "lab" else run_here(stage, options)
        outcome[stage] = (code, time.monotonic() - start)
    print()
    for stage, (code, seconds) in outcome.items():
        print(f"{stage:6} {'ok' if code == 0 else f'FAILED ({code})'}  {seconds:.0f} s")
    return int(any(code for code, _ in outcome.values()))


if __name__ == "__main__":
    sys.exit(main())
