# SPDX-License-Identifier: Apache-2.0
"""The bare-metal guests that break the rules of symcalls once more, where KVM is one that boots Linux."""

from __future__ import annotations

import pytest

from tests.bare.test_symcall_lies import *  # noqa: F403

pytestmark = pytest.mark.rest
