# SPDX-License-Identifier: Apache-2.0
"""`python -m pyvmm` is the `pyvmm` program."""

from pyvmm.cli.main import entry

entry()
