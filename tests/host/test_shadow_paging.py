# SPDX-License-Identifier: Apache-2.0
"""A Linux guest where KVM has no nested paging and shadows the guest's page tables."""

from __future__ import annotations

import io
import sys

from pyvmm import lab

SCRIPT = "nproc; dmesg | grep -c -E 'BUG|WARNING|Call Trace'; cat /dev/zero | head -c 32m | md5sum"
MD5_OF_32_MIB_OF_ZEROES = "58f06dd588d8ffb3beb46ada6309436b"


def test_linux_on_shadow_paging() -> None:
    output, errors = io.BytesIO(), io.BytesIO()
    command = [sys.executable, "-m", "pyvmm", "run", "--", "sh", "-c", SCRIPT]
    code = lab.run(command, npt=False, timeout=300, stdout=output, stderr=errors)
    assert code == 0, errors.getvalue().decode()
    assert output.getvalue().decode().split() == ["1", "0", MD5_OF_32_MIB_OF_ZEROES, "-"]
