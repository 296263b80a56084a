# SPDX-License-Identifier: Apache-2.0
"""What docs/guest-driver.md shows compiles, without a warning."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import example, kernels

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("linux", kernels.BOTH)
def test_example_compiles(linux: str, tmp_path: Path) -> None:
    module = example.build(tmp_path, linux, "load")
    assert b"Load average by symcall" in module.read_bytes()
