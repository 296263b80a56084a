# SPDX-License-Identifier: Apache-2.0
"""The labs that tests run in where this machine's KVM is not the host that they need."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from tests.runner.process import Process, number_of
from tests.support import hosts

if TYPE_CHECKING:
    from collections.abc import Sequence

SECONDS = 40 * 60
CPUS = 2
#: Piles of files for each lab that runs at a time. Two even the ends out; a start takes 20 s, and
#: longer on VT-x.
PILES = {hosts.LINUX: 2, hosts.VMX: 1, hosts.SHADOW: 1}
#: Hypothesis, which no test there uses, takes a part of pytest's start.
PYTEST = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:hypothesispytest")


def is_here(host: str) -> bool:
    """Whether this machine's own KVM is that host. Prints what kind it is where KVM was asked."""
    if host == hosts.LINUX:
        from pyvmm.probe import probe

        found = probe()
        print(f"tests: {found.verdict}", flush=True)
        return found.boots_linux
    return os.path.exists("/sys/module/kvm_intel")


def at_a_time() -> int:
    """Return how many labs run at a time: each keeps one CPU busy, or CPUS (docs/lab.md)."""
    from pyvmm.lab import emulator

    return number_of(1 if emulator.find().one_thread else CPUS)


def process(what: str, host: str, words: Sequence[str]) -> Process:
    """Return pytest with these words in a lab of its own."""
    options = of_svm() if host == hosts.LINUX else of_vmx(host)
    keep = os.environ.get("PYVMM_ARTEFACTS")
    if keep:
        name = f"{what.replace('/', '-').replace(' ', '-')}-console.log"
        options += ["--log", os.path.join(keep, name)]
    lab = [sys.executable, "-m", "pyvmm", "lab", "--timeout", str(SECONDS), *options]
    # Pytest would rewrite assertions for a minute on VT-x; plain modules are compiled already.
    plain = () if host == hosts.LINUX else ("--assert=plain",)
    return Process(what, [*lab, "--", *PYTEST, *plain, *words])


def of_svm() -> list[str]:
    """Return the options of a lab with SVM."""
    keep = os.environ.get("PYVMM_ARTEFACTS")
    kept = ["--share", keep, "--env", "PYVMM_ARTEFACTS"] if keep else []
    return ["--cpus", str(CPUS), "--memory", "8G", *kept]


def of_vmx(host: str) -> list[str]:
    """Return those of a lab with VT-x, which brings no files back: only its console is kept."""
    shadow = ["--no-npt"] if host == hosts.SHADOW else []
    return ["--arch", "vmx", "--env", "PYVMM_ARTEFACTS=", *shadow]
