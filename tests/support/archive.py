# SPDX-License-Identifier: Apache-2.0
"""A reader of cpio archives, independent of the writer."""

from __future__ import annotations


def walk(data: bytes) -> dict[bytes, tuple[int, bytes]]:
    """An independent reader: name -> (mode, data), up to the trailer."""
    found: dict[bytes, tuple[int, bytes]] = {}
    at = 0
    while True:
        assert at % 4 == 0
        head = data[at : at + 110]
        assert head[:6] == b"070701"
        fields = [int(head[6 + 8 * i : 14 + 8 * i], 16) for i in range(13)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        name = data[at + 110 : at + 110 + name_size]
        assert name.endswith(b"\0")
        at += 110 + name_size
        at += -at % 4
        body = data[at : at + size]
        at += size
        at += -at % 4
        if name == b"TRAILER!!!\0":
            assert not any(data[at:])
            return found
        found[name[:-1]] = (mode, body)
