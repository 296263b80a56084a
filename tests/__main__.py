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
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STAGES = ("unit", "local", "host", "lab")
GUESTS = ("6.12", "6.1")
DEBUG_GUEST = "6.12-debug"
LAB_SECONDS = 45 * 60
LAB_CPUS = 2


def pytest_command(stage: str, options: list[str]) -> list[str]:
    return [sys.executable, "-m", "pytest", f"tests/{stage}", *options]


def build_guests() -> None:
    """Everything the Linux guests need, from the cache or built now."""
    from pyvmm.guest.build import build
    from pyvmm.guest.stock import stock
    from tests import example

    for linux in GUESTS:
        build(linux)
        stock(linux)
        stock(linux, symbiotic=True)
    build(DEBUG_GUEST)
    example.cached(GUESTS[0])


def run_here(stage: str, options: list[str]) -> int:
    return subprocess.run(pytest_command(stage, options), cwd=ROOT, check=False).returncode


def run_linux(options: list[str]) -> int:
    from pyvmm import lab
    from pyvmm.probe import probe

    found = probe()
    print(f"tests: {found.verdict}", flush=True)
    if found.boots_linux:
        return run_here("lab", options)
    command = pytest_command("lab", ["-p", "no:cacheprovider", *options])
    keep = os.environ.get("PYVMM_ARTEFACTS")
    log = os.path.join(keep, "lab-console.log") if keep else None
    return lab.run(command, cpus=LAB_CPUS, memory="8G", timeout=LAB_SECONDS, share=keep, log=log)


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
