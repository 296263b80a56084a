# SPDX-License-Identifier: Apache-2.0
"""The lab with VT-x as its user sees it, all in one machine. Times are limits against hanging, not expectations."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pyvmm.lab import Lab
from pyvmm.lab.vmx import BOOT_TIMEOUT
from tests.support.tree import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT = 2 * BOOT_TIMEOUT


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(arch="vmx") as machine:
        yield machine
        # Whatever the tests did, the machine still serves.
        assert shell(machine, "true") == (0, b"", b"")


def shell(
    lab: Lab, text: str, *more: str, stdin: object = subprocess.DEVNULL
) -> tuple[int, bytes, bytes]:
    """Exit status, output and errors of a script."""
    out, err = io.BytesIO(), io.BytesIO()
    command = ["sh", "-c", text, *more]
    status = lab.run(command, stdin=stdin, stdout=out, stderr=err, timeout=LIMIT)  # type: ignore[arg-type]
    return status, out.getvalue(), err.getvalue()


# -- the machine


def test_kvm_is_that_of_intel(lab: Lab) -> None:
    script = (
        "test -c /dev/kvm && cat /sys/module/kvm_intel/parameters/ept; echo $PYVMM_LAB; hostname"
    )
    assert shell(lab, script) == (0, b"Y\nvmx\nlab\n", b"")


def test_the_processor_has_vt_x(lab: Lab) -> None:
    status, out, _ = shell(lab, "cat /proc/cpuinfo")
    words = set(out.split())
    assert status == 0
    assert {b"vmx", b"ept", b"vpid", b"unrestricted_guest"} <= words
    assert b"svm" not in words


@pytest.mark.rest
def test_what_runs_a_guest_can_be_interrupted(lab: Lab) -> None:
    """A guest that loops with interrupts off leaves the processor to others: Bochs alone does not see to that."""
    test = "tests/bare/test_kvm_run.py::test_a_signal_interrupts"
    status, out, err = shell(
        lab, f"{sys.executable} -m pytest -q --assert=plain -p no:cacheprovider {test}"
    )
    assert status == 0, (out, err)
    assert b"1 passed" in out


@pytest.mark.parametrize(
    ("script", "status"), [("true", 0), ("false", 1), ("exit 7", 7), ("kill -9 $$", 137)]
)
def test_exit_status(lab: Lab, script: str, status: int) -> None:
    assert shell(lab, script) == (status, b"", b"")


def test_a_command_that_does_not_exist(lab: Lab) -> None:
    err = io.BytesIO()
    assert lab.run(["no-such-command"], stdin=subprocess.DEVNULL, stderr=err, timeout=LIMIT) == 127
    assert b"no-such-command: command not found" in err.getvalue()


def test_streams_are_separate_and_exact(lab: Lab, tmp_path: Path) -> None:
    data = bytes(range(256)) * 64
    file = tmp_path / "input"
    file.write_bytes(data)
    with file.open("rb") as stdin:
        status, out, err = shell(lab, "echo odd >&2; cat; exit 3", stdin=stdin)
    assert (status, out, err) == (3, data, b"odd\n")


def test_arguments_arrive_as_they_are(lab: Lab) -> None:
    words = ["a b", "", "'\"$x", "ü", "-n"]
    status, out, _ = shell(lab, 'printf "[%s]" "$@"', "sh", *words)
    assert (status, out.decode()) == (0, "".join(f"[{word}]" for word in words))


def test_python_and_the_project_came_along(lab: Lab) -> None:
    script = f"pwd; {sys.executable} -c 'import pyvmm, pytest; print(pyvmm.__file__)'"
    status, out, err = shell(lab, script)
    assert (status, out.decode().split()) == (0, [str(ROOT), str(ROOT / "pyvmm/__init__.py")]), err


def test_what_it_writes_is_gone_with_it(lab: Lab) -> None:
    script = "echo here > written-in-the-lab && cat written-in-the-lab"
    assert shell(lab, script)[:2] == (0, b"here\n")
    assert not (ROOT / "written-in-the-lab").exists()
