# SPDX-License-Identifier: Apache-2.0
"""Guests that break the rules of symcalls, on VT-x: exceptions and state go through VMCS fields of other rules.

Calls in the middle of string instructions too. Not those in single steps: see test_bare.py.
"""

from __future__ import annotations

import pytest

from tests.bare.test_hook_failures import *  # noqa: F403
from tests.bare.test_symcall_lies import *  # noqa: F403
from tests.bare.test_symcall_string import (  # noqa: F401
    string,
    test_a_page_fault_behind_a_read,
    test_a_part_of_an_access,
)

pytestmark = [pytest.mark.shadow, pytest.mark.rest]


@pytest.mark.parametrize("name", ["movs of MMIO", "movs to MMIO", "ins", "outs"])
def test_an_element_of_a_string(name: str) -> None:
    string(name, 65)
