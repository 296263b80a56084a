# SPDX-License-Identifier: Apache-2.0
"""Files that are written to: whose they may be, what becomes of what is in them, and when."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.errors import ConfigError, HostError
from pyvmm.outfile import STREAMS, OutFile, check, identity, refuse_streams

SOMEBODY = 4242
#: A folder that anybody may write to and where links of others may lie.
SHARED_TMP = Path("/tmp")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("old").write_text("kept")


def opened(path: str) -> OutFile:
    return OutFile("--log", path)


def refuses(path: str, reason: str) -> None:
    before = {p.name: p.read_bytes() for p in Path().iterdir() if p.is_file()}
    with pytest.raises(ConfigError, match=reason) as caught:
        opened(path).lock()
    assert str(caught.value).startswith(f"--log {path}: ")
    assert {p.name: p.read_bytes() for p in Path().iterdir() if p.is_file()} == before


def test_nothing_changes_until_the_beginning() -> None:
    with opened("old") as old, opened("new") as new:
        assert (Path("old").read_text(), Path("new").read_text()) == ("kept", "")
        old.begin()
        new.begin()
        old.write(b"more")
        old.begin()
    assert (Path("old").read_text(), Path("new").read_text()) == ("more", "")


def test_what_was_not_begun_is_as_it_was() -> None:
    opened("old").close()
    opened("new").close()
    check("--log", "newer")
    assert os.listdir() == ["old"]
    assert Path("old").read_text() == "kept"


def test_a_file_that_took_the_name_stays() -> None:
    with opened("new"):
        os.unlink("new")
        Path("new").write_text("another")
    assert Path("new").read_text() == "another"


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("", "Is a directory"),
        (".", "Is a directory"),
        ("new/", "Is a directory|No such file"),
        ("old/", "Not a directory"),
        ("no/where", "No such file"),
        ("old/x", "Not a directory"),
        ("/dev/stdin", "not open for writing"),
        ("loop", "Too many levels"),
        ("x" * 300, "File name too long"),
    ],
)
def test_what_cannot_be_written(path: str, reason: str) -> None:
    os.symlink("loop", "loop")
    code = (
        "import sys; from pyvmm.outfile import OutFile; from pyvmm.errors import ConfigError\n"
        "try: OutFile('--log', sys.argv[1])\nexcept ConfigError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path], input="", capture_output=True, text=True, check=True
    )  # fmt: skip
    assert any(word in done.stdout for word in reason.split("|")), done.stdout


@pytest.mark.parametrize("path", ["old", "./old", "folder/../old", "link", "far/old", "chain"])
def test_every_way_leads_to_the_same_file(path: str) -> None:
    Path("folder").mkdir()
    os.symlink("old", "link")
    os.symlink(os.getcwd(), "far")
    os.symlink("far/link", "chain")
    with opened(path) as file:
        assert file.identity == identity(os.stat("old"))
        file.begin()
        file.write(b"new")
    assert Path("old").read_text() == "new"


def test_a_link_to_nothing_makes_its_target() -> None:
    os.symlink("target", "link")
    with opened("link") as file:
        file.begin()
    assert Path("target").exists()
    os.unlink("target")
    opened("link").close()
    assert (Path("target").exists(), os.path.islink("link")) == (False, True)


@pytest.fixture
def somebodys_link(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A link to the file, laid out by another user in a folder that anybody may write to."""
    link = SHARED_TMP / f"pyvmm-test-{os.getpid()}"
    os.symlink(os.path.abspath("old"), link)
    if os.geteuid() == 0:
        os.chown(link, SOMEBODY, -1, follow_symlinks=False)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: SOMEBODY)
    yield link
    os.unlink(link)


def test_nobody_elses_link_is_followed(somebodys_link: Path) -> None:
    refuses(str(somebodys_link), "is a link of user .*, which is not followed")


def test_nobody_elses_link_is_followed_on_the_way(somebodys_link: Path) -> None:
    os.unlink(somebodys_link)
    os.symlink(os.getcwd(), somebodys_link)
    if os.geteuid() == 0:
        os.chown(somebodys_link, SOMEBODY, -1, follow_symlinks=False)
    refuses(f"{somebodys_link}/old", "is not followed")
    refuses(f"{somebodys_link}/new", "is not followed")


def test_nobody_else_may_own_it(monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() == 0:
        os.chown("old", SOMEBODY, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: SOMEBODY)
    refuses("old", "it belongs to user .*, who could read")


def test_a_file_with_two_names_is_not_taken_in_tmp() -> None:
    os.link("old", "second")
    with opened("second"):
        pass
    os.chmod(".", 0o1777)
    refuses("second", "another name elsewhere")


def test_one_that_can_only_be_appended_to_cannot_be_emptied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path("log").write_text("old")
    real = os.open

    def append_only(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if path == "log" and not flags & os.O_APPEND:  # as the kernel's may_open()
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        return real(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", append_only)
    with pytest.raises(ConfigError, match=r"--log log: .*only be appended to"):
        OutFile("--log", "log")
    assert Path("log").read_text() == "old"


def test_a_pipe_needs_a_reader() -> None:
    os.mkfifo("pipe")
    refuses("pipe", "nobody reads from that pipe")
    reader = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)
    with opened("pipe") as file:
        file.lock()
        file.begin()
        file.write(b"word")
        assert os.read(reader, 100) == b"word"
        assert os.get_blocking(file.fd)
    os.close(reader)


def test_a_socket_is_no_file() -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        refuses("socket", "it is a socket")


def test_a_file_that_is_emptied_meanwhile_has_no_hole() -> None:
    with opened("new") as file:
        file.begin()
        file.write(b"before")
        os.truncate("new", 0)
        file.write(b"after")
    assert Path("new").read_bytes() == b"after"


def test_a_descriptor_is_written_behind_what_is_there() -> None:
    with open("old", "a+") as there:
        with opened(f"/dev/fd/{there.fileno()}") as file:
            file.lock()
            file.begin()
            file.write(b", too")
        assert file.shared
        there.write(" at last")
    assert Path("old").read_text() == "kept, too at last"
    ends = os.pipe()
    with opened(f"/proc/self/fd/{ends[1]}") as file:
        file.write(b"x")
    assert os.read(ends[0], 2) == b"x"


def test_one_that_is_in_use_is_refused() -> None:
    with opened("old") as first:
        first.lock()
        refuses("old", "it is in use")
    with opened("old") as second:
        second.lock()
    with opened("/dev/null") as null, opened("/dev/null") as again:
        null.lock()
        again.lock()


def test_a_standard_stream_is_not_written_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fstat
    with opened("old") as file, open("old") as same:
        refuse_streams(file)
        for number, name in enumerate(STREAMS):
            monkeypatch.setattr(
                os, "fstat", lambda fd, it=number: real(same.fileno() if fd == it else fd)
            )
            with pytest.raises(ConfigError, match=f"--log old: it is {name} as well"):
                refuse_streams(file)
    assert Path("old").read_text() == "kept"


def test_a_full_disk_is_an_error_that_names_the_file() -> None:
    with opened("/dev/full") as file:
        file.begin()
        with pytest.raises(HostError, match="--log /dev/full: No space"):
            file.write(b"x")
