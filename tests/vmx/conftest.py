# SPDX-License-Identifier: Apache-2.0
"""Every test here is about VT-x: elsewhere they fail. `python -m tests vmx` runs them in a lab that has it."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def _vt_x_is_there() -> None:
    if not os.path.exists("/sys/module/kvm_intel"):
        pytest.fail("no kvm_intel here: run these tests with python -m tests vmx", pytrace=False)
