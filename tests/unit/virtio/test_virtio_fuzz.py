# SPDX-License-Identifier: Apache-2.0
"""Builds virtio_fuzz.c and the devices with the address and undefined-behaviour sanitizers, and lets them run."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.tree import ROOT

HERE = Path(__file__).resolve().parent
CSRC = ROOT / "csrc"
PARTS = (
    *("machine/memory", "host/iothread", "host/thread", "host/iovec", "host/stream"),
    *("host/terminal", "host/framing", "host/guard"),
    *("virtio/blockfile", "virtio/blockmemory", "virtio/queue", "virtio/device", "virtio/serve"),
    *("virtio/mmio", "virtio/blk", "virtio/rng", "virtio/console"),
)
ROUNDS = 400


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("fuzz") / "virtio_fuzz"
    command = ["gcc", "-std=gnu11", "-D_GNU_SOURCE", "-g", "-O1", f"-I{CSRC}", "-pthread"]
    command += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-o", str(program)]
    command += [str(HERE / "virtio_fuzz.c"), *(str(CSRC / f"{part}.c") for part in PARTS)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return program


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_drivers_that_are_noise(fuzzer: Path, seed: int) -> None:
    run = subprocess.run(
        [fuzzer, str(seed), str(ROUNDS)], capture_output=True, text=True, timeout=600, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    # Some of the noise made sense, and some did not.
    assert int(run.stdout.split()[0]) > 100
    assert "0 bad descriptor index" not in run.stdout.split(", ")
