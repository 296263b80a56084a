# SPDX-License-Identifier: Apache-2.0
"""The diagram of layers in docs/architecture.md, for the tests that hold the sources to it."""

from __future__ import annotations

from typing import NamedTuple

from tests.support.tree import ROOT


class Level(NamedTuple):
    """The packages of Python and the wings of C on one line of the diagram."""

    python: set[str]
    c: set[str]


def levels() -> list[Level]:
    """Return the levels, lowest first."""
    text = (ROOT / "docs/architecture.md").read_text()
    head, _, *lines = text.partition("```\n")[2].partition("\n```")[0].splitlines()
    right = head.index("C, in csrc/")
    return [Level(set(line[:right].split()), set(line[right:].split())) for line in lines[::-1]]
