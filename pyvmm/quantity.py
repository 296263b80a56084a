# SPDX-License-Identifier: Apache-2.0
"""Sizes and times as callers give them, checked before anything is done with them."""

from __future__ import annotations

from pyvmm.errors import ConfigError

#: Bytes that cannot be: half of what 64 bits can say. And digits of a number that is worth to be looked at.
_SPACE = 1 << 63
_DIGITS = 20
_SUFFIXES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
#: Seconds, some 31 years: more than this is a mistake, and the system's waits take not much more.
LONGEST = 1e9


def parse_size(text: str | int, what: str = "size", default: str = "M") -> int:
    """Return the bytes of a text as ``"512M"`` or ``"4G"``; of a text without a unit, `default` is
    the unit.

    Numbers in a text are whole and decimal. An int is bytes already. Raise ConfigError for anything
    else, and for more than 64-bit addresses reach.
    """
    if isinstance(text, int) and not isinstance(text, bool):
        return _addressable(text, text, what)
    if not isinstance(text, str):
        raise ConfigError(f"{what} {text!r} is no size: give a number of bytes, or text as 512M")
    number = text.strip().upper().removesuffix("IB").removesuffix("B")
    suffix = number[-1:] if number[-1:] in _SUFFIXES else ""
    digits = number[:-1] if suffix else number
    if not (digits.isascii() and digits.isdigit()):
        raise ConfigError(
            f"{what} {text[:40]!r} is not a size; write a number with K, M, G or T, as in 512M"
        )
    # int() takes 4300 digits, and no size has so many.
    size = int(digits) * _SUFFIXES[suffix or default] if len(digits) <= _DIGITS else _SPACE
    return _addressable(size, text[:40], what)


def _addressable(size: int, text: str | int, what: str) -> int:
    if abs(size) >= _SPACE:
        raise ConfigError(f"{what} {text} is more than any machine has: at most 8388607T")
    return size


def check_seconds(seconds: float, what: str) -> float:
    """Return the same, and 0 for one that is over already; `what` names it in messages.

    Raise ConfigError for what is no number of seconds that can be waited.
    """
    try:
        number = float(seconds)
    except (TypeError, ValueError, OverflowError):
        raise ConfigError(f"{what} {seconds!r} is no number of seconds") from None
    if not number <= LONGEST:  # nan is not, either
        raise ConfigError(
            f"{what} of {number:g} s: at most {LONGEST:g} s; leave it out for no limit"
        )
    return max(number, 0.0)
