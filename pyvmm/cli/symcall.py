# SPDX-License-Identifier: Apache-2.0
"""`pyvmm symcall`: one call into the kernel of a running guest."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from pyvmm.cli import vms
from pyvmm.errors import ConfigError
from pyvmm.launch.number import Whole

if TYPE_CHECKING:
    import argparse

    from pyvmm.control.client import Client

REGISTERS = ("rbx", "rcx", "rdx", "rsi", "rdi")
WORD = (1 << 64) - 1
LINE = 16
#: Bytes of the data area (SYMBIOTIC_DATA_SIZE in include/symbiotic.h).
MOST_DATA = 3072


def add_parser(sub: argparse._SubParsersAction[Any]) -> None:
    """Add the subcommand's options."""
    parser = vms.add_parser(
        sub,
        "symcall",
        "call into the kernel of a running guest",
        "With a number: up to five arguments go into RBX, RCX, RDX, RSI and RDI, and what these hold afterwards is "
        "printed. With the name of a call: its answer, as JSON. Numbers are decimal, 0x..., 0o... or 0b....",
    )
    parser.add_argument(
        "--cpu", metavar="N", type=Whole("vCPU", 0), help="on this vCPU (0; of a name, any)"
    )
    parser.add_argument("--data", metavar="FILE", help="bytes for the data area (- for stdin)")
    parser.add_argument(
        "--want",
        metavar="N",
        type=Whole("number of bytes", 0),
        help="bytes of the data area to print",
    )
    vms.add_vm(parser, required=True)
    parser.add_argument("call", metavar="CALL", help="number, or name: facts, current, tasks, ...")
    parser.add_argument("args", metavar="ARG", nargs="*", help="numbers")


def parse_number(text: str) -> int:
    """Return a 64-bit number of any base; a negative one is its complement. Raise ConfigError."""
    try:
        number = int(text, 0)
    except ValueError:
        raise ConfigError(f"{text!r} is no number; write 17, 0x11, 0o21 or 0b10001") from None
    if not -(1 << 63) <= number <= WORD:
        raise ConfigError(f"{text} does not fit into 64 bits")
    return number & WORD


def parse_call(text: str) -> int | str:
    """Return a number, or the name of a call."""
    return parse_number(text) if text[:1].isdigit() or text[:1] == "-" else text


def read_data(name: str | None) -> str | None:
    """Return the bytes for the data area, in base64. Raise ConfigError."""
    from pyvmm.control.protocol import to_base64

    if name is None:
        return None
    try:
        if name == "-":
            data = sys.stdin.buffer.read(MOST_DATA + 1)
        else:
            with open(name, "rb") as file:
                data = file.read(MOST_DATA + 1)
    except OSError as error:
        raise ConfigError(f"--data {name}: {error.strerror}") from error
    if len(data) > MOST_DATA:
        raise ConfigError(f"--data {name}: more than the {MOST_DATA} bytes that a symcall passes")
    return to_base64(data)


def dump(data: bytes) -> str:
    """Write bytes for people: offset, hexadecimal, text."""
    lines = []
    for at in range(0, len(data), LINE):
        piece = data[at : at + LINE]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in piece)
        lines.append(f"{at:04x}  {piece.hex(' '):{LINE * 3}} {text}")
    return "\n".join(lines)


def show_registers(answer: dict[str, Any]) -> str:
    """Return the results of a call by number, as text."""
    from pyvmm.control.protocol import from_base64

    registers = " ".join(f"{answer[name]:#x}" for name in REGISTERS)
    data = from_base64(answer["data"])
    return registers + ("\n" + dump(data) if data else "")


def main(args: argparse.Namespace) -> int:
    """Make the call and print what it brought."""
    call = parse_call(args.call)
    numbers = [parse_number(text) for text in args.args]
    data = read_data(args.data)

    def question(client: Client) -> int:
        answer = client.call(
            "symcall", call=call, args=numbers, cpu=args.cpu, data=data, want=args.want
        )
        named = isinstance(call, str)
        text = "" if named else show_registers(answer)
        vms.say(answer, as_json=args.json or named, text=text)
        return vms.complete(client)

    return vms.ask(args.vm, question)
