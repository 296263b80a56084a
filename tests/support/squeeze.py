# SPDX-License-Identifier: Apache-2.0
"""A control group of the host that this program moves into, and whose memory is short every few
seconds.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

from pyvmm.swap.governor import GROUPS, own_group

#: The share of the group's use above which it is throttled, and loses memory that can be taken from it.
SHARES = (0.7, 0.95)
#: Seconds, by lot. The kernel's average of stalls goes over ten: after a tight spell it takes a while to be low again.
TIGHT = (2.0, 5.0)
LOOSE = (8.0, 16.0)
FREE = "max"


class Squeeze:
    """A child of the own control group, of version 2, by Documentation/admin-guide/cgroup-v2.rst in
    Linux.

    Use it in a `with`. `step` is to be called about once a second. It sets memory.high, which slows
    down and takes, and never kills. Raises SystemExit where there is no such group or it cannot be
    made.
    """

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._parent = Path(own_group() or GROUPS)
        self.group = self._parent / f"torture-{os.getpid()}"
        self.spells = 0
        try:
            self.group.mkdir()
            self._move_to(self.group)
            self.loosen()
        except OSError as error:
            self.close()
            raise SystemExit(
                f"bench: --squeeze wants a control group with the memory controller, as in the lab: {error}"
            ) from None

    def __enter__(self) -> Squeeze:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @staticmethod
    def _move_to(group: Path) -> None:
        (group / "cgroup.procs").write_text(str(os.getpid()))

    def _used(self) -> int:
        return int((self.group / "memory.current").read_text())

    def step(self) -> None:
        """Tighten or loosen the limit, if it is time."""
        if time.monotonic() < self._until:
            return
        if self.tight:
            self.loosen()
        else:
            self._tighten()

    def _tighten(self) -> None:
        self._set(str(int(self._used() * self._chance.uniform(*SHARES))), TIGHT)
        self.tight = True
        self.spells += 1

    def loosen(self) -> None:
        """Let go, as after each guest: the next one shall come up."""
        self._set(FREE, LOOSE)
        self.tight = False

    def _set(self, high: str, spell: tuple[float, float]) -> None:
        (self.group / "memory.high").write_text(high)
        self._until = time.monotonic() + self._chance.uniform(*spell)

    def close(self) -> None:
        """Move the program out again; the group is gone."""
        try:
            self._move_to(self._parent)
            self.group.rmdir()
        except OSError:
            pass  # it never was, or what runs in it ends with this program
