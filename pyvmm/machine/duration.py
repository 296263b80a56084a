# SPDX-License-Identifier: Apache-2.0
"""Times that callers give, checked before a wait gets them: numbers of seconds that a clock can count."""

from __future__ import annotations

from pyvmm.errors import ConfigError

#: Seconds, some 31 years: more than this is a mistake, and the system's waits take not much more.
LONGEST = 1e9


def check_seconds(seconds: float, what: str) -> float:
    """The same, and 0 for one that is over already; `what` names it in messages.

    Raises ConfigError for what is no number of seconds that can be waited.
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
