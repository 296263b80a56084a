# SPDX-License-Identifier: Apache-2.0
"""The command `pyvmm drgn`: its words, a VM that cannot be asked, another process's memory."""

from __future__ import annotations

import argparse
import os
import sys

import drgn
import pytest

from pyvmm.cli import drgn as command
from pyvmm.errors import ConfigError, SymcallError
from tests.support.madeup_kernel import MIB, facts


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    args = parser.parse_args(["drgn", *words])
    command.take_options(args)
    return args


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["box"], (None, None, [])),
        (["--vmlinux", "v", "-c", "code", "box"], ("v", "code", [])),
        (["box", "--vmlinux", "v", "-c", "code", "a", "-b"], ("v", "code", ["a", "-b"])),
        (["-c", "code", "box", "--vmlinux", "v"], ("v", "code", [])),
        (["box", "script.py", "-c", "a"], (None, None, ["script.py", "-c", "a"])),
        (["box", "--", "script.py", "-c"], (None, None, ["script.py", "-c"])),
        (["box", "-c", "code", "--", "--vmlinux"], (None, "code", ["--vmlinux"])),
    ],
)
def test_words_of_the_command(words, expected):
    args = parsed(*words)
    assert (args.name, args.vmlinux, args.code, args.words) == ("box", *expected)


@pytest.mark.parametrize("words", [["box", "--vmlinux"], ["box", "-c"]])
def test_option_without_its_value(words):
    with pytest.raises(ConfigError, match="expected one argument"):
        parsed(*words)


class Client:
    """A connection to a VM whose guest answers, or does not."""

    name = "box"

    def __init__(self, answer: dict[str, object] | Exception) -> None:
        self.answer = answer

    def call(self, op: str) -> dict[str, object]:
        assert op == "facts"
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_facts_over_the_socket():
    assert command.facts_of(Client(facts()._asdict())) == facts()


@pytest.mark.parametrize("reason", ["absent", "disabled", "deadline"])
def test_guest_that_cannot_be_asked(reason):
    assert command.facts_of(Client(SymcallError("no", reason))) is None


def test_guest_that_answers_with_an_error():
    with pytest.raises(SymcallError):
        command.facts_of(Client(SymcallError("no", "error", 22)))


def test_vm_of_another_version():
    with pytest.raises(ConfigError, match="another version of pyvmm"):
        command.facts_of(Client({"news": 1}))


def test_command_without_drgn(monkeypatch):
    monkeypatch.setitem(sys.modules, "drgn", None)
    with pytest.raises(ConfigError, match=r"pip install 'pyvmm-kvm\[drgn\]'"):
        command.main(parsed("box"))


def test_command_over_another_process(monkeypatch, capsys, other):
    """From the client's side of the socket to the first line of code, with a stand-in for the program."""
    _, address, fd = other
    seen = {}

    class Connection(Client):
        def memory(self):
            return os.dup(fd), [[0, MIB, address]]

        def __enter__(self):
            return self

        def __exit__(self, *exc):
            pass

    def make(memory, known, path):
        seen["head"], seen["facts"], seen["path"] = memory.read(0, 4), known, path
        return drgn.Program()

    monkeypatch.setattr("pyvmm.control.client.connect", lambda name: Connection(facts()._asdict()))
    monkeypatch.setattr("pyvmm.drgn.make_program", make)
    assert command.main(parsed("box", "--vmlinux", "v", "-c", "print(prog.flags)")) == 0
    assert seen == {"head": b"head", "facts": facts(), "path": "v"}
    assert "ProgramFlags" in capsys.readouterr().out
    drgn.set_default_prog(None)
