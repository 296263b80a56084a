# SPDX-License-Identifier: Apache-2.0
"""Compiles the targets of C with libFuzzer and the address and undefined-behaviour sanitizers."""

from __future__ import annotations

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from tests.process import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fuzz.targets import Target

OUT = ROOT / "build" / "fuzz"
CSRC = ROOT / "csrc"
HERE = ROOT / "tests" / "fuzz"
FLAGS = (
    *("-std=gnu11", "-D_GNU_SOURCE", "-O2", "-g", "-fno-omit-frame-pointer", "-pthread"),
    *("-fno-sanitize-recover=all", "-Wall", "-Wextra", "-Werror"),
    "-Wno-gnu-variable-sized-type-not-at-end",
    f"-I{CSRC}",
    f"-I{HERE}",
)
#: The engine tells what it covers. The harness does not: the search is for ways through the engine.
ENGINE = ("-fsanitize=fuzzer-no-link,address,undefined", "-include", str(HERE / "host.h"))
HARNESS = ("-fsanitize=address,undefined",)
LINK = ("-fsanitize=fuzzer,address,undefined",)


def compiler() -> str:
    """Clang, which brings libFuzzer; ends the program with a word about the package where it is missing."""
    found = shutil.which("clang")
    if not found:
        sys.exit("fuzz: no clang; the Debian packages are clang and libclang-rt-dev")
    return found


def program(target: Target) -> Path:
    """The target's program, compiled where it is not or is older than a source."""
    built = OUT / target.name / "fuzz"
    sources = [*CSRC.glob("*.[ch]"), *HERE.glob("*.[ch]"), HERE / "compile.py", HERE / "targets.py"]
    if built.exists() and built.stat().st_mtime > max(each.stat().st_mtime for each in sources):
        return built
    (OUT / target.name).mkdir(parents=True, exist_ok=True)
    engine = _engine(target)
    if target.smaller:
        _copy(target)
    jobs = [(engine / f"{part}.c", ENGINE) for part in target.parts]
    jobs += [(HERE / f"{part}.c", HARNESS) for part in target.harness]
    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(lambda job: _object(target, *job), jobs))
    wraps = [f"-Wl,--wrap={function}" for function in target.wrap]
    new = built.with_suffix(".new")
    _run([compiler(), *LINK, "-pthread", *wraps, "-o", str(new), *map(str, objects)])
    new.replace(built)
    return built


def _engine(target: Target) -> Path:
    """The folder of the engine's sources: a copy where something is to be smaller."""
    return OUT / target.name / "csrc" if target.smaller else CSRC


def _copy(target: Target) -> None:
    folder = _engine(target)
    folder.mkdir(exist_ok=True)
    for source in CSRC.glob("*.[ch]"):
        text = source.read_text()
        for name, large, small in target.smaller:
            if name == source.name:
                assert large in text, f"{large!r} is not in {name}"
                text = text.replace(large, small)
        (folder / source.name).write_text(text)


def _object(target: Target, source: Path, flags: tuple[str, ...]) -> Path:
    made = OUT / target.name / f"{source.stem}.o"
    include = f"-I{_engine(target)}"
    _run([compiler(), include, *FLAGS, *flags, "-c", "-o", str(made), str(source)])
    return made


def _run(command: list[str]) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"fuzz: {' '.join(command)}\n{done.stdout}{done.stderr}")
