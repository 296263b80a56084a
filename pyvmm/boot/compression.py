# SPDX-License-Identifier: Apache-2.0
"""Forms of compression, by their first bytes.

pyvmm unpacks no kernel, and says how to. An initrd is unpacked by the guest's kernel, if it knows the form.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple
else:
    from pyvmm.record import NamedTuple


class Form(NamedTuple):
    """A form of compression.

    `magic` begins a file of it. `option` is the kernel's, by which it unpacks an initrd of that form
    (init/initramfs.c, lib/decompress.c); "" where it cannot. `command` unpacks a file to its output.
    """

    magic: bytes
    name: str
    option: str
    command: str


#: The old form, which is the kernel's.
LZ4 = b"\x02\x21\x4c\x18"

FORMS = (
    Form(b"\x1f\x8b", "gzip", "CONFIG_RD_GZIP", "gzip -dc"),
    Form(b"\x1f\x9e", "gzip", "CONFIG_RD_GZIP", "gzip -dc"),
    Form(b"BZh", "bzip2", "CONFIG_RD_BZIP2", "bzip2 -dc"),
    Form(b"\x5d\0\0", "lzma", "CONFIG_RD_LZMA", "xz --format=lzma -dc"),
    Form(b"\xfd7zXZ\0", "xz", "CONFIG_RD_XZ", "xz -dc"),
    Form(b"\x89LZO\0\r\n\x1a\n", "lzo", "CONFIG_RD_LZO", "lzop -dc"),
    Form(LZ4, "lz4", "CONFIG_RD_LZ4", "lz4 -dc"),
    # lz4 writes this form without -l. The kernel reads the old form only.
    Form(b"\x04\x22\x4d\x18", "lz4", "", "lz4 -dc"),
    Form(b"\x28\xb5\x2f\xfd", "zstd", "CONFIG_RD_ZSTD", "zstd -dc"),
)
#: As many bytes as tell them apart.
HEAD = max(len(form.magic) for form in FORMS)


def form_of(head: bytes) -> Form | None:
    """Return the form of a file that begins so; None for one that is not compressed, or in no form known here."""
    for form in FORMS:
        if head.startswith(form.magic):
            return form
    return None
