# SPDX-License-Identifier: Apache-2.0
"""The parser of all command lines here: of pyvmm, of the benchmarks and of the tests' runners."""

from __future__ import annotations

import argparse
from typing import Any


class Parser(argparse.ArgumentParser):
    """Takes options by their whole names only, so that an option that is added later changes no
    script.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **options})
