# SPDX-License-Identifier: Apache-2.0
"""The check of a part of an initrd: a form that the guest's kernel must know, and whole as far as
that is cheap to see.

On the launch path.
"""

from __future__ import annotations

from pyvmm.boot import compression
from pyvmm.boot.image import open_regular
from pyvmm.errors import HostError, ImageError
from pyvmm.guest import cache

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO

CPIO = (b"070701", b"070702")


def check(name: str, kernel: str) -> None:
    """Raise ImageError for a part that the kernel file's kernel cannot unpack, as far as the first
    bytes tell.

    Which forms it knows, the configuration beside it says; where there is none, all of them. Of an
    lz4 part the blocks are looked at as well.
    """
    try:
        fd, _ = open_regular(name, f"--initrd {name}")
        with open(fd, "rb") as file:
            begin = _begin(name, file)
            head = file.read(compression.HEAD)
            if head.startswith(CPIO):
                return
            _check_form(name, compression.form_of(head), kernel)
            if head.startswith(compression.LZ4):
                _check_lz4(name, file, begin)
    except HostError:
        raise
    except OSError as error:
        raise HostError(error.errno, f"--initrd {name}: {error.strerror}") from error


def _check_form(name: str, form: compression.Form | None, kernel: str) -> None:
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


def _check_lz4(name: str, file: BinaryIO, at: int) -> None:
    """Raise ImageError unless the blocks end where the file does, or where a block of 0 bytes says
    so.

    Each has its length before it (lib/decompress_unlz4.c). The kernel does not compare that with
    what is there: it reads on behind the initrd, may meet the end of RAM, and then never starts its
    init.
    """
    end = file.seek(0, 2)
    while at < end:
        file.seek(at)
        word = file.read(4)
        if not word.strip(b"\0"):
            return
        at += 4
        if word != compression.LZ4:
            at += int.from_bytes(word, "little")
    if at != end:
        raise ImageError(
            f"--initrd {name}: an lz4 block goes on behind the end of the file, "
            "which is cut off or has something else behind it"
        )


def _begin(name: str, file: BinaryIO) -> int:
    """Go to the first byte that is not zero, and give its place."""
    at = 0
    while piece := file.read(4096):
        if piece.strip(b"\0"):
            at += len(piece) - len(piece.lstrip(b"\0"))
            break
        at += len(piece)
    if not at and not piece:
        raise ImageError(f"--initrd {name}: it is empty")
    return file.seek(at)
