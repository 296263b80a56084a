# SPDX-License-Identifier: Apache-2.0
"""Bare guests on VT-x: the ways in and out of KVM, and the rules of symcalls, a few of each.

Not single steps: Bochs ends the first before it has executed anything (docs/lab.md).
"""

from __future__ import annotations

import pytest

from tests.bare.test_kvm_run import (  # noqa: F401
    test_a_signal_interrupts,
    test_immediate_exit,
    test_sync_regs,
)
from tests.bare.test_symcall_integrity import test_state_survives_in_short  # noqa: F401
from tests.bare.test_symspy import *  # noqa: F403

pytestmark = pytest.mark.shadow
