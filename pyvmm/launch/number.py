# SPDX-License-Identifier: Apache-2.0
"""Numbers on the command line: each option says which it takes, and a sentence says so to who gives
another.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def refuse(text: str, what: str) -> NoReturn:
    """Raise the error that argparse prints, with the option's name before it."""
    import argparse

    raise argparse.ArgumentTypeError(f"{text[:40]!r} is no {what}")


class Whole:
    """A type for argparse: a whole number from `least` to `most`, of what `name` says."""

    def __init__(self, name: str, least: int = 1, most: int = 1 << 31) -> None:
        self._name = name
        self._least = least
        self._most = most

    def __call__(self, text: str) -> int:
        """Return the number. Raise ArgumentTypeError."""
        digits = text[1:] if text[:1] == "-" else text
        # No more digits than a number that is in question has: int() takes 4300.
        plain = digits.isascii() and digits.isdigit() and len(digits) <= 20
        number = int(text) if plain else None
        if number is None or not self._least <= number <= self._most:
            refuse(text, f"{self._name}: a whole number from {self._least} to {self._most}")
        return number


class Duration:
    """A type for argparse: a time in `unit`, more than 0, from `least` to `most`."""

    def __init__(self, unit: str = "seconds", most: float = 1e9, least: float = 0.0) -> None:
        self._unit = unit
        self._most = most
        self._least = least

    def __call__(self, text: str) -> float:
        """Return the number. Raise ArgumentTypeError."""
        try:
            number = float(text)
        except ValueError:
            number = 0.0
        if not (number > 0 and self._least <= number <= self._most):  # nan is neither
            least = f"from {self._least:g} to" if self._least else "above 0, at most"
            refuse(text, f"time in {self._unit}: a number {least} {self._most:g}")
        return number
