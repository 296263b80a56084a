# SPDX-License-Identifier: Apache-2.0
"""The vCPU loop over a KVM whose KVM_RUN returns what a script says: scripted_kvm.c."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support import c_library

FAKES = (Path(__file__).with_suffix(".c"), c_library.FAKE_KVM)
DECLARED = """
struct fake_exit {
	int error; unsigned int reason; unsigned int detail; unsigned long long value; unsigned int goes_on;
};
void fake_kvm(void *run, const struct fake_exit *list, unsigned int count);
void fake_port(unsigned int size, unsigned int count, unsigned long long offset);
"""
RUN_SIZE = 12288


def load(folder: Path, *more: str, declared: str = "") -> tuple[Any, Any]:
    """(ffi, lib) of the vCPU loop and further parts of csrc, over the scripted KVM; `declared` is what else is used."""
    return c_library.load(
        folder,
        ("machine/vcpu", *more),
        DECLARED + declared,
        extra=FAKES,
        defines=("ioctl=fake_ioctl",),
    )
