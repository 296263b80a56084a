# SPDX-License-Identifier: Apache-2.0
"""`python -m pyvmm.lab`, the same as `pyvmm lab`."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    from pyvmm.cli.main import main

    sys.exit(main(["lab", *sys.argv[1:]]))
