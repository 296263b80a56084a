# SPDX-License-Identifier: Apache-2.0
"""Kernel images of every kind, with initrds and command lines: what is not loaded is refused by an error of ours."""

from __future__ import annotations

import struct
from typing import Any

from tests.fuzz import python

with python.instrumented(include=["pyvmm"]):
    # All of them now: a launch imports what it needs, and later than that nothing is counted.
    from pyvmm.boot import bzimage, elf, flat, initrd, multiboot, pvh  # noqa: F401
    from pyvmm.boot.load import load_kernel
    from pyvmm.errors import Error

from tests.support import images

MEMORY = images.FakeMemory(24 << 20, high=1 << 20)
COMMAND_LINES = ("", "console=ttyS0", "a" * 300, "x" * 5000, "\0", "\udc80", "é")
INITRDS: tuple[tuple[bytes, ...], ...] = (
    (),
    (b"x" * 5000,),
    (b"", b"abc", b"d"),
    (bytes(1 << 20),),
)


def some_elf(provider: Any) -> bytes:
    """An ELF kernel, whose program headers are a little or wholly wrong."""
    bits = 64 if provider.ConsumeBool() else 32
    loads = tuple(
        images.Load(
            0x100000 * (1 + each) if provider.ConsumeBool() else python.number(provider, bits),
            provider.ConsumeBytes(16),
            python.number(provider, bits) if provider.ConsumeBool() else 4096,
        )
        for each in range(provider.ConsumeIntInRange(0, 3))
    )
    extra = tuple(
        images.program_header(
            bits,
            provider.ConsumeIntInRange(0, 7),
            *(python.number(provider, bits) for _ in range(6)),
        )
        for _ in range(provider.ConsumeIntInRange(0, 2))
    )
    notes = provider.ConsumeBytes(40) if provider.ConsumeBool() else None
    if not loads and notes is None:
        notes = b""
    return images.vmlinux(loads, notes, bits=bits, extra=extra)


def some_bzimage(provider: Any) -> bytes:
    """A bzImage with fields that may be anything."""
    return images.bzimage(
        provider.ConsumeBytes(provider.ConsumeIntInRange(0, 64)).ljust(512, b"\xf4"),
        setup_sects=provider.ConsumeIntInRange(0, 8),
        version=python.number(provider, 16) if provider.ConsumeBool() else 0x20F,
        pref_address=python.number(provider, 64) if provider.ConsumeBool() else 16 << 20,
        init_size=python.number(provider, 32) if provider.ConsumeBool() else 1 << 20,
        alignment=python.number(provider, 32) if provider.ConsumeBool() else 2 << 20,
        relocatable=provider.ConsumeIntInRange(0, 1),
        loadflags=provider.ConsumeIntInRange(0, 255),
        xloadflags=python.number(provider, 16),
        cmdline_size=python.number(provider, 32),
        initrd_addr_max=python.number(provider, 32) if provider.ConsumeBool() else 0x7FFFFFFF,
    )


def some_multiboot(provider: Any) -> bytes:
    """A Multiboot 1 kernel, by its address fields or by ELF."""
    flags = provider.ConsumeIntInRange(0, 7) | provider.ConsumeIntInRange(0, 1) << 16
    fields = [0x100000 if provider.ConsumeBool() else python.number(provider, 32) for _ in range(5)]
    head = images.multiboot_header(flags) + struct.pack("<5I", *fields)
    before = bytes(4 * provider.ConsumeIntInRange(0, 8))
    return before + head + provider.ConsumeBytes(64) + bytes(256)


def some_image(provider: Any) -> bytes:
    """One of these, or bytes as they come; changed in places, and cut off."""
    kinds = (some_elf, some_bzimage, some_multiboot, lambda given: given.ConsumeBytes(2048))
    image = bytearray(kinds[provider.ConsumeIntInRange(0, 3)](provider))
    for _ in range(provider.ConsumeIntInRange(0, 4)):
        if image:
            image[provider.ConsumeIntInRange(0, len(image) - 1)] = provider.ConsumeIntInRange(
                0, 255
            )
    if provider.ConsumeBool():
        del image[provider.ConsumeIntInRange(0, len(image)) :]
    return bytes(image)


def one(data: bytes) -> None:
    provider = python.Provider(data)
    image = some_image(provider)
    mode = (None, None, None, None, "real", "protected", "long")[provider.ConsumeIntInRange(0, 6)]
    try:
        load_kernel(
            image,  # type: ignore[arg-type]
            MEMORY,  # type: ignore[arg-type]
            cmdline=COMMAND_LINES[provider.ConsumeIntInRange(0, len(COMMAND_LINES) - 1)],
            initrd=INITRDS[provider.ConsumeIntInRange(0, len(INITRDS) - 1)],
            flat=mode,
            address=python.number(provider, 64) if mode and provider.ConsumeBool() else None,
            gib_pages=provider.ConsumeBool(),
            fresh=provider.ConsumeBool(),
        )
    except Error:
        pass


if __name__ == "__main__":
    python.run(one)
