# SPDX-License-Identifier: Apache-2.0
"""The choice of a vmlinux, of ELF files made up here."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.drgn import vmcoreinfo, vmlinux
from pyvmm.errors import ConfigError, ImageError
from pyvmm.launch import status
from tests.support.madeup_kernel import BUILD_ID, elf, text


def test_vmlinux_that_is_given(info, tmp_path):
    path = elf(tmp_path)
    assert vmlinux.find(info, path) == vmlinux.Vmlinux(path, BUILD_ID, True)


def test_vmlinux_of_another_kernel(info, tmp_path):
    path = elf(tmp_path, build_id="ff" * 20)
    with pytest.raises(ImageError, match="not of the running kernel") as caught:
        vmlinux.find(info, path)
    assert "ff" * 20 in str(caught.value)
    assert BUILD_ID in str(caught.value)
    assert status.of_error(caught.value) == status.USAGE


def test_vmlinux_without_types(info, tmp_path):
    with pytest.raises(ImageError, match="no debug information; a kernel of pyvmm guest build"):
        vmlinux.find(info, elf(tmp_path, types=False))


@pytest.mark.parametrize(("banner", "same"), [("6.12.117-made-up", True), ("6.12.117", False)])
def test_vmlinux_without_a_build_id(banner, same, tmp_path):
    old = vmcoreinfo.parse(text(**{"BUILD-ID": None}))
    path = elf(tmp_path, banner=banner)
    if same:
        assert vmlinux.find(old, path).path == path
    else:
        with pytest.raises(ImageError, match="the guest's missing"):
            vmlinux.find(old, path)


def test_vmlinux_of_the_cache(info, tmp_path):
    folder = tmp_path / "cache" / "guest"
    elf(folder, "kernel-1/vmlinux.debug", build_id="ff" * 20)
    wanted = elf(folder, "kernel-2/vmlinux.debug")
    (folder / "kernel-0").mkdir()
    (folder / "kernel-0" / "vmlinux.debug").write_bytes(b"broken")
    assert vmlinux.find(info).path == wanted


def test_vmlinux_of_the_cache_without_types(info, tmp_path):
    elf(tmp_path / "cache/guest/kernel-1", "vmlinux.debug", types=False)
    with pytest.raises(ImageError, match="is the running kernel's but has no debug information"):
        vmlinux.find(info)


def test_no_vmlinux(info):
    with pytest.raises(ConfigError, match=r"no vmlinux of the running kernel 6.12.117-made-up"):
        vmlinux.find(info)


def test_release_is_no_way_out_of_a_folder():
    info = vmcoreinfo.parse(text(OSRELEASE="../../etc", **{"BUILD-ID": "../.."}))
    assert not [place for place in vmlinux.places(info) if ".." in place]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no 64-bit ELF"),
        (b"bzImage".ljust(4096, b"\0"), "no 64-bit ELF"),
        (b"\x7fELF\x02\x01".ljust(64, b"\0"), "no sections"),
    ],
)
def test_file_that_is_no_vmlinux(content, message, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=message):
        vmlinux.examine(str(path))


def test_vmlinux_that_is_not_there(tmp_path):
    with pytest.raises(ImageError, match="No such file"):
        vmlinux.examine(str(tmp_path / "vmlinux"))


@given(st.data())
def test_damaged_vmlinux(tmp_path_factory, data):
    path = Path(elf(tmp_path_factory.mktemp("elf")))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(4, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        vmlinux.examine(str(path))
    except ImageError:
        pass


def test_sections_that_all_have_the_same_notes_and_a_name_without_end(tmp_path, monkeypatch):
    """What is read and copied stays in proportion to the file."""
    count, size = 40_000, 1 << 20
    body = b"n" * size
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01",
        2,
        62,
        1,
        0,
        0,
        64 + size,
        0,
        64,
        0,
        0,
        64,
        count,
        1,
    )
    row = struct.pack("<IIQQQQIIQQ", 0, 7, 0, 0, 64, size, 0, 0, 1, 0)
    path = tmp_path / "vmlinux"
    path.write_bytes(header + body + row * count)
    asked = []
    read_at = vmlinux._read_at
    monkeypatch.setattr(
        vmlinux, "_read_at", lambda file, at, size: asked.append(size) or read_at(file, at, size)
    )
    assert vmlinux.examine(str(path)).build_id == ""
    assert sum(asked) <= 3 * size + 64 * count


@pytest.mark.parametrize("piece", [1, 40, 1 << 20])
def test_a_text_is_found_across_the_pieces_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    path = elf(tmp_path)
    monkeypatch.setattr(vmlinux, "PIECE", piece)
    assert vmlinux._holds(path, b"Linux version 6.12.117-made-up ")
    assert not vmlinux._holds(path, b"Linux version 6.12.118-made-up ")
