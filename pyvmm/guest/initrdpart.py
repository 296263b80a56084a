# SPDX-License-Identifier: Apache-2.0
"""The first bytes of a part of an initrd tell its kind; the guest's kernel must know that. On the launch path."""

from __future__ import annotations

from pyvmm.boot import compression
from pyvmm.errors import HostError, ImageError
from pyvmm.guest import cache

CPIO = (b"070701", b"070702")


def check(name: str, kernel: str) -> None:
    """Raises ImageError for a part that the kernel file's kernel cannot unpack, as far as the first bytes tell.

    Which forms it knows, the configuration beside it says; where there is none, all of them.
    """
    head = _head(name)
    if head.startswith(CPIO):
        return
    form = compression.form_of(head)
    if form is None:
        raise ImageError(f"--initrd {name}: it is neither a cpio archive nor a compressed one")
    if not form.option:
        raise ImageError(
            f"--initrd {name}: the kernel reads {form.name} in its old form only; make it with lz4 -l"
        )
    config = cache.config_text(kernel)
    if config and f"\n{form.option}=y\n" not in config:
        raise ImageError(
            f"--initrd {name}: it is compressed with {form.name}, which this guest's kernel cannot unpack "
            f"({form.option}); uncompress it, or use gzip"
        )


def _head(name: str) -> bytes:
    """Its first bytes, after the zeros that may stand there."""
    try:
        with open(name, "rb") as file:
            if not file.read(1):
                raise ImageError(f"--initrd {name}: it is empty")
            file.seek(0)
            while (head := file.read(4096)) and not head.strip(b"\0"):
                continue
            return head.lstrip(b"\0")[: compression.HEAD]
    except OSError as error:
        raise HostError(error.errno, f"--initrd {name}: {error.strerror}") from error
