# SPDX-License-Identifier: Apache-2.0
"""The command line: one module per subcommand, loaded only when named."""

from __future__ import annotations

import importlib
import sys

from pyvmm.cli import stdio
from pyvmm.launch import status

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from typing import Any

#: Subcommand -> what its line in the help says. The module is pyvmm.cli.<name>.
COMMANDS = {
    "run": "boot a guest, or run one command in it",
    "demo": "boot the project's Linux guest and show what happened",
    "doctor": "say what KVM this machine has and what it can run",
    "drgn": "debug the kernel of a running guest with drgn",
    "guest": "build, list and remove guest kernels",
    "list": "list the running VMs",
    "info": "say what a running VM is and has done",
    "pause": "stop the vCPUs of a running VM until pyvmm resume",
    "resume": "let a paused VM go on",
    "stop": "end a running VM, or ask its guest to shut down",
    "ps": "show the processes of a running guest",
    "top": "watch a running VM: its load, its exits, its guest's memory and swapping",
    "swap": "show and change how a running guest uses its swap disk",
    "symcall": "call into the kernel of a running guest",
    "bench": "measure pyvmm against its peers, and make one report of it",
    "lab": "run a command inside an outer Linux with emulated SVM or VT-x",
}


def overview() -> str:
    """Return the help of the command itself."""
    lines = ["usage: pyvmm COMMAND [OPTIONS]", "", "A virtual machine monitor on Linux KVM.", ""]
    lines += [f"  {name:8} {text}" for name, text in COMMANDS.items()]
    lines += ["", "pyvmm COMMAND --help says more. Exit statuses:", ""]
    lines += [f"  {number:8} {text}" for number, text in status.MEANINGS.items()]
    return "\n".join(lines)


def _parse(module: Any, name: str, rest: Sequence[str]) -> argparse.Namespace:
    from pyvmm.cli.parser import parse

    return parse(module, name, rest)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return the exit status, one of `pyvmm.launch.status`."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _choose(arguments)
    except stdio.OutputError:
        return status.HOST
    except KeyboardInterrupt:
        return status.INTERRUPTED
    except BrokenPipeError:
        return status.BROKEN_PIPE  # whoever read our output is gone
    except Exception as error:
        from pyvmm.launch import failure

        ours = arguments[: arguments.index("--")] if "--" in arguments else arguments
        return failure.told(error, verbose="--verbose" in ours or "-v" in ours)


def _choose(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview())
        return status.OK if arguments else status.USAGE
    if arguments[0] in ("-V", "--version"):
        import pyvmm

        print(f"pyvmm {pyvmm.__version__}")
        return status.OK
    if arguments[0] not in COMMANDS:
        print(f"pyvmm: no command {arguments[0]!r}; see pyvmm --help", file=sys.stderr)
        return status.USAGE
    return _run(arguments[0], arguments[1:])


def _run(name: str, rest: Sequence[str]) -> int:
    module: Any = importlib.import_module(f"pyvmm.cli.{name}")
    quick = getattr(module, "quick_parse", None)
    args = quick(rest) if quick else None
    return int(module.main(args or _parse(module, name, rest)))


def entry() -> None:
    """Run the `pyvmm` program."""
    stdio.prepare()
    try:
        code = main()
    except SystemExit as end:  # argparse, for --help too
        code = stdio.code_of(end)
    sys.exit(stdio.finish(code))
