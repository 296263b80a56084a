# SPDX-License-Identifier: Apache-2.0
"""The record of a benchmark's run: all samples, with the machine and the revision they come from,
as JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from bench.report.aims import Verdict
from bench.report.stats import Samples

#: Raise it when a reader would have to know.
SCHEMA = 3
ROOT = Path(__file__).resolve().parents[2]
OUT = "bench/out"
#: The folders with code that is measured, or measures.
CODE = ("csrc", "include", "pyvmm", "bench", "guest-linux-patch")
#: Files and folders in there that a build or a run writes.
BUILT = (".so", ".o", ".pyc")
WRITTEN = {"_core.c", "_kvm.c", "build", "out", "__pycache__"}


def git(*words: str) -> str:
    """Return what git says of the project; "" where it says nothing."""
    if shutil.which("git") is None:
        return ""
    command = ["git", "-C", str(ROOT), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


@cache
def revision() -> str:
    """Return the commit that was measured, with a + if the code differs from it."""
    name = git("rev-parse", "--short", "HEAD") or "unknown"
    changed = git("status", "--porcelain", "--", *CODE)
    return name + "+" * bool(changed)


@cache
def sources() -> str:
    """Return a digest of the code that measures.

    Two trees with changes have one revision, but not one digest.
    """
    digest = hashlib.sha256()
    for path in sorted(path for folder in CODE for path in (ROOT / folder).rglob("*")):
        name = path.relative_to(ROOT)
        if path.is_file() and path.suffix not in BUILT and not set(name.parts) & WRITTEN:
            digest.update(f"{name}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def same_revision(mine: str, other: str) -> bool:
    """Return whether two revisions are one: git may write it with more digits in another clone."""
    names = [text.removesuffix("+") for text in (mine, other)]
    shorter, longer = sorted(names, key=len)
    return (
        bool(shorter) and longer.startswith(shorter) and mine.endswith("+") == other.endswith("+")
    )


def environment() -> dict[str, Any]:
    """Return the facts of the machine that a figure belongs to, for its record."""
    from pyvmm.probe import backend

    name, paging = backend()
    model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "cpu": model,
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "kvm": name,
        "paging": paging,
        "lab": os.environ.get("PYVMM_LAB", ""),
        "qemu": version("qemu-system-x86_64"),
        "load": os.getloadavg(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


@cache
def version(program: str) -> str:
    """Return the first line of what a peer says of itself; "" where it is not installed."""
    if shutil.which(program) is None:
        return ""
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    return done.stdout.partition("\n")[0].strip()


def machine_text(machine: dict[str, Any]) -> str:
    """Return one line of it."""
    lab = " in the lab, time counted in instructions" * machine["lab"].endswith("-icount")
    return f"{machine['kvm']} on {machine['cpu']}{lab}, Linux {machine['kernel']}"


def name(record: Mapping[str, Any]) -> str:
    """Return the suite, or the cell of a sweep."""
    return str(record.get("cell", record).get("name", record["suite"]))


def title(record: Mapping[str, Any]) -> str:
    """Return what was measured, and where."""
    return f"{name(record)}, {record['revision']}, {machine_text(record['machine'])}"


def write(
    path: str | None,
    suite: str,
    samples: Samples,
    *,
    base: str,
    scale: float,
    unit: str,
    judged: list[Verdict] | None = None,
    notes: str = "",
    **more: Any,
) -> dict[str, Any]:
    """Write the record and return it.

    `base` is the subject of comparisons; times `scale` are in `unit`.
    """
    target = Path(path or f"{OUT}/{suite}.json")
    target.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "suite": suite, "schema": SCHEMA, "revision": revision(), "machine": environment(),
        "base": base, "scale": scale, "unit": unit, "notes": notes, "samples": samples,
        "aims": [verdict.row() for verdict in judged or ()], **more,
    }  # fmt: skip
    target.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return record


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the record of a run. Ends the program, saying why, if the file is none."""
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SystemExit(f"bench: cannot read {path}: {error}") from None
    if not isinstance(record, dict) or not isinstance(record.get("samples"), dict):
        raise SystemExit(f"bench: {path} is no record of a benchmark with samples")
    return record
