# SPDX-License-Identifier: Apache-2.0
"""drgn over a running guest: `program` gives a `drgn.Program` that reads the guest's memory and
knows its types.

Needs the extra `pyvmm-kvm[drgn]`. docs/drgn.md is the manual.
"""

from __future__ import annotations

from pyvmm.drgn.program import make_program, program

__all__ = ["make_program", "program"]
