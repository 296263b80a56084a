# SPDX-License-Identifier: Apache-2.0
"""The front door: recognising files, errors that name them, and inputs made to break it."""

import errno
import gzip
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvmm.boot import bzimage, initrd, pvh
from pyvmm.boot.image import Image
from pyvmm.boot.load import load_kernel
from pyvmm.errors import ConfigError, HostError, ImageError, StateError
from tests.support import images as support
from tests.support.images import MIB, FakeMemory


@pytest.fixture
def write(tmp_path):
    def write(data: bytes, name: str = "kernel"):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


def test_each_kind(write) -> None:
    assert load_kernel(write(support.bzimage()), FakeMemory()).mode == "long"
    assert load_kernel(str(write(support.vmlinux())), FakeMemory()).mode == "protected"
    assert load_kernel(write(b"\xf4"), FakeMemory(), flat="real").mode == "real"
    state = load_kernel(write(b"\xf4"), FakeMemory(), flat="long", address=2 * MIB)
    assert (state.mode, state.rip) == ("long", 2 * MIB)


def test_initrd_from_files_and_bytes(write) -> None:
    memory = FakeMemory()
    parts = [write(b"first", "a"), b"", b"more", str(write(b"z" * 5000, "b"))]
    load_kernel(write(support.vmlinux()), memory, initrd=parts)
    (modlist,) = struct.unpack("<Q", memory.read(0x6010, 8))
    paddr, size = struct.unpack("<QQ", memory.read(modlist, 16))
    assert paddr % 4096 == 0
    assert memory.read(paddr, size) == b"first" + bytes(11) + b"more" + bytes(4) + b"z" * 5000
    assert paddr + size <= 64 * MIB < paddr + size + 4096


def test_stale_memory_does_not_show_between_parts(write) -> None:
    memory = FakeMemory(fill=0xFF)
    placed = initrd.load(memory, [b"a", b"b"], floor=MIB, ceiling=64 * MIB)
    assert memory.read(placed.gpa, placed.size) == b"a" + bytes(7) + b"b"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (gzip.compress(b"vmlinux", mtime=0), "gzip -dc"),
        (b"\xfd7zXZ\0" + bytes(100), "xz -dc"),
        (b"\x28\xb5\x2f\xfd" + bytes(100), "zstd -dc"),
        (b"BZh9" + bytes(100), "bzip2"),
        (b"MZ" + bytes(54) + b"ARM\x64" + bytes(9), "ARM64"),
        (bytes(56) + b"RSC\x05", "RISC-V"),
        (b"MZ\0\0zimg" + bytes(1000), "zboot"),
        (b"MZ" + bytes(1000), "EFI"),
        (b"MZ" + bytes(200) + b".linux\0\0" + bytes(900), "objcopy -O binary -j .linux"),
        (b"070701" + bytes(1000), "initrd"),
        (b"QFI\xfb" + bytes(1000), "qcow2 disk image"),
        (bytes(510) + b"\x55\xaa", "boot sector"),
        (b"\x7fELF\x01\x02\x01" + bytes(1000), "big-endian"),
        (b"\xd0\x0d\xfe\xed" + bytes(1000), "device tree"),
        (b"#!/bin/sh\n", "flat="),
        (b"\xf4", "flat="),
        (bytes(5000), "flat="),
        (b"\x7fEL", "flat="),
        (b"\x7fELF", "truncated"),
    ],
)
def test_files_that_are_something_else(write, data, message) -> None:
    path = write(data)
    with pytest.raises(ImageError, match=message) as caught:
        load_kernel(path, FakeMemory())
    assert str(path) in str(caught.value)


def test_a_path_that_is_no_file(tmp_path, write) -> None:
    with pytest.raises(HostError, match="absent") as caught:
        load_kernel(tmp_path / "absent", FakeMemory())
    assert caught.value.errno == errno.ENOENT
    with pytest.raises(HostError, match=r"initrd .*absent"):
        load_kernel(write(support.vmlinux()), FakeMemory(), initrd=[tmp_path / "absent"])
    with pytest.raises(ImageError, match="directory"):
        load_kernel(tmp_path, FakeMemory())
    with pytest.raises(ImageError, match="empty"):
        load_kernel(write(b""), FakeMemory())
    with pytest.raises(ImageError, match="empty"):
        load_kernel(write(support.vmlinux()), FakeMemory(), initrd=[write(b"", "initrd")])
    with pytest.raises(ImageError, match="NUL"):
        load_kernel("a\0b", FakeMemory())
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ImageError, match="regular"):
        load_kernel(tmp_path / "fifo", FakeMemory())
    with pytest.raises(ImageError, match="regular"):
        load_kernel("/dev/zero", FakeMemory())


def test_a_file_that_may_not_be_read(write) -> None:
    path = write(support.vmlinux())
    path.chmod(0)
    fd = os.open(path.parent, os.O_PATH)
    before = os.geteuid()
    if before == 0:  # root may read everything
        os.seteuid(65534)
    try:
        with pytest.raises(HostError) as caught:
            load_kernel(f"/proc/self/fd/{fd}/{path.name}", FakeMemory())
    finally:
        os.seteuid(before)
        os.close(fd)
    assert caught.value.errno == errno.EACCES


def test_a_file_that_shrinks(write) -> None:
    path = write(bytes(1000))
    with Image(path, "kernel") as image:
        os.truncate(path, 10)
        with pytest.raises(ImageError, match="shorter"):
            image.read(0, 1000)


def test_options_that_do_not_go_together(write) -> None:
    code = write(b"\xf4")
    with pytest.raises(ConfigError, match="command line"):
        load_kernel(code, FakeMemory(), flat="real", cmdline="quiet")
    with pytest.raises(ConfigError, match="initrd"):
        load_kernel(code, FakeMemory(), flat="real", initrd=[b"x"])
    with pytest.raises(ConfigError, match="address"):
        load_kernel(write(support.bzimage(), "k"), FakeMemory(), address=MIB)


def test_no_descriptor_leaks(write) -> None:
    kernel, archive = write(support.bzimage()), write(b"x", "initrd")
    broken = write(support.bzimage()[:3000], "broken")
    before = len(os.listdir("/proc/self/fd"))
    load_kernel(kernel, FakeMemory(), initrd=[archive])
    for path, parts in ((broken, []), (kernel, [archive, "absent"])):
        with pytest.raises((ImageError, HostError)):
            load_kernel(path, FakeMemory(), initrd=parts)
    assert len(os.listdir("/proc/self/fd")) == before


class Guarded(FakeMemory):
    """Memory that remembers whether anybody asked for something outside it."""

    strayed = False

    def view(self, gpa: int, length: int) -> memoryview:
        try:
            return super().view(gpa, length)
        except Exception:
            self.strayed = True
            raise


guarded = Guarded(4 * MIB)
BZIMAGE = support.bzimage(pref_address=MIB, init_size=MIB, alignment=4096)
VMLINUX = support.vmlinux((support.Load(MIB, b"\xf4" * 64, 256), support.Load(2 * MIB, b"x" * 64)))
VMLINUX32 = support.vmlinux(
    (support.Load(MIB, b"\xf4" * 64, 256), support.Load(2 * MIB, b"x" * 64)), bits=32
)
ODD = (0, 1, 0x7F, 0x80, 0xFF, 0x40, 0x10)


def attempt(module, data: bytes) -> None:
    """Load; whatever the data, it works or says why, and memory is never asked for what is not RAM."""
    with Image(data, "kernel") as image:
        try:
            state = module.load(image, guarded, cmdline="quiet", initrd_parts=[b"initrd"])
        except (ImageError, ConfigError):
            pass
        else:
            assert MIB <= state.rip < 4 * MIB
    assert not guarded.strayed


changes = st.lists(
    st.tuples(st.integers(0, 600), st.one_of(st.sampled_from(ODD), st.integers(0, 255))), max_size=8
)


def mutate(data: bytes, start: int, edits) -> bytes:
    mutated = bytearray(data)
    for offset, value in edits:
        mutated[(start + offset) % len(mutated)] = value
    return bytes(mutated)


@given(changes, st.integers(0, 7000))
@settings(max_examples=400)
def test_mutated_bzimage(edits, size: int) -> None:
    data = mutate(BZIMAGE, 0x1F1, [(offset % 0x78, value) for offset, value in edits])
    attempt(bzimage, data)
    attempt(bzimage, data[:size])


@given(changes, st.integers(0, 700))
@settings(max_examples=400)
def test_mutated_vmlinux(edits, size: int) -> None:
    data = mutate(VMLINUX, 0, edits)
    attempt(pvh, data)
    attempt(pvh, data[:size])
    attempt(pvh, mutate(VMLINUX32, 0, edits))


fields = st.one_of(
    st.integers(0, 2**64 - 1), st.integers(0, 8 * MIB), st.sampled_from([0, 1, 2**63, 2**64 - 1])
)


@given(st.integers(0, 2), st.sampled_from([8, 16, 24, 32, 40, 48]), fields)
@settings(max_examples=400)
def test_program_headers_with_any_value(index: int, offset: int, value: int) -> None:
    data = bytearray(VMLINUX)
    struct.pack_into("<Q", data, 64 + 56 * index + offset, value)
    attempt(pvh, bytes(data))


@given(fields, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.booleans())
@settings(max_examples=400)
def test_setup_header_with_any_place(pref: int, init: int, alignment: int, relocatable) -> None:
    attempt(
        bzimage,
        support.bzimage(
            pref_address=pref, init_size=init, alignment=alignment, relocatable=relocatable
        ),
    )
    attempt(
        bzimage,
        support.bzimage(pref_address=pref, init_size=init, alignment=4096, relocatable=relocatable),
    )


@given(st.binary(max_size=2000))
def test_noise(data: bytes) -> None:
    attempt(pvh, b"\x7fELF\x02\x01\x01" + data)
    attempt(pvh, b"\x7fELF\x01\x01\x01" + data)
    attempt(bzimage, data)


def test_launch_path_imports_nothing_heavy() -> None:
    code = (
        "import sys; before = set(sys.modules)\n"
        "from pyvmm.boot import acpi, bzimage, flat, load, pvh\n"
        "print(*sorted(m for m in set(sys.modules) - before if not m.startswith('pyvmm')))"
    )
    heavy = "dataclasses inspect asyncio subprocess tempfile pathlib json argparse logging ctypes"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(heavy.split()) & set(run.stdout.split())


@pytest.mark.parametrize("as_bytes", [True, False])
def test_an_image_that_is_closed(as_bytes: bool, tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"content")
    image = Image(b"content" if as_bytes else path, "kernel")
    assert image.read(0, 7) == b"content"
    image.close()
    image.close()
    with pytest.raises(StateError, match="is closed"):
        image.read(0, 1)
