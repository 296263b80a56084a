# SPDX-License-Identifier: Apache-2.0
"""The first bytes of a part of an initrd tell its kind; the guest's kernel must know that. On the launch path."""

from __future__ import annotations

from pyvmm.errors import HostError, ImageError
from pyvmm.guest import cache

#: The beginning, what that is, and the kernel's option for it (lib/decompress.c, init/initramfs.c).
KINDS = (
    (b"070701", "a cpio archive", ""),
    (b"070702", "a cpio archive", ""),
    (b"\x1f\x8b", "gzip", "CONFIG_RD_GZIP"),
    (b"\x1f\x9e", "gzip", "CONFIG_RD_GZIP"),
    (b"BZh", "bzip2", "CONFIG_RD_BZIP2"),
    (b"\x5d\x00\x00", "lzma", "CONFIG_RD_LZMA"),
    (b"\xfd7zXZ\x00", "xz", "CONFIG_RD_XZ"),
    (b"\x89LZO\x00\r\n\x1a\n", "lzo", "CONFIG_RD_LZO"),
    (b"\x02\x21\x4c\x18", "lz4", "CONFIG_RD_LZ4"),
    (b"\x28\xb5\x2f\xfd", "zstd", "CONFIG_RD_ZSTD"),
)
#: Without -l, lz4 writes this.
LZ4_FRAME = b"\x04\x22\x4d\x18"
HEAD = 16


def check(name: str, kernel: str) -> None:
    """Raises ImageError for a part that the kernel file's kernel cannot unpack, as far as the first bytes tell.

    Which forms it knows, the configuration beside it says; where there is none, all of them.
    """
    head = _head(name)
    if head.startswith(LZ4_FRAME):
        raise ImageError(
            f"--initrd {name}: the kernel reads lz4 in its old form only; make it with lz4 -l"
        )
    for begin, kind, option in KINDS:
        if head.startswith(begin):
            config = cache.config_text(kernel) if option else ""
            if config and f"\n{option}=y\n" not in config:
                raise ImageError(
                    f"--initrd {name}: it is compressed with {kind}, which this guest's kernel cannot unpack "
                    f"({option}); uncompress it, or use gzip"
                )
            return
    raise ImageError(f"--initrd {name}: it is neither a cpio archive nor a compressed one")


def _head(name: str) -> bytes:
    """Its first bytes, after the zeros that may stand there."""
    try:
        with open(name, "rb") as file:
            if not file.read(1):
                raise ImageError(f"--initrd {name}: it is empty")
            file.seek(0)
            while (head := file.read(4096)) and not head.strip(b"\0"):
                continue
            return head.lstrip(b"\0")[:HEAD]
    except OSError as error:
        raise HostError(error.errno, f"--initrd {name}: {error.strerror}") from error
