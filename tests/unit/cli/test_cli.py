# SPDX-License-Identifier: Apache-2.0
"""The command line without a KVM: what it makes of arguments, what it says, how it ends."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import pyvmm
from pyvmm import errors, probe
from pyvmm.boot import compression
from pyvmm.cli import doctor, lab, run
from pyvmm.cli.main import COMMANDS, main, overview
from pyvmm.cli.parser import CommandParser, parse
from pyvmm.config import SWAP_SERIAL, SwapConfig
from pyvmm.errors import ConfigError
from pyvmm.guest import cache
from pyvmm.launch import ending, kvmcheck, launch, status
from pyvmm.launch.options import OPTIONS, attribute, quick_parse
from pyvmm.launch.plan import Plan, parse_disk, parse_env, terminal_name
from pyvmm.launch.summary import swap_rows
from pyvmm.machine import result as results
from pyvmm.swap.bypass import MODES
from pyvmm.swap.governor import POLICIES
from tests.support import images as support
from tests.support.fake_vm import FakeSwap, FakeVM
from tests.support.run_options import arguments, run_parser
from tests.support.tree import ROOT

# The program.


@pytest.mark.parametrize("word", ["-h", "--help", "help"])
def test_help(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word]) == status.OK
    assert capsys.readouterr().out == overview() + "\n"


def test_no_arguments_is_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == status.USAGE
    assert "usage: pyvmm" in capsys.readouterr().out


def test_overview_names_every_command_and_status() -> None:
    text = overview()
    for word in [*COMMANDS, *map(str, status.MEANINGS)]:
        assert f"  {word} " in text or f" {word} " in text


@pytest.mark.parametrize("word", ["-V", "--version"])
def test_version(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word]) == status.OK
    assert capsys.readouterr().out == f"pyvmm {pyvmm.__version__}\n"


def test_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fly"]) == status.USAGE
    assert "no command 'fly'" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert "options:" in text
    assert "SUPPRESS" not in text


@pytest.mark.parametrize(
    "words",
    [["run", "--fly"], ["run", "-c", "two"], ["run", "--flat", "x86"], ["guest"], ["doctor", "x"]],
)
def test_bad_arguments(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == status.USAGE
    assert "pyvmm: " in capsys.readouterr().err


def parsers_of(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """The parser and those of its subcommands."""
    subs = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return [parser, *(p for sub in subs for one in sub.choices.values() for p in parsers_of(one))]


@pytest.mark.parametrize("name", COMMANDS)
def test_no_option_may_be_abbreviated(name: str) -> None:
    parser = CommandParser()
    importlib.import_module(f"pyvmm.cli.{name}").add_parser(parser.add_subparsers())
    assert not any(one.allow_abbrev for one in parsers_of(parser))


def test_every_parser_of_the_tree_is_one_that_takes_no_abbreviations() -> None:
    plain = re.compile(r"argparse\.ArgumentParser\((?!Parser)")
    folders = [ROOT / name for name in ("pyvmm", "bench", "tests", ".ci", "csrc", "docs")]
    found = {
        str(path.relative_to(ROOT))
        for folder in folders
        for path in folder.rglob("*.py")
        if "tests/unit" not in str(path) and plain.search(path.read_text())
    }
    assert found == {"bench/sweep/matrix.py"}  # it only asks a parser for its options


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--share", ".", "--", "true"], "there is no option --share"),
        (["--mem", "1G"], "there is no option --mem"),
        (["--mem=1G", "--", "true"], "there is no option --mem=1G"),
        (["uname", "-a"], "comes after --, as in: pyvmm run -- uname -a"),
        (["-m", "1G", "sh", "-c", "exit 3"], "as in: pyvmm run -- sh -c 'exit 3'"),
        (["true"], "as in: pyvmm run -- true"),
        (["-v", "a", "--", "b"], "as in: pyvmm run -- a"),
    ],
)
def test_a_command_comes_after_two_dashes(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["run", *words])
    assert end.value.code == status.USAGE
    assert said in capsys.readouterr().err


def test_the_command_is_all_that_follows() -> None:
    words = ["--memory=1G", "--", "sh", "--memory", "--", "-k"]
    slow, quick = parse(run, "run", ["-vm", "1G", *words[1:]]), quick_parse(words)
    assert quick is not None
    assert slow.command == quick.command == words[2:]
    assert (slow.memory, slow.verbose) == ("1G", True)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ConfigError("x"), status.USAGE),
        (errors.ImageError("x"), status.USAGE),
        (errors.HostError(1, "x"), status.HOST),
        (errors.StateError("x"), status.VMM),
        (errors.Error("x"), status.VMM),
        (KeyboardInterrupt(), status.INTERRUPTED),
    ],
)
def test_errors_become_statuses(
    error: BaseException,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(args: object) -> int:
        raise error

    monkeypatch.setattr(doctor, "main", fail)
    assert main(["doctor"]) == code
    said = capsys.readouterr().err
    assert said.startswith("pyvmm: ") == isinstance(error, errors.Error)


def test_the_reader_of_the_output_may_leave() -> None:
    command = f"{sys.executable} -m pyvmm doctor --json --kvm /nowhere | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr


PROGRAM = (sys.executable, "-m", "pyvmm")


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("words", "code"), [("--help", 0), ("run --help", 0), ("doctor --kvm /nowhere", status.HOST)]
)
@pytest.mark.parametrize(
    ("output", "lost", "said"),
    [
        ("> /dev/full", status.HOST, "standard output: No space left on device"),
        (">&-", status.HOST, "standard output: Bad file descriptor"),
        ("| true", status.BROKEN_PIPE, ""),
    ],
)
def test_output_that_is_lost_is_no_success(
    words: str, code: int, output: str, lost: int, said: str, unbuffered: str
) -> None:
    script = f"{' '.join(PROGRAM)} {words} {output}; exit ${{PIPESTATUS[0]}}"
    env = os.environ | {"PYTHONUNBUFFERED": unbuffered, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-c", script], env=env, capture_output=True, text=True, check=False
    )
    # In a pipe it may have written all before its reader went.
    assert done.returncode in ({lost, code} if output == "| true" else {code or lost})
    assert said in done.stderr
    assert done.stderr.count("standard output") == bool(said)
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


@pytest.mark.parametrize("errors", ["2> /dev/full", "2>&-", "2> >(true)"])
def test_nobody_hears_an_error_and_its_status_stays(errors: str) -> None:
    script = f"{' '.join(PROGRAM)} run --no-such-option {errors}"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    assert subprocess.run(["bash", "-c", script], env=env, check=False).returncode == status.USAGE


def test_names_that_standard_output_has_no_letters_for(tmp_path: Path) -> None:
    name = b"\xff\xc3\xa9\xd0\x96"
    code = f"import sys, os; from pyvmm.cli import stdio; stdio.prepare(); print(os.fsdecode({name!r}))"
    for encoding, shown in (("ascii", b"\xff\\xe9\\u0416\n"), ("utf-8", name + b"\n")):
        env = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONPATH": str(ROOT)}
        assert subprocess.check_output([sys.executable, "-c", code], env=env) == shown


def test_importing_the_program_loads_nothing_heavy() -> None:
    heavy = (
        "argparse json subprocess tempfile pathlib dataclasses inspect asyncio pyvmm.vm pyvmm.lab"
    )
    code = (
        "import sys, pyvmm.cli.main; "
        f"print([name for name in {heavy.split()} if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"


# Exit statuses.


@pytest.mark.parametrize(
    ("reason", "reported", "code"),
    [
        (results.POWEROFF, None, 0),
        (results.POWEROFF, 0, 0),
        (results.REBOOT, 7, 7),
        (results.HALT, 118, 118),
        (results.PANIC, None, status.GUEST_PANIC),
        (results.PANIC, 3, status.GUEST_PANIC),
        (results.TRIPLE_FAULT, None, status.GUEST_FAULT),
        (results.STOPPED, 0, status.STOPPED),
        (results.TIMEOUT, None, status.TIMEOUT),
        *((reason, 0, status.VMM) for reason in sorted(results.VMM_FAULTS)),
    ],
)
def test_ends_become_statuses(reason: str, reported: int | None, code: int) -> None:
    assert status.of_result(reason, reported) == code


def test_every_reason_has_a_status_and_every_status_a_meaning() -> None:
    reasons = {*results.BY_EVENT.values(), results.STOPPED, results.TIMEOUT}
    for reason in reasons:
        code = status.of_result(reason, None)
        assert code == 0 or code in status.MEANINGS
        assert (code == 0) == (reason in results.CLEAN)


def test_statuses_are_distinct() -> None:
    numbers = [
        value for name, value in vars(status).items() if name.isupper() and name != "MEANINGS"
    ]
    assert len(numbers) == len(set(numbers))
    assert all(0 <= number <= 255 for number in numbers)


# pyvmm run: disks and variables.

plain = st.text(st.characters(exclude_characters=",", exclude_categories=("Cs",)), min_size=1)


@given(plain, st.booleans(), st.none() | plain, st.sampled_from([None, "raw"]))
def test_disk_round_trip(name: str, readonly: bool, serial: str | None, kind: str | None) -> None:
    text = name + (",ro" if readonly else "") + (f",serial={serial}" if serial else "")
    text += f",format={kind}" if kind else ""
    assert parse_disk(text) == (name, readonly, serial or "", kind)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,rw", "'rw' is none of"),
        ("a,format=qcow2", "'format=qcow2' is none of"),
        (",ro", "the file is missing"),
        ("", "the file is missing"),
    ],
)
def test_bad_disks(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_disk(text)


def test_variables_for_the_guest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "yes")
    monkeypatch.delenv("GONE", raising=False)
    assert parse_env(["A=1", "HERE", "GONE", "B=x=y", "C="]) == {
        "A": "1",
        "HERE": "yes",
        "B": "x=y",
        "C": "",
    }


def test_variables_for_the_lab(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "yes")
    monkeypatch.delenv("GONE", raising=False)
    assert lab.variables(["A=1", "HERE", "GONE"]) == {"A": "1", "HERE": "yes"}
    with pytest.raises(ConfigError, match="names no variable"):
        lab.variables(["=x"])


def test_the_lab_wants_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lab", "--"]) == status.USAGE
    assert "no command" in capsys.readouterr().err


# pyvmm run: the plan.


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with a few files to name."""
    for name in ("k", "a", "b", "d"):
        (tmp_path / name).write_bytes(bytes(512))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def guest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> cache.Guest:
    """A built guest, of which only the files exist."""
    paths = [tmp_path / name for name in ("bzImage", "vmlinux", "initramfs")]
    for path in paths:
        path.touch()
    made = cache.Guest(*map(str, paths), "6.12.1", "key")
    monkeypatch.setattr("pyvmm.guest.named.find_guest", lambda name: made)
    monkeypatch.setattr("os.isatty", lambda fd: False)
    return made


def test_a_command_runs_in_our_guest_on_a_virtio_console(guest: cache.Guest) -> None:
    plan = Plan(arguments("--env", "A=1", "--", "ls", "-l"))
    assert plan.config.boot.kernel == guest.vmlinux
    assert plan.config.boot.initrd[0] == guest.initramfs
    assert b"ls\0-l\0" in plan.config.boot.initrd[1]  # type: ignore[operator]
    assert b"A=1" in plan.config.boot.initrd[1]  # type: ignore[operator]
    assert plan.console == "virtio"
    words = plan.config.boot.cmdline.split()
    assert {"quiet", "console=ttyS0", "pyvmm.console=hvc0", "pyvmm.raw=1"} <= set(words)


@pytest.mark.parametrize(
    ("term", "passed"),
    [
        ("xterm-256color", "xterm-256color"),
        ("rxvt+x.y_z", "rxvt+x.y_z"),
        ("xterm init=/bin/sh", "linux"),
        ("a\tb", "linux"),
        ('"', "linux"),
        ("", "linux"),
        ("x" * 64, "linux"),
        ("\u00e9", "linux"),
    ],
)
def test_the_kind_of_terminal_is_one_word(term: str, passed: str) -> None:
    assert terminal_name(term) == passed


def test_init_is_told_how_long_the_command_is(guest: cache.Guest) -> None:
    words = Plan(arguments("--", "sh", "-c", "caf\u00e9")).config.boot.cmdline.split()
    assert f"pyvmm.command={len(b'sh_-c_cafe__')}" in words
    assert "pyvmm.command" not in Plan(arguments()).config.boot.cmdline


PARTS = {
    "cpio": b"070701" + bytes(104),
    "padded": bytes(512) + b"070701" + bytes(104),
    "gzip": b"\x1f\x8b\x08" + bytes(20),
    "zstd": b"\x28\xb5\x2f\xfd" + bytes(20),
    "xz": b"\xfd7zXZ\0" + bytes(20),
    "bzip2": b"BZh9" + bytes(20),
    "lz4": b"\x02\x21\x4c\x18" + bytes(20),
    "lz4 without -l": b"\x04\x22\x4d\x18" + bytes(20),
    "text": b"this is no initrd",
    "zeros": bytes(10000),
    "empty": b"",
}


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        *((kind, "") for kind in ("cpio", "padded", "gzip", "zstd")),
        ("xz", "with xz, which this guest's kernel cannot unpack (CONFIG_RD_XZ)"),
        ("bzip2", "with bzip2, which"),
        ("lz4", "with lz4, which"),
        ("lz4 without -l", "make it with lz4 -l"),
        ("text", "neither a cpio archive nor a compressed one"),
        ("zeros", "neither a cpio archive nor a compressed one"),
        ("empty", "it is empty"),
    ],
)
def test_an_initrd_that_the_guest_cannot_unpack_is_named(
    kind: str, said: str, guest: cache.Guest, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("config").write_text("\nCONFIG_RD_GZIP=y\nCONFIG_RD_ZSTD=y\n# CONFIG_RD_XZ is not set\n")
    Path("part").write_bytes(PARTS[kind])
    words = ["run", "--kvm", "/nowhere", "-i", "part", "--", "true"]
    assert main(words) == (status.USAGE if said else status.HOST)
    text = capsys.readouterr().err
    assert said in text
    assert ("--initrd part: " in text) == bool(said)


LZ4_BLOCK = b"\x05\0\0\0block"


@pytest.mark.parametrize(
    ("blocks", "whole"),
    [
        (LZ4_BLOCK, True),
        (LZ4_BLOCK * 2, True),
        (LZ4_BLOCK + compression.LZ4 + LZ4_BLOCK, True),
        (LZ4_BLOCK + b"\0\0", True),
        (LZ4_BLOCK + bytes(4) + b"070701", True),
        (b"", True),
        (LZ4_BLOCK[:-1], False),
        (LZ4_BLOCK + b"\x05\0", False),
        (LZ4_BLOCK + b"070701" + bytes(104), False),
        (b"\xff\xff\xff\xff", False),
    ],
)
def test_lz4_that_is_cut_off_is_refused(
    blocks: bytes, whole: bool, guest: cache.Guest, capsys: pytest.CaptureFixture[str]
) -> None:
    """The guest's kernel would read on behind the initrd."""
    Path("part").write_bytes(b"\0\0" + compression.LZ4 + blocks)
    words = ["run", "--kvm", "/nowhere", "-i", "part", "--", "true"]
    assert main(words) == (status.HOST if whole else status.USAGE)
    assert ("goes on behind the end of the file" in capsys.readouterr().err) != whole


def test_a_kernel_whose_configuration_is_not_known_may_unpack_all(guest: cache.Guest) -> None:
    Path("part").write_bytes(PARTS["xz"])
    assert main(["run", "--kvm", "/nowhere", "-i", "part", "--", "true"]) == status.HOST


LOG = """\
[    1.2] Initramfs unpacking failed: invalid magic at start of compressed archive
[    1.9] pyvmm init: failed: the initramfs has 0 of the 9 bytes of the command
[    2.0] reboot: Power down
"""


def ended(reason: str, code: int | None, log: str = LOG) -> tuple[Any, Any]:
    """A VM with that log, and a result."""
    result = results.Result(reason)
    result.status = code
    return SimpleNamespace(console_log=log.encode), result


def test_the_log_of_a_guest_is_shown_without_what_a_terminal_obeys(
    guest: cache.Guest, capsys: pytest.CaptureFixture[str]
) -> None:
    vm, result = ended(results.PANIC, None, "one\ttwo\r\n\x1b]0;title\x07\x9b2J\nthree")
    ending.explain(vm, Plan(arguments("--", "true")), result)
    said = capsys.readouterr().err
    assert said.endswith("  one     two\n  ?]0;title??2J\n  three\n")


def test_why_init_gave_up_is_told(guest: cache.Guest, capsys: pytest.CaptureFixture[str]) -> None:
    Path("part").write_bytes(PARTS["gzip"])
    plan = Plan(arguments("-i", guest.initramfs, "-i", "part", "--", "true"))
    for reason in (results.POWEROFF, results.REBOOT):
        vm, result = ended(reason, 125)
        ending.explain(vm, plan, result)
        assert "init failed: the initramfs has 0 of the 9 bytes" in result.detail
        assert f"could not unpack the initrd ({guest.initramfs}, part), or a part" in result.detail
        assert capsys.readouterr().err == f"pyvmm: {result.detail}\n"
    # A command may have that status as well.
    vm, result = ended(results.POWEROFF, 125, "pyvmm init: no swap: no disk")
    ending.explain(vm, plan, result)
    assert (result.detail, capsys.readouterr().err) == ("", "")


def test_a_shell_runs_on_the_serial_port(guest: cache.Guest) -> None:
    plan = Plan(arguments())
    assert plan.console == "serial"
    assert "quiet" not in plan.config.boot.cmdline.split()
    assert "pyvmm.console" not in plan.config.boot.cmdline


def test_a_stock_guest_has_no_vmlinux(guest: cache.Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyvmm.guest.named.find_guest", lambda name: guest._replace(vmlinux=""))
    assert Plan(arguments()).config.boot.kernel == guest.kernel


def test_more_vcpus_than_the_kernel_uses(guest: cache.Guest, tmp_path: Path) -> None:
    """It would leave the others alone, without a word on the terminal."""
    config = tmp_path / "config"
    config.write_text("CONFIG_X86=y\nCONFIG_SMP=y\nCONFIG_NR_CPUS=64\nCONFIG_X=y\n")
    Plan(arguments("-c", "64"))
    Plan(arguments("-c", "65", "-k", "k"))
    with pytest.raises(ConfigError, match=r"uses at most 64; .* CONFIG_NR_CPUS=65"):
        Plan(arguments("-c", "65"))
    config.write_text("# CONFIG_SMP is not set\n")
    with pytest.raises(ConfigError, match="uses at most 1;"):
        Plan(arguments("-c", "2"))
    config.unlink()
    Plan(arguments("-c", "65"))


def test_other_kernels_get_no_words_of_ours() -> None:
    plan = Plan(arguments("-k", "k", "-i", "a", "-i", "b", "-p", "root=/dev/vda"))
    assert plan.config.boot[:2] == ("k", ("a", "b"))
    assert "pyvmm." not in plan.config.boot.cmdline
    assert plan.config.boot.cmdline.endswith("root=/dev/vda")


def test_a_kernel_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "-k", "nothing"]) in (status.USAGE, status.HOST)
    assert "nothing" in capsys.readouterr().err


def test_flat_binaries_get_no_words_at_all() -> None:
    assert Plan(arguments("-k", "k", "--flat", "real")).config.boot.cmdline == ""


def test_verbose_wins_over_quiet(guest: cache.Guest) -> None:
    words = Plan(arguments("-v", "--", "true")).config.boot.cmdline.split()
    assert "ignore_loglevel" in words
    assert "quiet" not in words


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["-k", "k", "--", "ls"], "leave -k away"),
        (["-k", "k", "--env", "A=1"], "--env is for the project's own guest"),
        (["-k", "k", "--linux", "6.1"], "--linux is for the project's own guest"),
        (["--flat", "long"], "--flat says how a binary of yours starts; add -k"),
        (["-k", "k", "--flat", "real", "-p", "quiet"], "has no kernel command line"),
        (["-k", "k", "--log", "-"], "standard output is /dev/stdout"),
        (["-d", "x,y", "-k", "k"], "none of ro, serial=S"),
        (
            ["--linux", "5.4"],
            "no guest '5.4'; there are 6.12, 6.1, stock-6.12, stock-6.1, the first two also with -debug or",
        ),
    ],
)
def test_plans_that_cannot_work(words: list[str], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        Plan(arguments(*words))


def test_a_guest_that_is_not_built(guest_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--linux", "6.1"]) == status.USAGE
    assert "run: pyvmm guest build --linux 6.1" in capsys.readouterr().err


def test_dry_run_says_what_would_be_started(
    guest: cache.Guest, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", "--dry-run", "-m", "1G", "-c", "3", "-d", "d,ro,serial=S", "--net", "tap0"]
    assert main([*words, "--kvm", "/nowhere", "--", "true"]) == status.OK
    said = json.loads(capsys.readouterr().out)
    assert said["disks"] == [{"file": "d", "readonly": True, "serial": "S", "format": None}]
    assert (said["memory"], said["cpus"], said["net"]) == ("1G", 3, ["tap0"])
    assert (said["kernel"], said["command"]) == (guest.vmlinux, ["true"])


# pyvmm run: the swap disk.


def test_no_swap_unless_asked_for(guest: cache.Guest) -> None:
    plan = Plan(arguments())
    assert plan.swap is None
    assert "pyvmm.swap" not in plan.config.boot.cmdline
    assert plan.as_dict()["swap"] is None


def test_the_guest_is_told_of_its_swap_disk(guest: cache.Guest) -> None:
    plan = Plan(arguments("--swap", "64M"))
    assert f"pyvmm.swap={SWAP_SERIAL}" in plan.config.boot.cmdline.split()
    assert plan.as_dict()["swap"] == {
        "size": "64M",
        "bypass": "off",
        "policy": "pressure",
        "quota": None,
        "backing": None,
        "serial": SWAP_SERIAL,
    }
    assert "pyvmm.swap" not in Plan(arguments("-k", "k", "--swap", "64M")).config.boot.cmdline


def test_every_word_about_swap_arrives(guest: cache.Guest) -> None:
    words = ["--swap=1G", "--swap-bypass=direct", "--swap-quota=512M", "--swap-file=f"]
    swap = Plan(arguments(*words)).swap
    assert swap is not None
    assert swap == SwapConfig(1 << 30, "direct", backing="f", policy="quota", quota=512 << 20)
    words = ["--swap=1G", "--swap-policy=never"]
    assert Plan(arguments(*words)).swap == SwapConfig(1 << 30, policy="never")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--swap-bypass", "off"], "--swap-bypass says how to swap; add --swap SIZE"),
        (["--swap-policy", "never"], "--swap-policy says"),
        (["--swap-quota", "1M"], "--swap-quota says"),
        (["--swap-file", "f"], "--swap-file says"),
        (["--swap", "8M", "--swap-policy", "quota"], "go together"),
        (["--swap", "8M", "--swap-policy", "always", "--swap-quota", "1M"], "go together"),
    ],
)
def test_swap_that_cannot_be(words: list[str], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        Plan(arguments("-k", "k", *words))


def test_modes_and_policies_are_those_of_the_machine() -> None:
    choices = {attribute(names): words.get("choices", ()) for names, words in OPTIONS}
    assert choices["swap_bypass"] == MODES
    assert sorted(choices["swap_policy"]) == sorted(POLICIES)


def test_swap_in_the_summary() -> None:
    swap = FakeSwap()
    text = "\n".join(f"{name} {value}" for name, value in swap_rows(swap.stats))
    assert text == (
        "swap disk 2.0 MiB of 4.0 MiB used at the end\n"
        "  by its queue 3.0 MiB written, 160 KiB read\n"
        "  bypass symcall 400 faults offered, 375 mapped, 25 refused"
    )
    swap.mode, swap.offered = "off", 0
    assert len(swap_rows(swap.stats)) == 2


def test_swap_in_the_record() -> None:
    vm: Any = FakeVM()
    assert launch._swap_record(vm) is None
    vm.swap = FakeSwap()
    record = json.loads(json.dumps(launch._swap_record(vm)))
    assert (record["mode"], record["host"]["stall"]) == ("symcall", 12.5)


def test_a_kvm_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kernel = tmp_path / "k"
    kernel.touch()
    assert main(["run", "-k", str(kernel), "--kvm", str(tmp_path / "kvm")]) == status.HOST
    assert str(tmp_path / "kvm") in capsys.readouterr().err


def test_a_multiboot_kernel_gets_the_users_words_alone(tmp_path: Path) -> None:
    """Its first argument would be a parameter of Linux otherwise."""
    kernel, module = tmp_path / "k", tmp_path / "m"
    kernel.write_bytes(support.multiboot_header() + bytes(100))
    module.touch()
    words = ("-k", str(kernel), "-p", "cpuid 3", "-i")
    planned = Plan(arguments(*words, f"{module} with words"))
    assert planned.config.boot.cmdline == "cpuid 3"
    planned.check_files()
    with pytest.raises(ConfigError, match="no such file"):
        Plan(arguments(*words, f"{tmp_path}/absent with words")).check_files()
    assert "panic=-1" in Plan(arguments("-k", str(tmp_path / "absent"))).config.boot.cmdline


def test_named_files_that_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kernel, missing = tmp_path / "k", str(tmp_path / "missing")
    kernel.touch()
    for options in (["-k", missing], ["-k", str(kernel), "-i", missing], ["-d", missing]):
        assert main(["run", "--kvm", "/nowhere", "-k", str(kernel), *options]) == status.USAGE
        assert f"{missing}: there is no such file" in capsys.readouterr().err


# pyvmm run: what it writes.


def refused(*words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A run of a kernel that is none, which is found out after all that is tested here."""
    assert main(["run", "--kvm", "/nowhere", "-k", "k", *words]) == status.USAGE
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--json", "--log"])
def test_files_that_cannot_be_written(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = str(tmp_path / "no" / "file")
    refused(option, missing, said=f"{option} {missing}: No such file", capsys=capsys)


@pytest.mark.parametrize("option", ["--json", "--log"])
def test_a_run_that_does_not_start_changes_no_file(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("old").write_text("kept")
    for name in ("old", "new"):
        assert main(["run", "--kvm", "/nowhere", "-k", "k", option, name]) == status.HOST
    assert Path("old").read_text() == "kept"
    assert not Path("new").exists()


@pytest.mark.parametrize("option", ["--json", "--log"])
@pytest.mark.parametrize(
    ("words", "name"),
    [
        ((), "k"),
        (("-i", "a"), "a"),
        (("-d", "d"), "d"),
        (("-d", "d,ro"), "d"),
        (("--swap", "2M", "--swap-file", "b"), "b"),
        (("-d", "d"), "link"),
        (("-d", "d"), "hard"),
        (("-d", "link"), "hard"),
    ],
)
def test_what_a_run_writes_is_nothing_else_that_it_names(
    option: str, words: tuple[str, ...], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    os.symlink("d", "link")
    os.link("d", "hard")
    before = {path.name: path.read_bytes() for path in Path().iterdir()}
    refused(*words, option, name, said="is the same file as", capsys=capsys)
    assert {path.name: path.read_bytes() for path in Path().iterdir()} == before


def test_two_outputs_are_two_files(capsys: pytest.CaptureFixture[str]) -> None:
    refused("--log", "x", "--json", "x", said="--json x is the same file as --log x", capsys=capsys)
    assert not Path("x").exists()
    refused("-d", "d", "-d", "./d", said="--disk ./d is the same file as --disk d", capsys=capsys)
    refused("-d", "d,ro", "-d", "d", said="is the same file as", capsys=capsys)
    assert main(["run", "--kvm", "/nowhere", "-k", "k", "-d", "d,ro", "-d", "d,ro"]) == status.HOST
    words = ["--log", "/dev/null", "--json", "/dev/null"]
    assert main(["run", "--kvm", "/nowhere", "-k", "k", *words]) == status.HOST


def test_an_output_that_is_also_standard_output() -> None:
    command = [sys.executable, "-m", "pyvmm", "run", "--kvm", "/nowhere", "-k", "k", "--log"]
    with open("out", "w+") as out:
        done = subprocess.run(
            [*command, "out"], stdout=out, stderr=subprocess.PIPE, text=True, check=False
        )
        assert done.returncode == status.USAGE
        assert "standard output is the same file as --log out" in done.stderr
        done = subprocess.run([*command, "/dev/stdout"], stdout=out, check=False)
        assert done.returncode == status.HOST


class FakeOutputs:
    """With a record that cannot be written, for want of room or of a reader."""

    def __init__(self, error: OSError) -> None:
        self.error = error
        self.record = self

    def write(self, data: bytes) -> None:
        raise self.error


@pytest.mark.parametrize(
    ("error", "code", "left"),
    [
        (errors.HostError(28, "no room"), 0, status.HOST),
        (errors.HostError(28, "no room"), 7, 7),
        (errors.HostError(28, "no room"), status.GUEST_PANIC, status.GUEST_PANIC),
        (BrokenPipeError(), 0, status.BROKEN_PIPE),
        (BrokenPipeError(), 3, 3),
    ],
)
def test_a_record_that_is_lost_is_no_success(
    error: OSError, code: int, left: int, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs: Any = FakeOutputs(error)
    assert launch._write_record({}, outputs, code) == left
    assert ("no room" in capsys.readouterr().err) == isinstance(error, errors.HostError)


# pyvmm run: the parser for plain cases.

OPTION_NAMES = sorted(
    {name for action in run_parser()._actions for name in action.option_strings} - {"-h", "--help"}
)
values = st.sampled_from(
    [
        "1",
        "2.5",
        "x",
        "",
        "-",
        "-1",
        "a b",
        "serial",
        "virtio",
        "real",
        "2M",
        "x,ro",
        "=",
        "--",
        "A=1",
    ]
)
pieces = st.one_of(
    st.sampled_from(OPTION_NAMES).map(lambda name: [name]),
    st.tuples(st.sampled_from(OPTION_NAMES), values).map(list),
    st.tuples(st.sampled_from(OPTION_NAMES), values).map(lambda pair: [f"{pair[0]}={pair[1]}"]),
    values.map(lambda value: [value]),
)


@settings(max_examples=600)
@given(st.lists(pieces, max_size=5))
def test_quick_parsing_agrees_with_argparse(chosen: list[list[str]]) -> None:
    words = [word for piece in chosen for word in piece]
    # The argparse of Python 3.11 makes an empty list of the value in --option=--.
    assume(not any(word.endswith("=--") for word in words))
    quick = quick_parse(words)
    if quick is not None:
        slow = run_parser().parse_args(words)
        assert {name: getattr(quick, name) for name in vars(slow)} == vars(slow)


# pyvmm run on a KVM that is too slow.


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A KVM that emulates; the list gets the devices that were probed."""
    asked: list[str] = []

    def probed(path: str) -> probe.Probe:
        asked.append(path)
        return finding(backend="kvm_soft", instructions_per_second=1e6)

    monkeypatch.setattr(kvmcheck, "FAST", ())
    monkeypatch.setattr(probe, "probe", probed)
    return asked


def test_a_kvm_that_is_too_slow_is_told_before_the_start(
    guest: cache.Guest, slow: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--log", "new", "--", "true"]) == status.HOST
    said = capsys.readouterr().err
    assert "too slow for Linux; use the lab" in said
    assert "pyvmm lab -- pyvmm run" in said
    assert (slow, Path("new").exists()) == (["/dev/kvm"], False)


def test_a_fast_kvm_is_not_probed(
    guest: cache.Guest, slow: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kvmcheck, "FAST", ("/nowhere", "/sys"))
    assert main(["run", "--kvm", "/nowhere", "--", "true"]) == status.HOST
    assert slow == []


@pytest.mark.parametrize("linux", [True, False])
def test_a_linux_that_a_slow_kvm_cannot_run_gets_advice_in_place_of_a_dump(
    linux: bool, slow: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("k").write_bytes(bytes(0x202) + (b"HdrS" if linux else bytes(4)))
    vm, result = ended(results.INTERNAL_ERROR, None, "")
    result.dump = "rip 1234"
    ending.explain(vm, Plan(arguments("-k", "k")), result)
    said = capsys.readouterr().err
    assert ("rip 1234" in said, "use the lab" in said) == (not linux, linux)
    assert "ended by internal-error" in said


# pyvmm doctor.


def finding(**changed: Any) -> probe.Probe:
    values: dict[str, Any] = {
        "path": "/dev/kvm",
        "error": "",
        "remedy": "",
        "backend": "kvm_amd",
        "paging": "npt",
        "api": 12,
        "capabilities": {name: 1 for name, _, _ in probe.CAPABILITIES},
        "max_vcpus": 8,
        "exit_seconds": 12.3e-6,
        "instructions_per_second": 2e9,
        "lab": "",
    }
    return probe.Probe(**(values | changed))


@pytest.mark.parametrize(
    ("found", "code", "words"),
    [
        (finding(), 0, "Linux boots here, on kvm_amd"),
        (finding(instructions_per_second=1.4e6), 1, "at 1.4 million instructions a second"),
        (finding(capabilities={}), 1, "this KVM lacks KVM_CAP_USER_MEMORY"),
        (finding(error="no such device"), status.HOST, "KVM cannot be used here: no such device"),
    ],
)
@pytest.mark.parametrize("as_json", [True, False])
def test_doctor(
    found: probe.Probe,
    code: int,
    words: str,
    as_json: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(probe, "probe", lambda path: found)
    assert main(["doctor", *(["--json"] if as_json else [])]) == code
    text = capsys.readouterr().out
    assert words in (json.loads(text)["verdict"] if as_json else text.splitlines()[-1])


def test_doctor_marks_what_is_missing() -> None:
    text = "\n".join(doctor.lines(finding(capabilities={"KVM_CAP_IRQCHIP": 1})))
    assert "irqchip                      yes " in text
    assert "irqfd                        NO " in text
    assert "sync_regs                    no " in text
    assert "12.3 us" in text


def test_a_device_that_is_no_kvm() -> None:
    found = probe.probe("/dev/null")
    assert not found.usable
    assert "/dev/null" in found.verdict


def test_json_of_doctor_has_every_field() -> None:
    record = doctor.as_dict(finding())
    assert set(record) == {
        *probe.Probe._fields,
        *("usable", "missing", "software", "boots_linux", "verdict"),
    }
    json.dumps(record)
