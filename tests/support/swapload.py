# SPDX-License-Identifier: Apache-2.0
"""The figures of a program that was short of memory, as it says them."""

from __future__ import annotations

from typing import Any

SAID: dict[str, Any] = {
    "schema": 2,
    "pages": 256,
    "fill": 5000.0,
    "passes": [3700.0, 2400.0, 1700.0],
    "sequential": 900.0,
    "steady": 800.0,
    "p50": 1600,
    "p99": 5000,
    "p999": 90000,
    "most": 100000,
    "fresh": 1000.0,
    "swapped": 2500.0,
    "touched": 4096,
    "out": 409600000.0,
    "wrong": 0,
}
