# SPDX-License-Identifier: Apache-2.0
"""How commands fail: numbers that cannot be, exceptions that nobody expected, too few descriptors."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pyvmm.cli import info
from pyvmm.cli.main import main
from pyvmm.errors import ConfigError, HostError
from pyvmm.launch import failure, status
from pyvmm.machine import symbiosis
from pyvmm.quantity import LONGEST, check_seconds, parse_size
from pyvmm.swap.governor import policy_number

ABSURD = ("inf", "-inf", "nan", "1e10", "-1", "", "x", "9" * 5000)

OPTIONS = [
    ("run", "--timeout"),
    ("run", "--cpus"),
    ("lab", "--timeout"),
    ("lab", "--cpus"),
    ("bench", "--rounds"),
    ("bench", "--budget"),
    ("bench", "--repeat"),
    ("bench", "--cell-timeout"),
    ("ps", "--cpu"),
    ("symcall", "--cpu"),
    ("symcall", "--want"),
    ("top", "--interval"),
    ("top", "--count"),
    ("swap", "--evict"),
]


@pytest.mark.parametrize(("command", "option"), OPTIONS, ids=" ".join)
@pytest.mark.parametrize("text", ABSURD, ids=lambda text: text[:10] or "empty")
def test_numbers_that_cannot_be(
    command: str, option: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, f"{option}={text}"])
    assert ended.value.code == status.USAGE
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith("pyvmm: argument ")
    assert option in last
    assert len(last) < 200


@pytest.mark.parametrize("option", ["--memory", "--swap", "--swap-quota"])
@pytest.mark.parametrize("text", ["99999999999T", "9" * 5000, "8388608T", "nan", "1e3", "-1", ""])
def test_sizes_that_cannot_be(option: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=r"a size|than any machine has"):
        parse_size(text, option)


@pytest.mark.parametrize(("command", "option"), OPTIONS, ids=" ".join)
def test_a_negative_value_is_a_value(
    command: str, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """argparse alone takes -5M for an option, and says that the value is missing."""
    with pytest.raises(SystemExit) as ended:
        main([command, option, "-5M"])
    assert ended.value.code == status.USAGE
    *_, last = capsys.readouterr().err.splitlines()
    assert option in last
    assert "'-5M' is no " in last


@pytest.mark.parametrize("option", ["-m", "--memory", "--swap", "--swap-quota"])
def test_a_negative_size_is_a_size(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    quota = ["--swap", "1G", "--swap-policy", "quota"] if option == "--swap-quota" else []
    words = ["-k", os.devnull, "--flat", "real", *quota, option, "-5M"]
    assert main(["run", "--dry-run", *words]) == status.USAGE
    assert "'-5M' is not a size; write a number with K, M, G or T" in capsys.readouterr().err


def test_sizes_at_the_edge() -> None:
    assert parse_size("8388607T") == 8388607 << 40
    for wrong in (1 << 63, -(1 << 63), 1.5, float("nan"), None):
        with pytest.raises(ConfigError):
            parse_size(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("seconds", [float("inf"), float("nan"), 1e10, 10**400, "x", None])
def test_times_that_cannot_be_waited(seconds: Any) -> None:
    with pytest.raises(ConfigError, match="a timeout"):
        check_seconds(seconds, "a timeout")


def test_times_that_can_be() -> None:
    assert check_seconds(-1, "a timeout") == 0
    assert check_seconds(LONGEST, "a timeout") == LONGEST


@pytest.mark.parametrize("deadline", [float("nan"), float("inf"), 0, -1, 1e10, None])
def test_deadlines_that_cannot_be(deadline: Any) -> None:
    with pytest.raises(ConfigError, match="a symcall deadline"):
        symbiosis.check_deadline(deadline)


@pytest.mark.parametrize("quota", [-1, 1 << 63, 10**40])
def test_quotas_that_cannot_be(quota: int) -> None:
    with pytest.raises(ConfigError, match="swap quota"):
        policy_number("quota", quota)


def test_an_exception_that_nobody_expected(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(args: Any) -> int:
        raise ZeroDivisionError("over\nthere")

    monkeypatch.setattr(info, "main", fail)
    assert main(["info"]) == status.VMM
    said = capsys.readouterr().err
    assert said == (
        "pyvmm: an error of pyvmm itself: ZeroDivisionError: over there; with --verbose it says where\n"
    )
    assert main(["info", "--verbose"]) == status.VMM
    assert "in fail\n    raise ZeroDivisionError" in capsys.readouterr().err


def test_what_the_host_refused_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    error = HostError(errno.EBUSY, "swap file f is in use")
    assert failure.told(error) == status.HOST
    assert capsys.readouterr().err == "pyvmm: swap file f is in use\n"
    assert error.errno == errno.EBUSY


def test_memory_that_ran_out() -> None:
    text, code = failure.judge(MemoryError())
    assert ("no more memory" in text, code) == (True, status.HOST)


def test_too_few_descriptors_whatever_came_of_it() -> None:
    """What could not be opened may have been a module."""
    short = OSError(errno.EMFILE, "Too many open files")
    for error in (short, HostError(errno.ENFILE, "x"), ImportError("cannot import name 'x'")):
        try:
            try:
                raise short
            except OSError:
                raise error  # noqa: B904
        except Exception as caught:
            text, code = failure.judge(caught)
        assert ("raise ulimit -n" in text, code) == (True, status.HOST)


def test_a_chain_of_causes_without_end() -> None:
    one, two = ValueError(1), ValueError(2)
    one.__cause__, two.__cause__ = two, one
    assert failure.judge(one)[1] == status.VMM


def limited() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (12, 12))


def test_a_run_with_few_descriptors(tmp_path: Path) -> None:
    """Without a KVM it is the KVM that is missing; with one, the descriptors: never a traceback, never the guest's."""
    flat = tmp_path / "flat"
    flat.write_bytes(b"\xf4")
    words = ["run", "-k", str(flat), "--flat", "protected", "-m", "2M", "-c", "40", "--timeout=9"]
    ran = subprocess.run(
        [sys.executable, "-m", "pyvmm", *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limited,
        timeout=120,
    )
    assert (ran.returncode, len(ran.stderr.splitlines())) == (status.HOST, 1), ran.stderr
    assert "ulimit -n" in ran.stderr or not os.path.exists("/dev/kvm"), ran.stderr


def test_a_script_of_drgn_that_raises(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Is the user's: a traceback, and Python's status."""
    from pyvmm.cli import drgn
    from pyvmm.drgn import session

    def fail(*args: Any) -> None:
        raise KeyError("no_such_symbol")

    monkeypatch.setattr(session, "run", fail)
    assert drgn.run_session(SimpleNamespace(), "code", []) == 1
    assert "KeyError: 'no_such_symbol'" in capsys.readouterr().err
