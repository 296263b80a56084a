# SPDX-License-Identifier: Apache-2.0
"""An outer Linux on an emulated CPU with SVM (QEMU) or VT-x (Bochs), for machines that have no
usable KVM.
"""

from __future__ import annotations

from pyvmm.lab.errors import LabError, LabTimeout
from pyvmm.lab.session import Lab, run

__all__ = ["Lab", "LabError", "LabTimeout", "run"]
