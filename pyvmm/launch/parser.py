# SPDX-License-Identifier: Apache-2.0
"""The parser of all command lines here: of pyvmm, of the benchmarks and of the tests' runners."""

from __future__ import annotations

import argparse
import re
from typing import Any


class Parser(argparse.ArgumentParser):
    """Takes options by their whole names only, so that an option that is added later changes no
    script. A word such as -5M is a value, which the option then refuses in its own words.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **options})
        # argparse itself takes -5 for a value, and -5M for an option that is not there.
        self._negative_number_matcher = re.compile(r"-\.?\d")
