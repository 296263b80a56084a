# SPDX-License-Identifier: Apache-2.0
"""The bare-metal guests of SymCall and SymSpy once more, where KVM is one that boots Linux."""

from __future__ import annotations

from tests.bare.test_hook_failures import *  # noqa: F403
from tests.bare.test_symcall_integrity import (  # noqa: F401
    # Not those in short, which are less of the first two.
    test_state_survives_a_handler_that_is_cut_short,
    test_state_survives_calls_of_a_thread,
    test_state_survives_handlers_that_lose_it,
    test_state_survives_handlers_that_promise_to_keep_it,
)
from tests.bare.test_symcall_steady import *  # noqa: F403
from tests.bare.test_symcall_string import *  # noqa: F403
from tests.bare.test_symspy import *  # noqa: F403
