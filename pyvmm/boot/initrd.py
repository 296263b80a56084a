# SPDX-License-Identifier: Apache-2.0
"""The initial RAM disk: several archives put end to end, high in low memory."""

from __future__ import annotations

from pyvmm.boot.image import Image
from pyvmm.boot.layout import PAGE_SIZE, align_up, mib
from pyvmm.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import NamedTuple

    from pyvmm.boot.image import Source
    from pyvmm.machine.memory import GuestMemory
else:
    from pyvmm.record import NamedTuple

#: The fewest between two parts.
ZEROS = 4


class Placed(NamedTuple):
    """Where the initrd lies: guest-physical ``gpa`` and ``size`` in bytes, both 0 for none."""

    gpa: int
    size: int


def load(memory: GuestMemory, parts: Iterable[Source], *, floor: int, ceiling: int) -> Placed:
    """Put ``parts`` (paths, or bytes) as high as fits between ``floor`` and ``ceiling``.

    Each part starts at a multiple of 4, with zeros before it, which is how the kernel tells
    archives apart (Documentation/driver-api/early-userspace/buffer-format.rst). There are no fewer
    than four: they end an lz4 part, whose form has no end of its own (lib/decompress_unlz4.c).
    Raise `ConfigError` when they do not fit, `ImageError` or `HostError` for a part that cannot be
    used.
    """
    images: list[Image] = []
    try:
        images += (Image(part, "initrd") for part in parts)
        return _place(memory, images, floor, ceiling)
    finally:
        for image in images:
            image.close()


def _place(memory: GuestMemory, images: Sequence[Image], floor: int, ceiling: int) -> Placed:
    size = 0
    for image in images:
        size = _start(size) + image.size
    if size == 0:
        return Placed(0, 0)
    gpa = (ceiling - size) & -PAGE_SIZE
    if gpa < floor:
        raise ConfigError(
            f"the initrd of {mib(size)} MiB does not fit between the kernel, which ends at "
            f"{mib(floor)} MiB, and the highest address for it, {mib(ceiling)} MiB; "
            "give the guest more memory or use a smaller initrd"
        )
    with memory.view(gpa, size) as view:
        _fill(view, images)
    return Placed(gpa, size)


def _start(offset: int) -> int:
    """Where the next part goes, after what ends at `offset`."""
    return align_up(offset + ZEROS, 4) if offset else 0


def _fill(view: memoryview, images: Sequence[Image]) -> None:
    offset = 0
    for image in images:
        start = _start(offset)
        view[offset:start] = bytes(start - offset)
        with view[start : start + image.size] as part:
            image.read_into(0, part)
        offset = start + image.size
