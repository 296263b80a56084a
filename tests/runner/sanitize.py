# SPDX-License-Identifier: Apache-2.0
"""Tests with the C modules under sanitizers.

    python -m tests.runner.sanitize KIND [FOLDER-OR-FILE...] [-- pytest options]

KIND is address, with undefined behaviour, or thread. The program copies the tree to
build/sanitize/KIND, builds the modules there with gcc's sanitizer, and loads its runtime into Python
before all else. Without names it runs the unit and the bare-guest tests, each file in a process of
its own. Whatever a sanitizer reports, in a child too, makes the run fail.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.runner.process import Process, at_a_time
from tests.support.tree import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

OUT = ROOT / "build" / "sanitize"
FOLDERS = ("tests/unit", "tests/bare")
#: Some tests take ten times as long under a sanitizer, and say nothing until they have ended.
SILENT_SECONDS = 1800


class Kind(NamedTuple):
    """What gcc builds, the runtimes that are loaded first, and their options; they write to LOG."""

    flags: str
    runtimes: tuple[str, ...]
    options: dict[str, str]
    #: Files, and tests.
    left_out: tuple[str, ...] = ()


#: CPython frees little at its end, so leaks are not asked for. Memory of its own allocators would not
#: be seen. The engine has a handler of SIGBUS.
KINDS = {
    "address": Kind(
        "address,undefined",
        ("libasan.so", "libubsan.so"),
        {
            "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:handle_sigbus=0:log_path=LOG",
            "UBSAN_OPTIONS": "print_stacktrace=1:log_path=LOG",
            "PYTHONMALLOC": "malloc",
        },
    ),
    "thread": Kind(
        "thread",
        ("libtsan.so",),
        {
            "TSAN_OPTIONS": (
                f"exitcode=0:history_size=4:suppressions={ROOT}/tests/runner/sanitize.supp:log_path=LOG"
            )
        },
        # Its runtime ends bash, asks for addresses that are not random, leaves all signals blocked
        # where a handler jumps out, and takes memory of each stack.
        (
            *("test_streams", "test_detach", "test_forkserver", "test_guard"),
            "test_what_is_not_used_costs_addresses_only",
        ),
    ),
}
#: Files that say nothing here: what memory a process takes, programs that have sanitizers of their own or
#: an environment, what needs capstone, and files that mostly run compilers, QEMU and the like.
LEFT_OUT = (
    *("test_footprint", "test_virtio_fuzz", "test_install", "test_crash", "test_bench"),
    *("test_symcall_threads", "test_device_threads", "test_transport", "test_small_scope"),
)
#: Folders of unit tests that run nothing of the engine: it is what is built with a sanitizer.
WITHOUT_ENGINE = ("bench", "debian", "drgn", "guest", "house", "lab", "runner")
#: Capstone is loaded in a way that ends a process under a sanitizer. Without it dumps show bytes.
HIDDEN = 'raise ImportError("not under sanitizers")\n'
#: A report, and not just a remark of the runtime's.
REPORT = re.compile(r"ERROR: |WARNING: ThreadSanitizer|runtime error: ")


def copy(kind: str) -> Path:
    """The tree as git has it, with what is not committed."""
    folder = OUT / kind
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.decode().split("\0")):
        source, target = ROOT / name, folder / name
        if source.exists() and not (
            target.exists() and target.stat().st_mtime == source.stat().st_mtime
        ):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    return folder


def build(folder: Path, kind: Kind) -> None:
    """The modules, in the copy."""
    (folder / "hidden").mkdir(exist_ok=True)
    (folder / "hidden" / "capstone.py").write_text(HIDDEN)
    environment = os.environ | {"PYVMM_SANITIZE": kind.flags, "CC": "gcc"}
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    subprocess.run(command, cwd=folder, env=environment, check=True)


def runtime(name: str) -> str:
    """Where gcc has it."""
    command = ["gcc", f"-print-file-name={name}"]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def files(kind: str, names: Sequence[str]) -> Iterator[str]:
    """Test files, of folders those that have something to say."""
    left_out = (*LEFT_OUT, *KINDS[kind].left_out)
    for name in names:
        path = ROOT / name
        if path.is_file():
            yield name
        else:
            found = sorted(
                each
                for each in path.rglob("test_*.py")
                if each.stem not in left_out and each.parent.name not in WITHOUT_ENGINE
            )
            yield from (str(each.relative_to(ROOT)) for each in found)


def processes(
    kind: str, folder: Path, names: Sequence[str], options: Sequence[str]
) -> list[Process]:
    """One for each file."""
    out = KINDS[kind].left_out
    chosen = ["-k", "not (" + " or ".join(out) + ")"] if out else []
    preload = ":".join(map(runtime, KINDS[kind].runtimes))
    made = []
    for name in files(kind, names):
        log = folder / "logs" / name.removesuffix(".py").replace("/", "-")
        settings = {
            key: value.replace("LOG", str(log)) for key, value in KINDS[kind].options.items()
        }
        settings |= {"LD_PRELOAD": preload, "PYTHONPATH": f"{folder}:{folder / 'hidden'}"}
        command = ["env", "-C", str(folder), *(f"{key}={value}" for key, value in settings.items())]
        # The thread sanitizer's memory map leaves little room for a random one.
        command += ["setarch", "-R"] if kind == "thread" else []
        made.append(
            Process(
                name,
                [*command, sys.executable, "-m", "pytest", "-q", name, *chosen, *options],
                SILENT_SECONDS,
            )
        )
    return made


def reports(folder: Path) -> list[Path]:
    """What the sanitizers wrote, a file for each process that had something to report."""
    written = sorted((folder / "logs").iterdir())
    return [path for path in written if REPORT.search(path.read_text(errors="replace"))]


def main() -> int:
    words = sys.argv[1:]
    at = words.index("--") if "--" in words else len(words)
    names, options = words[:at], words[at + 1 :]
    if {"-h", "--help"} & set(names):
        print(__doc__, end="")
        return 0
    if not names or names[0] not in KINDS:
        print(__doc__, file=sys.stderr, end="")
        return 2
    kind = names.pop(0)
    folder = copy(kind)
    build(folder, KINDS[kind])
    shutil.rmtree(folder / "logs", ignore_errors=True)
    (folder / "logs").mkdir()
    made = processes(kind, folder, names or FOLDERS, options)
    ends = at_a_time(len(os.sched_getaffinity(0)), made)
    found = reports(folder)
    for path in found:
        print(f"\n-- {path.name}\n{path.read_text(errors='replace')[:6000]}")
    failed = [each.what for each, end in zip(made, ends, strict=True) if end.code]
    print(
        f"\nsanitize {kind}: {len(made)} files, {len(found)} reports, {len(failed)} failed {' '.join(failed)}"
    )
    return int(bool(found or failed))


if __name__ == "__main__":
    sys.exit(main())
