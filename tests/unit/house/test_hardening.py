# SPDX-License-Identifier: Apache-2.0
"""The two modules as they were built: the compiler's and the linker's defences against memory faults are in them."""

from __future__ import annotations

import re
import subprocess

import pytest

from pyvmm import _core
from pyvmm.kvm import _kvm

MODULES = pytest.mark.parametrize("module", [_core.__file__, _kvm.__file__], ids=["_core", "_kvm"])


def readelf(option: str, module: str) -> str:
    command = ["readelf", "--wide", option, module]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def imported(module: str) -> set[str]:
    """The functions that the module takes from the C library."""
    return set(re.findall(r"UND (\w+)", readelf("--dyn-syms", module)))


@MODULES
def test_everything_is_bound_at_load(module: str) -> None:
    assert re.search(r"\(FLAGS\).*BIND_NOW|\(FLAGS_1\).*NOW", readelf("--dynamic", module))


@MODULES
def test_the_tables_of_addresses_are_read_only(module: str) -> None:
    assert "GNU_RELRO" in readelf("--program-headers", module)
    assert "TEXTREL" not in readelf("--dynamic", module)


@MODULES
def test_nothing_is_both_writable_and_executable(module: str) -> None:
    headers = readelf("--program-headers", module)
    stack = re.search(r"GNU_STACK(?:\s+0x\w+){5} (\S+)", headers)
    assert stack
    assert stack[1] == "RW"
    assert not re.search(r"LOAD(?:\s+0x\w+){5}\s+RWE", headers)


@MODULES
def test_the_cpu_checks_targets_of_calls(module: str) -> None:
    """Each function that can be called by its address begins with ENDBR64, as Python's entry does."""
    entry = f"PyInit_{module.split('/')[-1].split('.')[0]}"
    command = ["objdump", "--no-show-raw-insn", f"--disassemble={entry}", module]
    code = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert re.search(rf"<{entry}>:\n\s*\w+:\s+endbr64", code)


@MODULES
def test_frames_have_canaries(module: str) -> None:
    assert "__stack_chk_fail" in imported(module)


def test_copies_know_the_size_of_their_target() -> None:
    """FORTIFY_SOURCE at level 3, which also knows sizes that only show at run time, as in symcall.c."""
    assert "__memcpy_chk" in imported(_core.__file__)
