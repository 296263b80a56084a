# SPDX-License-Identifier: Apache-2.0
"""Inputs of the targets: what found something once, seeds that the repository has, and what this machine has gathered.

tests/fuzz/found/TARGET/NAME     an input that brought a fault to light; its name says which
tests/fuzz/seeds/TARGET.tar.xz   a small set that reaches what a long search reached
CACHE/fuzz/TARGET/               what searches on this machine have added
"""

from __future__ import annotations

import io
import lzma
import shutil
import tarfile
from hashlib import sha1
from pathlib import Path

from pyvmm.cachefolder import cache_root
from tests.fuzz.compile import HERE, OUT


def found(name: str) -> Path:
    """The folder of inputs that showed a fault."""
    return HERE / "found" / name


def gathered(name: str) -> Path:
    """The folder that searches add to."""
    folder = Path(cache_root()) / "fuzz" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def seeds(name: str) -> Path:
    """The repository's seeds, unpacked."""
    folder = OUT / name / "seeds"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    packed = _packed(name)
    if packed.exists():
        with tarfile.open(packed) as archive:
            for member in archive:
                content = archive.extractfile(member)
                assert content is not None
                (folder / Path(member.name).name).write_bytes(content.read())
    return folder


def pack(name: str, folder: Path) -> int:
    """Makes what lies in a folder the repository's seeds; the number of bytes. The same inputs give the same file."""
    raw = io.BytesIO()
    inputs = sorted(
        (path.read_bytes() for path in folder.iterdir()), key=lambda each: (len(each), each)
    )
    with tarfile.open(fileobj=raw, mode="w") as archive:
        for content in inputs:
            member = tarfile.TarInfo(sha1(content, usedforsecurity=False).hexdigest()[:16])
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    packed = _packed(name)
    packed.parent.mkdir(exist_ok=True)
    packed.write_bytes(lzma.compress(raw.getvalue(), preset=9))
    return packed.stat().st_size


def _packed(name: str) -> Path:
    return HERE / "seeds" / f"{name}.tar.xz"
