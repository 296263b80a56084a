# SPDX-License-Identifier: Apache-2.0
"""A symbiotic guest on an emulated CPU, under a VMM that is not symbiotic."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import kernels
from tests.support.plain_qemu import TCG, check_silence, log_of_a_boot

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("name", kernels.ALL)
def test_symbiotic_kernel_says_nothing_under_tcg(name: str, tmp_path: Path) -> None:
    check_silence(log_of_a_boot(tmp_path, name, TCG, 200))
