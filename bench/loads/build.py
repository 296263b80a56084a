# SPDX-License-Identifier: Apache-2.0
"""Programs of this folder that run on the host, or in every VMM's guest alike: compiled for one run
of a suite.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
INCLUDE = HERE.parents[1] / "include"


def compiled(folder: str, name: str, *flags: str) -> str:
    """Compile NAME.c into a folder, and return the program's path.

    Raise CalledProcessError where the compiler refuses.
    """
    program = str(Path(folder) / name)
    source = str(HERE / f"{name}.c")
    subprocess.run(["gcc", "-O2", f"-I{INCLUDE}", *flags, "-o", program, source], check=True)
    return program
