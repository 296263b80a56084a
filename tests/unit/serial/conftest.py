# SPDX-License-Identifier: Apache-2.0
"""A serial port without KVM, and a pipe for its input or output."""

from __future__ import annotations

import os

import pytest

from pyvmm.devices.serial import Serial
from tests.support.serial_guest import Guest, Machine


@pytest.fixture
def port():
    machines = []

    def make(*args, **options) -> Guest:
        machines.append(Machine())
        return Guest(machines[-1], Serial(machines[-1], *args, **options))

    yield make
    for machine in machines:
        machine.close()


@pytest.fixture
def uart(port):
    return port()


@pytest.fixture
def pipe():
    fds = list(os.pipe())
    yield fds
    for fd in fds:
        if fd >= 0:
            os.close(fd)
