# SPDX-License-Identifier: Apache-2.0
"""Parts of a machine: who may close them."""

from __future__ import annotations

from pyvmm import kvm
from pyvmm.errors import StateError
from pyvmm.kvm.descriptor import Descriptor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

RUNS = ("running", "paused", "stopping")


class Part:
    """Something with a `close` that only the machine calls, once it has it: its other parts use it until then."""

    _kept = False

    def keep(self) -> None:
        """On behalf of a machine."""
        self._kept = True

    def give_back(self) -> None:
        """The machine closes it."""
        self._kept = False
        self.close()

    def close(self) -> None:
        """Raises StateError while a machine has it; what it frees is its own matter."""
        if self._kept:
            raise StateError(
                f"the {type(self).__name__} is part of a machine, which closes it: close that"
            )


class _Descriptor(Part, Descriptor):
    """A descriptor of KVM's whose number C code keeps: another one may get it once it is closed."""

    def close(self) -> None:
        """As `Part.close`; frees the descriptor."""
        super().close()
        Descriptor.close(self)

    def __del__(self) -> None:
        self._kept = False
        super().__del__()


class System(_Descriptor, kvm.Kvm):
    """The `pyvmm.kvm.Kvm` of a machine."""


class Vm(_Descriptor, kvm.Vm):
    """The `pyvmm.kvm.Vm` of a machine."""


def check_stands(machine: Any) -> None:
    """Raises StateError while a machine runs: its devices can be closed before and afterwards."""
    if getattr(machine, "state", None) in RUNS:
        raise StateError(
            f"the machine is {machine.state}; its devices are closed when it has ended"
        )
