# SPDX-License-Identifier: Apache-2.0
"""An outer Linux on a CPU with SVM that QEMU emulates, for machines that have no usable KVM."""

from __future__ import annotations

from pyvmm.lab.errors import LabError, LabTimeout
from pyvmm.lab.session import Lab, run

__all__ = ["Lab", "LabError", "LabTimeout", "run"]
