# SPDX-License-Identifier: Apache-2.0
"""Bare guests that `pyvmm run --detach` runs, and the processes behind them."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import psutil

from pyvmm.control.client import connect, running
from pyvmm.launch.options import Options
from pyvmm.launch.plan import Plan
from tests.support.waiting import SECONDS

#: Says a word on the serial port and sleeps.
SAY = "mov dx, 0x3f8; mov al, 0x68; out dx, al; mov al, 0x0a; out dx, al; 1: hlt; jmp 1b"
#: Ends at once: a triple fault.
END = "ud2"


def processes() -> dict[int, psutil.Process]:
    """Of the fork server's program with our runtime directory, by their numbers."""
    found = {}
    for process in psutil.process_iter():
        try:
            ours = process.environ().get("XDG_RUNTIME_DIR") == os.environ["XDG_RUNTIME_DIR"]
            if ours and "pyvmm.launch.forkserver" in process.cmdline():
                found[process.pid] = process
        except psutil.Error:
            pass  # gone, or a zombie
    return found


def parents() -> dict[psutil.Process, int]:
    """The parent of each."""
    found = {}
    for process in processes().values():
        try:
            found[process] = process.ppid()
        except psutil.Error:
            pass
    return found


def servers() -> list[psutil.Process]:
    """Those that are no other one's child."""
    found = parents()
    pids = {process.pid for process in found}
    return [process for process, parent in found.items() if parent not in pids]


def children() -> list[psutil.Process]:
    """The VMs of the servers that are there."""
    found = parents()
    pids = {process.pid for process in found}
    return [process for process, parent in found.items() if parent in pids]


def run(*words: str, file: str = "say", **options: Any) -> subprocess.CompletedProcess[str]:
    """`pyvmm run --detach` of a bare guest."""
    command = [
        sys.executable,
        "-m",
        "pyvmm",
        "run",
        "--detach",
        "-k",
        file,
        "--flat",
        "protected",
        "-m",
        "2M",
    ]
    return subprocess.run(
        [*command, *words], capture_output=True, text=True, timeout=SECONDS, check=False, **options
    )


def planned(name: str, **options: Any) -> Plan:
    """A run of the guest that says a word, as its visitor plans it."""
    given = {"kernel": "say", "flat": "protected", "memory": "2M", "name": name, "detach": True}
    args = Options()
    vars(args).update(given | options)
    return Plan(args)


def stop(name: str) -> None:
    with connect(name) as client:
        client.call("stop")
        client.wait_gone()


def names() -> list[str]:
    return [info["name"] for info in running()]
