# SPDX-License-Identifier: Apache-2.0
"""Guests that break the rules of symcalls, on VT-x: exceptions and state go through VMCS fields of other rules."""

from __future__ import annotations

import pytest

from tests.local.test_symcall_lies import *  # noqa: F403

pytestmark = [pytest.mark.shadow, pytest.mark.rest]
