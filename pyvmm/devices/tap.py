# SPDX-License-Identifier: Apache-2.0
"""A tap: an Ethernet interface of the host whose other end is a descriptor (kernel:
networking/tuntap.rst).
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct

from pyvmm.errors import ConfigError, HostError

DEVICE = "/dev/net/tun"
#: Name of a new tap; the kernel puts the first free number in.
NAME = "pyvmm%d"
NAME_BYTES = 15

# <linux/if_tun.h>
TUNSETIFF = 0x400454CA
TUNSETPERSIST = 0x400454CB
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x1000, 0x4000

# <linux/sockios.h>
SIOCGIFFLAGS, SIOCSIFFLAGS = 0x8913, 0x8914
SIOCSIFADDR, SIOCSIFNETMASK = 0x8916, 0x891C
SIOCSIFMTU = 0x8922
IFF_UP = 1

MTU_RANGE = range(68, 65522)


class Tap:
    """A tap interface, made or attached to, and set up.

    `name` is the interface's; by default a new one, "pyvmm0" and so on. An existing tap that nobody
    else holds is attached to. `mtu` in bytes; `address` is the host's end, text such as
    "192.168.70.1/24". Unless `persistent`, the interface vanishes when it is closed (a tap that was
    persistent before stays).

    `name` and `fd` tell the result. Raises HostError when the kernel refuses, ConfigError for bad
    values.
    """

    def __init__(
        self,
        name: str | None = None,
        mtu: int | None = None,
        persistent: bool = False,
        *,
        address: str | None = None,
    ) -> None:
        self.fd = -1
        self.name = NAME if name is None else name
        self.mtu = mtu
        _check_name(self.name)
        if mtu is not None and mtu not in MTU_RANGE:
            raise ConfigError(
                f"MTU {mtu}: it must be {MTU_RANGE.start} to {MTU_RANGE.stop - 1} bytes"
            )
        host = _parse_address(address) if address is not None else None
        self.fd = _open_device()
        try:
            self._attach()
            if persistent:
                self._ioctl(TUNSETPERSIST, 1, "making it persistent")
            self._set_up(host)
        except BaseException:
            self.close()
            raise

    def _attach(self) -> None:
        flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR
        request = struct.pack("16sH22x", self.name.encode(), flags)
        try:
            answer = fcntl.ioctl(self.fd, TUNSETIFF, request)
        except OSError as error:
            reason = _ATTACH_REMEDIES.get(error.errno or 0, error.strerror)
            raise HostError(error.errno, f"tap {self.name}: {reason}") from error
        self.name = answer[:16].split(b"\0", 1)[0].decode()

    def _set_up(self, host: tuple[bytes, bytes] | None) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            if self.mtu is not None:
                self._configure(control, SIOCSIFMTU, struct.pack("i", self.mtu), "setting its MTU")
            if host is not None:
                for request, value in zip((SIOCSIFADDR, SIOCSIFNETMASK), host, strict=True):
                    where = struct.pack("=HH4s8x", socket.AF_INET, 0, value)
                    self._configure(control, request, where, "setting its address")
            self._bring_up(control)

    def _bring_up(self, control: socket.socket) -> None:
        answer = self._configure(control, SIOCGIFFLAGS, b"", "reading its flags")
        (flags,) = struct.unpack_from("H", answer, 16)
        if not flags & IFF_UP:
            value = struct.pack("H", flags | IFF_UP)
            self._configure(control, SIOCSIFFLAGS, value, "bringing it up")

    def _configure(self, control: socket.socket, request: int, value: bytes, what: str) -> bytes:
        ifreq = self.name.encode().ljust(16, b"\0") + value.ljust(24, b"\0")
        try:
            return fcntl.ioctl(control, request, ifreq)
        except OSError as error:
            raise HostError(
                error.errno,
                f"tap {self.name}: {what}: {error.strerror}"
                + ("; that takes CAP_NET_ADMIN" if error.errno == errno.EPERM else ""),
            ) from error

    def _ioctl(self, request: int, value: int, what: str) -> None:
        try:
            fcntl.ioctl(self.fd, request, value)
        except OSError as error:
            raise HostError(error.errno, f"tap {self.name}: {what}: {error.strerror}") from error

    def close(self) -> None:
        """Let go of the interface, which vanishes unless it is persistent. May be called twice."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Tap:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


_OPEN_REMEDIES = {
    errno.ENOENT: "there is no such device; load the module: modprobe tun",
    errno.ENODEV: "the kernel has no tun driver; load it: modprobe tun",
    errno.EACCES: "permission denied; run as root, or give your user access to it",
    errno.EPERM: "not permitted here, perhaps by a container; pass the device into it",
}

_ATTACH_REMEDIES = {
    errno.EPERM: "not permitted; making one takes CAP_NET_ADMIN. Let root make it for you: "
    "ip tuntap add dev NAME mode tap user USER vnet_hdr",
    errno.EBUSY: "in use by another process, maybe another VM; take another name",
    errno.EINVAL: "there is an interface of that name, and it is no tap with the same settings; "
    "take another name, or make it with: ip tuntap add dev NAME mode tap vnet_hdr",
}


def _open_device() -> int:
    try:
        return os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        reason = _OPEN_REMEDIES.get(error.errno or 0, error.strerror)
        raise HostError(error.errno, f"{DEVICE}: {reason}") from error


def _check_name(name: str) -> None:
    bad = any(c in "/:" or c.isspace() or not c.isprintable() for c in name)
    if bad or not name.isascii() or not 0 < len(name) <= NAME_BYTES or name in (".", ".."):
        raise ConfigError(
            f"tap name {name!r}: use 1 to {NAME_BYTES} ASCII characters without blank, '/' and ':'"
        )


def _parse_address(text: str) -> tuple[bytes, bytes]:
    """Read the address and the netmask of a text such as "192.168.70.1/24"."""
    address, slash, length = text.partition("/")
    try:
        packed = socket.inet_pton(socket.AF_INET, address)
        bits = int(length) if slash else 24
        if not (0 <= bits <= 32 and (length.isdigit() or not slash)):
            raise ValueError
    except (OSError, ValueError):
        raise ConfigError(
            f"tap address {text!r}: write an IPv4 address and a prefix length, as in 192.168.70.1/24"
        ) from None
    return packed, (0xFFFFFFFF << (32 - bits) & 0xFFFFFFFF).to_bytes(4, "big")
