# SPDX-License-Identifier: Apache-2.0
"""The virtio entropy source (virtio 1.2, section 5.4)."""

from __future__ import annotations

from pyvmm._core import lib
from pyvmm.config import RngConfig
from pyvmm.devices.virtio import VirtioDevice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.machine.machine import Machine


class VirtioRng(VirtioDevice):
    """Random bytes from the host's getrandom(2), at most 64 KiB for one request.

    Raises HostError when the host has no thread or descriptor left.
    """

    kind = "virtio-rng"

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine)
        try:
            self._attach(lib.virtio_rng_create)
        except BaseException:
            self.close()
            raise

    @property
    def config(self) -> RngConfig:
        """The record from which a source like this one can be made."""
        return RngConfig()
