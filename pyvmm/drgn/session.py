# SPDX-License-Identifier: Apache-2.0
"""Code that runs over a program: drgn's own prompt, a script, a line of code, or what stands on
standard input.

Names are there as drgn's command has them: a prompt, a line and standard input get `prog`, drgn's
and the helpers for Linux; a script gets `prog`.
"""

from __future__ import annotations

import os
import runpy
import sys
from typing import TYPE_CHECKING

from pyvmm.drgn.program import import_drgn
from pyvmm.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import drgn


def run(prog: drgn.Program, code: str | None = None, words: Sequence[str] = ()) -> None:
    """Run `code`, else the script that `words` begins with, else standard input or, at a terminal,
    a prompt.

    What is left of `words` is in sys.argv. Raise ConfigError if the script cannot be read, and what
    the code raises.
    """
    if code is not None:
        run_text(prog, code, "<string>", ["-c", *words])
    elif words:
        run_script(prog, words)
    elif sys.stdin.isatty():
        run_prompt(prog)
    else:
        run_text(prog, sys.stdin.read(), "<stdin>", [""])


def run_prompt(prog: drgn.Program) -> None:
    """Run drgn's prompt until the user leaves it."""
    import_drgn()
    from drgn.cli import run_interactive, version_header

    print(version_header(), file=sys.stderr, flush=True)
    run_interactive(prog)


def run_text(prog: drgn.Program, code: str, name: str, argv: Sequence[str]) -> None:
    """Run statements, as Python's -c does."""
    drgn = import_drgn()
    from drgn.cli import default_globals

    drgn.set_default_prog(prog)
    sys.argv = list(argv)
    sys.path.insert(0, "")
    exec(compile(code, name, "exec"), default_globals(prog))


def run_script(prog: drgn.Program, words: Sequence[str]) -> None:
    """Run a file with its arguments, as Python does."""
    path = words[0]
    if not os.path.isfile(path):
        raise ConfigError(f"{path} is no file; code for drgn to run goes after -c")
    drgn = import_drgn()
    drgn.set_default_prog(prog)
    sys.argv = list(words)
    sys.path.insert(0, os.path.dirname(os.path.abspath(path)))
    runpy.run_path(path, init_globals={"prog": prog}, run_name="__main__")
