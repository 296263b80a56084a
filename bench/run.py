# SPDX-License-Identifier: Apache-2.0
"""Suites run as programs of their own, on this machine's KVM or in the lab; what they print is
shown and kept.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from bench import suites
from bench.suite import Suite
from pyvmm.demo import prepare
from pyvmm.probe import Probe, probe

LAB_MEMORY = "8G"


def measure(args: argparse.Namespace, names: Sequence[str], folder: Path) -> list[str]:
    """Run suites, and return those that failed.

    What they need is made before, outside the lab, where it stays. Raise ConfigError and HostError
    as that does.
    """
    made = {name: suites.every()[name] for name in names}
    if any(suite.linux for suite in made.values()):
        prepare.ensure_guest(args.linux)
    for suite in made.values():
        suite.prepare()
    kvm = probe()
    inside = [name for name, suite in made.items() if wants_lab(args, suite, kvm)]
    failed = [name for name in names if name not in inside and not here(args, name, folder)]
    if inside:
        print(f"bench: {kvm.verdict}" * (not args.lab), file=sys.stderr)
        failed += in_the_lab(args, inside, folder)
    return failed


def wants_lab(args: argparse.Namespace, suite: Suite, kvm: Probe) -> bool:
    """Return whether a suite is to run in the lab. Whoever is in one stays there."""
    if "PYVMM_LAB" in os.environ:
        return False
    usable = kvm.boots_linux if suite.linux else kvm.usable and not kvm.missing
    return args.lab or args.icount or not usable


def command(args: argparse.Namespace, name: str, folder: Path) -> list[str]:
    """Return the suite as a program of its own."""
    words = [sys.executable, "-m", "bench", name, "--json", str(folder / f"{name}.json")]
    words += ["--quick"] if args.quick else []
    words += ["--rounds", str(args.rounds)] if args.rounds else []
    words += ["--budget", str(args.budget)] if args.budget is not None else []
    if suites.every()[name].linux:
        words += ["--linux", args.linux]
    return words + getattr(args, "words", [])


class Tee:
    """Output that is shown and kept."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, data: bytes) -> None:
        """Write to both at once."""
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        self._file.write(data)


def ended_well(name: str, where: str, folder: Path, run: Callable[[Tee], int]) -> bool:
    """Run a suite, whose output is shown and kept in the folder."""
    print(f"\n== {name}, {where}", flush=True)
    with (folder / f"{name}.txt").open("wb") as file:
        return run(Tee(file)) == 0


def here(args: argparse.Namespace, name: str, folder: Path) -> bool:
    """Return whether a suite ended well on this machine's KVM."""

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
    """Run suites in one lab; return those that failed."""
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
