# SPDX-License-Identifier: Apache-2.0
"""Compiles the targets of C with libFuzzer and the address and undefined-behaviour sanitizers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

from tests.support.tree import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tests.fuzz.targets import Target

OUT = ROOT / "build" / "fuzz"
CSRC = ROOT / "csrc"
HERE = ROOT / "tests" / "fuzz"
SUPPORT = ROOT / "tests" / "support"
FLAGS = (
    *("-std=gnu11", "-D_GNU_SOURCE", "-O2", "-g", "-fno-omit-frame-pointer", "-pthread"),
    *("-fno-sanitize-recover=all", "-Wall", "-Wextra", "-Werror"),
    "-Wno-gnu-variable-sized-type-not-at-end",
    f"-I{CSRC}",
    f"-I{ROOT / 'include'}",
    f"-I{HERE}",
    f"-I{SUPPORT}",
)
HOST = ("-include", str(HERE / "host.h"))


class Build(NamedTuple):
    """How a target is compiled: the program's name, and flags of the engine, of the harness and of the linker."""

    name: str
    engine: tuple[str, ...]
    harness: tuple[str, ...]
    link: tuple[str, ...]


#: To search with. The engine tells what it covers, the harness does not: the search is for ways through the engine.
SEARCH = Build(
    "fuzz",
    ("-fsanitize=fuzzer-no-link,address,undefined", *HOST),
    ("-fsanitize=address,undefined",),
    ("-fsanitize=fuzzer,address,undefined",),
)
#: To see which lines of the engine the inputs reach.
COVER = Build(
    "cover",
    ("-fprofile-instr-generate", "-fcoverage-mapping", *HOST),
    (),
    ("-fsanitize=fuzzer", "-fprofile-instr-generate"),
)


def compiler() -> str:
    """Clang, which brings libFuzzer; ends the program with a word about the package where it is missing."""
    found = shutil.which("clang")
    if not found:
        sys.exit("fuzz: no clang; the Debian packages are clang and libclang-rt-dev")
    return found


def program(target: Target, build: Build = SEARCH) -> Path:
    """The target's program, compiled where it is not or is older than a source."""
    folder = OUT / target.name
    built = folder / build.name
    sources = [
        *CSRC.glob("*/*.[ch]"),
        ROOT / "include" / "symbiotic.h",
        *HERE.glob("*.[ch]"),
        *SUPPORT.glob("*.[ch]"),
        HERE / "compile.py",
        HERE / "targets.py",
    ]
    if built.exists() and built.stat().st_mtime > max(each.stat().st_mtime for each in sources):
        return built
    folder.mkdir(parents=True, exist_ok=True)
    if target.smaller:
        _copy(target)
    jobs = [(_engine(target) / f"{part}.c", build.engine) for part in target.parts]
    jobs += [(HERE / f"{part}.c", build.harness) for part in target.harness]
    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(lambda job: _object(target, build, *job), jobs))
    wraps = [f"-Wl,--wrap={function}" for function in target.wrap]
    new = built.with_suffix(".new")
    _run([compiler(), *build.link, "-pthread", *wraps, "-o", str(new), *map(str, objects)])
    new.replace(built)
    return built


def lines_reached(target: Target, folders: Sequence[Path]) -> str:
    """A table of the engine's files: which part of their lines the inputs in these folders reach."""
    cover = program(target, COVER)
    raw, merged = cover.with_suffix(".profraw"), cover.with_suffix(".profdata")
    inputs = [str(folder) for folder in folders if folder.exists()]
    options = ["-runs=0", f"-max_len={target.max_length}"]
    _run([str(cover), *options, *inputs], {"LLVM_PROFILE_FILE": str(raw)})
    _run(["llvm-profdata", "merge", "-sparse", str(raw), "-o", str(merged)])
    report = ["llvm-cov", "report", str(cover), f"-instr-profile={merged}"]
    return _run([*report, "-show-region-summary=false", "-show-branch-summary=false"])


def _engine(target: Target) -> Path:
    """The folder of the engine's sources: a copy where something is to be smaller."""
    return OUT / target.name / "csrc" if target.smaller else CSRC


def _copy(target: Target) -> None:
    for source in CSRC.glob("*/*.[ch]"):
        text, own = source.read_text(), str(source.relative_to(CSRC))
        for name, large, small in target.smaller:
            if name == own:
                assert large in text, f"{large!r} is not in {name}"
                text = text.replace(large, small)
        copy = _engine(target) / own
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(text)


def _object(target: Target, build: Build, source: Path, flags: tuple[str, ...]) -> Path:
    made = OUT / target.name / f"{source.parent.name}-{source.stem}-{build.name}.o"
    include = f"-I{_engine(target)}"
    _run([compiler(), include, *FLAGS, *flags, "-c", "-o", str(made), str(source)])
    return made


def _run(command: list[str], settings: Mapping[str, str] | None = None) -> str:
    """What it prints; ends the program with what it said where it fails."""
    environment = os.environ | dict(settings or {})
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"fuzz: {' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout
