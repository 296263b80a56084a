# SPDX-License-Identifier: Apache-2.0
"""What is said about a run that ended badly."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pyvmm.guest import cache
from pyvmm.launch import ending
from pyvmm.launch.plan import Plan
from pyvmm.machine import result as results
from tests.support.run_options import arguments

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
    Path("part").write_bytes(b"\x1f\x8b\x08" + bytes(20))
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


def test_parameters_that_take_the_console_away_are_named(guest: cache.Guest) -> None:
    log = "pyvmm init: failed: console /dev/hvc0 did not appear within 10 s\n"
    hindered = Plan(arguments("-p", "noapic quiet acpi=off", "--", "true"))
    assert "leave noapic acpi=off away" in ending.init_failure(log, hindered)
    other = Plan(arguments("-p", "pyvmm.console=hvc9", "--", "true"))
    assert ending.init_failure(log, other).endswith("did not appear within 10 s")
