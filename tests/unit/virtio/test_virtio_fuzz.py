# SPDX-License-Identifier: Apache-2.0
"""Builds virtio_fuzz.c and the devices with the address and undefined-behaviour sanitizers, and lets them run."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support import c_library

SOURCE = Path(__file__).with_name("virtio_fuzz.c")
ROUNDS = 400


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return c_library.sanitized(tmp_path_factory.mktemp("fuzz"), SOURCE, "address,undefined")


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_drivers_that_are_noise(fuzzer: list[str], seed: int) -> None:
    command = [*fuzzer, str(seed), str(ROUNDS)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    # Some of the noise made sense, and some did not.
    assert int(run.stdout.split()[0]) > 100
    assert "0 bad descriptor index" not in run.stdout.split(", ")
