# SPDX-License-Identifier: Apache-2.0
"""The bare-metal guests of SymCall and SymSpy once more, where KVM is one that boots Linux."""

from __future__ import annotations

from tests.local.test_symcall_integrity import *  # noqa: F403
from tests.local.test_symcall_lies import *  # noqa: F403
from tests.local.test_symcall_steady import *  # noqa: F403
from tests.local.test_symspy import *  # noqa: F403
