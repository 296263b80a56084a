# SPDX-License-Identifier: Apache-2.0
"""Disks with their drivers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.virtio_disk import Disk


@pytest.fixture(params=["memfd", "memory"])
def disk(request: pytest.FixtureRequest) -> Iterator[Disk]:
    disk = Disk(in_memory=request.param == "memory", serial="swap-0")
    yield disk
    disk.close()


@pytest.fixture
def disk_in_memory() -> Iterator[Disk]:
    disk = Disk(in_memory=True)
    yield disk
    disk.close()
