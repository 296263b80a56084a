# SPDX-License-Identifier: Apache-2.0
"""The source tree: its files, and a copy as a fresh clone is."""

from __future__ import annotations

import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def files() -> list[Path]:
    """Every file of the project; in a tree without git, every text file that is not built."""
    done = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        return [ROOT / name for name in done.stdout.split("\0") if name]
    wanted = ["*.py", "*.c", "*.h", "*.md", "*.toml", "Makefile", ".ci/*"]
    return [path for pattern in wanted for path in ROOT.rglob(pattern) if ".venv" not in path.parts]


def tracked() -> set[str]:
    """The files of the project; none of what git ignores."""
    return {str(path.relative_to(ROOT)) for path in files() if path.exists()}


def clone(folder: Path) -> Path:
    """Makes a copy as a fresh clone is, for setuptools to write into."""
    for name in tracked():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name, follow_symlinks=False)
    return folder
