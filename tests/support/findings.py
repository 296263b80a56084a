# SPDX-License-Identifier: Apache-2.0
"""What the probe may find."""

from __future__ import annotations

from typing import Any

from pyvmm import probe


def finding(**changed: Any) -> probe.Probe:
    """A processor that does all there is, but for what is said to be otherwise."""
    values: dict[str, Any] = {
        "path": "/dev/kvm",
        "error": "",
        "remedy": "",
        "backend": "kvm_amd",
        "paging": "npt",
        "api": 12,
        "capabilities": {name: 1 for name, _, _ in probe.CAPABILITIES},
        "max_vcpus": 8,
        "exit_seconds": 12.3e-6,
        "instructions_per_second": 2e9,
        "lab": "",
    }
    return probe.Probe(**(values | changed))
