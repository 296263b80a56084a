# SPDX-License-Identifier: Apache-2.0
"""The bare-metal guests of SymCall and SymSpy once more, where KVM is one that boots Linux.

Not the one that calls at any instruction: in emulated SVM it once ended in a page fault at an address that nothing in
the guest has (docs/lab.md).
"""

from __future__ import annotations

from tests.local.test_symcall_integrity import *  # noqa: F403
from tests.local.test_symcall_lies import *  # noqa: F403
from tests.local.test_symspy import *  # noqa: F403

del test_state_survives_calls_at_any_instruction  # noqa: F821
