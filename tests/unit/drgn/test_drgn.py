# SPDX-License-Identifier: Apache-2.0
"""drgn over a made-up kernel: its memory, and a session's code, script and prompt."""

from __future__ import annotations

import io
import sys

import drgn
import pytest

from pyvmm.drgn import make_program, session
from pyvmm.drgn.program import reader
from pyvmm.errors import ConfigError, GuestDataError
from tests.support.madeup_kernel import BUILD_ID, ROOT, TABLE, elf, facts, guest, text


def test_drgn_reads_through_the_page_tables():
    """As far as a kernel without code lets drgn come: to its memory, by physical and by virtual address."""
    memory = guest()
    prog = drgn.Program(drgn.Platform(drgn.Architecture.X86_64), vmcoreinfo=text())
    for region in memory.ram:
        prog.add_memory_segment(region.gpa, region.size, reader(memory), True)
    prog.set_linux_kernel_custom(text(), True)
    memory.write((4 << 30) + 16, b"high")
    assert prog.read((4 << 30) + 16, 4, physical=True) == b"high"
    assert prog.read(TABLE, 4096) == memory.read(ROOT, 4096)
    with pytest.raises(drgn.FaultError):
        prog.read(3 << 30, 4, physical=True)
    with pytest.raises(drgn.FaultError):
        prog.read(TABLE + 4096, 4)


@pytest.mark.parametrize("changes", [{"PAGESIZE": None}, {"PAGESIZE": "many"}, {"BUILD-ID": "zz"}])
def test_note_that_drgn_refuses(changes, info, tmp_path):
    path = elf(tmp_path, build_id="" if "BUILD-ID" in changes else BUILD_ID)
    with pytest.raises(GuestDataError, match="drgn cannot begin with it"):
        make_program(guest(text(**changes)), facts(), path)


def test_drgn_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "drgn", None)
    with pytest.raises(ConfigError, match=r"pip install 'pyvmm-kvm\[drgn\]'"):
        make_program(guest(), facts())


def test_code(prog, capsys):
    session.run(
        prog, code="import sys; print(sys.argv, for_each_task.__name__, prog.flags)", words=["a"]
    )
    assert capsys.readouterr().out.startswith(
        "['-c', 'a'] for_each_task ProgramFlags.IS_LINUX_KERNEL"
    )


def test_script(prog, capsys, tmp_path):
    (tmp_path / "beside.py").write_text("NAME = 'beside'\n")
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, beside, drgn\n"
        "assert drgn.get_default_prog() is prog\n"
        "print(sys.argv[1:], __name__, beside.NAME)\n"
        "raise SystemExit(3)\n"
    )
    with pytest.raises(SystemExit) as end:
        session.run(prog, words=[str(script), "a", "--b"])
    assert end.value.code == 3
    assert capsys.readouterr().out == "['a', '--b'] __main__ beside\n"


def test_script_that_is_none(prog):
    with pytest.raises(ConfigError, match="is no file"):
        session.run(prog, words=["print(1)"])


def test_standard_input(prog, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("print(prog.platform.arch.name)"))
    session.run(prog)
    assert capsys.readouterr().out == "X86_64\n"


def test_prompt(prog, monkeypatch):
    """At a terminal drgn's own prompt is opened on the program."""
    seen = []
    monkeypatch.setattr("drgn.cli.run_interactive", seen.append)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    session.run(prog)
    assert seen == [prog]
