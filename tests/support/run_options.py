# SPDX-License-Identifier: Apache-2.0
"""The options of `pyvmm run`, without its quick parser."""

from __future__ import annotations

import argparse

from pyvmm.cli import run
from pyvmm.launch.parser import Parser


def run_parser() -> argparse.ArgumentParser:
    sub = Parser().add_subparsers()
    run.add_parser(sub)
    return sub.choices["run"]  # type: ignore[no-any-return]


def arguments(*words: str) -> argparse.Namespace:
    return run_parser().parse_args(words)
