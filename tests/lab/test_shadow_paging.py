# SPDX-License-Identifier: Apache-2.0
"""Guests where KVM has no nested paging and shadows the guest's page tables."""

from __future__ import annotations

import io
import sys

import pytest

from pyvmm import lab

pytestmark = pytest.mark.rest

SCRIPT = "nproc; dmesg | grep -c -E 'BUG|WARNING|Call Trace'; cat /dev/zero | head -c 32m | md5sum"
MD5_OF_32_MIB_OF_ZEROES = "58f06dd588d8ffb3beb46ada6309436b"


def test_linux_on_shadow_paging() -> None:
    """By the QEMU that every lab has, which is corrected for it (docs/lab.md)."""
    output, errors = io.BytesIO(), io.BytesIO()
    command = [sys.executable, "-m", "pyvmm", "run", "--", "sh", "-c", SCRIPT]
    code = lab.run(command, npt=False, timeout=300, stdout=output, stderr=errors)
    assert code == 0, errors.getvalue().decode()
    assert output.getvalue().decode().split() == ["1", "0", MD5_OF_32_MIB_OF_ZEROES, "-"]


def run_there(*words: str) -> None:
    """These tests, which must pass in a lab with shadow paging."""
    output = io.BytesIO()
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words]
    code = lab.run(command, npt=False, timeout=300, stdout=output, stderr=output)
    text = output.getvalue().decode()
    assert code == 0, text
    assert "skipped" not in text, text


def test_symcalls_into_linux_on_shadow_paging() -> None:
    """At an exit that a hook sees."""
    run_there("tests/linux/test_symcall_linux.py", "-k", "which_task_made_the_exit and 6.12")


def test_symcalls_on_shadow_paging() -> None:
    """The bare guest that checks all its state, and those that lie, with a page table of its own for CPL 3."""
    names = ("symcall_integrity", "symcall_lies", "symcall_moments", "doorbell")
    files = [f"tests/bare/test_{name}.py" for name in names]
    chosen = "in_short or never_returns or triple or page_tables or halted or user_mode"
    run_there(*files, "-k", chosen)
