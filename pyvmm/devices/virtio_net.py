# SPDX-License-Identifier: Apache-2.0
"""The virtio network card (virtio 1.2, section 5.1) on a tap."""

from __future__ import annotations

import os

from pyvmm._core import lib
from pyvmm.config import NetConfig
from pyvmm.devices.descriptors import Descriptors
from pyvmm.devices.virtio import VirtioDevice
from pyvmm.errors import ConfigError, StateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.devices.tap import Tap
    from pyvmm.machine.machine import Machine

#: The least a link may carry, section 5.1.4.1.
LEAST_MTU = 68


class VirtioNet(VirtioDevice):
    """A network card on `tap`, which stays the caller's.

    `mac` is text such as "02:00:00:12:34:56"; by default a random, locally administered one. The
    tap's MTU, if it was given one, is announced to the guest. Checksums and segmentation are left
    to whoever can do them last.

    The tap may be closed once this returns; its interface stays until the card is closed as well.

    Raises ConfigError for a bad address or MTU, HostError when the tap cannot be used, StateError
    for one that is closed.
    """

    kind = "virtio-net"

    def __init__(self, machine: Machine, tap: Tap, mac: str | None = None) -> None:
        super().__init__(machine)
        address = random_mac() if mac is None else parse_mac(mac)
        self.mac = ":".join(f"{byte:02x}" for byte in address)
        self.tap = tap
        self._own = Descriptors("network card")
        fd = self._own.own("the tap", _open(tap))
        mtu = tap.mtu or 0
        try:
            self._attach(lambda wiring: lib.virtio_net_create(wiring, fd, address, mtu))
        except BaseException:
            self.close()
            raise

    @property
    def config(self) -> NetConfig:
        """The record from which a card like this one can be made, with the same address."""
        return NetConfig(self.tap.name, self.mac)

    def close(self) -> None:
        """Free the device, and let go of the tap."""
        super().close()
        self._own.close()


def _open(tap: Tap) -> int:
    """Return its descriptor. Raise StateError where it is closed."""
    if tap.fd < 0:
        raise StateError(f"tap {tap.name} is closed")
    return tap.fd


def parse_mac(text: str) -> bytes:
    """Return the six bytes of a unicast Ethernet address in text such as "02:00:00:12:34:56".

    Raise ConfigError for anything else.
    """
    parts = text.split(":")
    digits = set("0123456789abcdefABCDEF")
    if len(parts) != 6 or not all(len(p) == 2 and set(p) <= digits for p in parts):
        raise ConfigError(f"MAC address {text!r}: write six bytes as in 02:00:00:12:34:56")
    address = bytes(int(part, 16) for part in parts)
    if address[0] & 1 or not any(address):
        raise ConfigError(f"MAC address {text!r} is no card's: its first byte must be even")
    return address


def random_mac() -> bytes:
    """Return a random unicast address, locally administered (bit 1 of its first byte, IEEE 802)."""
    return b"\x02" + os.urandom(5)
