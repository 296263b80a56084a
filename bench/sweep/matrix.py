# SPDX-License-Identifier: Apache-2.0
"""The cells of a sweep, each of which is one run of one suite with one choice of its options.

A cell is never divided: its subjects are compared in one run on one machine, or their ratios would
mean nothing.
"""

from __future__ import annotations

import argparse
import itertools
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from bench import suites
from pyvmm.errors import ConfigError

#: Files: a cell has its own.
NOT_SWEPT = ("json", "plot")
#: The parts of a file's name.
UNSAFE = re.compile(r"[^\w.=+-]+")


class Cell(NamedTuple):
    """`options` are texts, by the names of the suite's options; `run` counts from 1, 0 is the only
    one.
    """

    suite: str
    options: dict[str, str]
    run: int = 0

    @property
    def name(self) -> str:
        """What its files are called, without their ending: swap-linux=6.1-memory=256-run2."""
        parts = [self.suite, *(f"{name}={value}" for name, value in self.options.items())]
        parts += [f"run{self.run}"] if self.run else []
        return UNSAFE.sub("_", "-".join(parts))

    @property
    def words(self) -> list[str]:
        """For `python -m bench SUITE`."""
        return [word for name, value in self.options.items() for word in (f"--{name}", value)]

    @property
    def values(self) -> dict[str, Any]:
        """The options, as the suite itself takes them: numbers where it wants numbers."""
        kinds = swept_options(self.suite)
        return {name: kinds[name](value) for name, value in self.options.items()}


def swept_options(suite: str) -> dict[str, Any]:
    """Return the options of a suite that take one value, with what makes that of a text.

    `--arm` is none: arms are compared with each other and stay together.
    """
    parser = argparse.ArgumentParser(add_help=False)
    suites.every()[suite].add_options(parser)
    return {
        action.option_strings[-1].removeprefix("--"): action.type or str
        for action in parser._actions
        if isinstance(action, argparse._StoreAction) and action.dest not in NOT_SWEPT
    }


def axis(text: str) -> tuple[str, list[str]]:
    """Return what `--sweep` says: an option and its values. Raise ConfigError."""
    name, _, rest = text.partition("=")
    values = rest.split(",")
    name = name.removeprefix("--")
    if not name or not all(values):
        raise ConfigError(
            f"--sweep {text}: write an option and its values, as in --sweep memory=256,400"
        )
    if len(set(values)) < len(values):
        raise ConfigError(f"--sweep {text}: each value once; for several runs there is --repeat")
    return name, values


def axes(texts: Iterable[str]) -> dict[str, list[str]]:
    """Return all of them. Raise ConfigError if an option is there twice."""
    found: dict[str, list[str]] = {}
    for text in texts:
        name, values = axis(text)
        if name in found:
            raise ConfigError(f"--sweep {name} is there twice; write all its values in one")
        found[name] = values
    return found


def check(suite: str, swept: dict[str, list[str]]) -> None:
    """Raise ConfigError for an option that the suite has not, or a value that is none of it."""
    known = swept_options(suite)
    for name, values in swept.items():
        if name not in known:
            raise ConfigError(
                f"--sweep {name}: the suite {suite} has no such option that takes one value; it has {', '.join(known)}"
            )
        for value in values:
            try:
                known[name](value)
            except ValueError:
                kind = known[name].__name__
                raise ConfigError(f"--sweep {name}: {suite} wants {kind}, not {value!r}") from None


def cells(names: Sequence[str], swept: dict[str, list[str]], repeat: int = 1) -> list[Cell]:
    """Return all of them, a run of each before the second of any.

    Raise ConfigError for what cannot be run.
    """
    if repeat < 1:
        raise ConfigError(f"--repeat {repeat}: at least 1")
    for suite in names:
        check(suite, swept)
    made = [
        Cell(suite, dict(zip(swept, values, strict=True)), run if repeat > 1 else 0)
        for run in range(1, repeat + 1)
        for suite in names
        for values in itertools.product(*swept.values())
    ]
    called = [cell.name for cell in made]
    for name in called:
        if called.count(name) > 1:
            raise ConfigError(f"two cells would be called {name}; sweep values that differ in more")
    return made
