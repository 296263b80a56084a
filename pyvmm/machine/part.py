# SPDX-License-Identifier: Apache-2.0
"""The parts of a machine: those that it alone closes, and the order in which all is given back."""

from __future__ import annotations

import errno
from _thread import RLock  # threading's own, of which it makes nothing else

from pyvmm import kvm
from pyvmm.errors import StateError
from pyvmm.kvm.descriptor import Descriptor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol, TypeVar

    class Closable(Protocol):
        """Something that is closed once it is not needed any more."""

        def close(self) -> None:
            """Give back what it has. May be called again where it raised."""

    T = TypeVar("T", bound=Closable)


class Part:
    """Something with a `close` that only the machine calls, once it has it: its other parts use it
    until then.
    """

    _kept = False

    def keep(self) -> None:
        """Keep it, on behalf of a machine."""
        self._kept = True

    def give_back(self) -> None:
        """Give it back: the machine closes it."""
        self._kept = False
        self.close()

    def close(self) -> None:
        """Raise StateError while a machine has it; what it frees is its own matter."""
        if self._kept:
            raise StateError(
                f"the {type(self).__name__} is part of a machine, which closes it: close that"
            )


class Owner:
    """All that a machine has to give back, in the order in which it came; `closed` once it takes
    nothing more.

    `closing` is held by the thread that gives back: another one that closes the machine as well
    waits for it, or it would free what is still in use by a part that is not closed yet.
    """

    def __init__(self) -> None:
        self.closed = False
        self.closing = RLock()
        self._steps: list[Callable[[], None]] = []

    def check_open(self) -> None:
        """Raise StateError once the machine is closed."""
        if self.closed:
            raise StateError("the machine is closed")

    def own(self, thing: T) -> T:
        """Take `thing` over and return it: it is closed after what came later, before what came
        earlier.

        Nobody else may close a `Part` from now on. Raise StateError once the machine is closed.
        """
        self.check_open()
        if isinstance(thing, Part):
            thing.keep()
            self._steps.append(thing.give_back)
        else:
            self._steps.append(thing.close)
        return thing

    def later(self, step: Callable[[], None]) -> None:
        """Have `step` called in its turn, for what has no `close`."""
        self._steps.append(step)

    def give_back(self) -> None:
        """Close everything, the last thing first; one that fails does not keep the others.

        With `closing` held. Raise the first failure, and HostError (ETIMEDOUT) at once: a further
        call goes on from there.
        """
        failed: Exception | None = None
        while self._steps:
            step = self._steps.pop()
            try:
                step()
            except Exception as error:
                if getattr(error, "errno", None) == errno.ETIMEDOUT:
                    self._steps.append(step)
                    raise
                failed = failed or error
            except BaseException:
                if hasattr(step, "__self__"):  # an interrupt: what may be called twice is
                    self._steps.append(step)
                raise
        if failed is not None:
            raise failed


class _Descriptor(Part, Descriptor):
    """A descriptor of KVM's whose number C code keeps: another one may get it once it is closed."""

    def close(self) -> None:
        """Close it as `Part.close` does; free the descriptor."""
        super().close()
        Descriptor.close(self)


class System(_Descriptor, kvm.Kvm):
    """The `pyvmm.kvm.Kvm` of a machine."""


class Vm(_Descriptor, kvm.Vm):
    """The `pyvmm.kvm.Vm` of a machine."""
