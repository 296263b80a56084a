# SPDX-License-Identifier: Apache-2.0
"""The part that a launch adds to the initramfs: the command, its environment, files.

On the launch path.
"""

from __future__ import annotations

import os

from pyvmm.errors import ConfigError, HostError
from pyvmm.guest import cpio

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

COMMAND = "pyvmm/command"
ENVIRONMENT = "pyvmm/env"
# The guest's init mounts over these, so that a file put there would not be seen.
HIDDEN = (b"dev", b"proc", b"run", b"sys", b"tmp")
# Their content says that they are programs: a script or an ELF object.
PROGRAM_MARKS = (b"#!", b"\x7fELF")


def overlay(
    command: Sequence[str],
    env: Mapping[str, str] | None = None,
    files: Mapping[str, bytes | str | os.PathLike[str]] | None = None,
) -> bytes:
    """Return a cpio archive for appending to the guest's initramfs, a multiple of 4 bytes long.

    ``command`` is what the guest runs (none at all: a shell). ``env`` adds to its environment.
    ``files`` maps absolute guest paths to contents: bytes, or the path of a host file, whose
    permissions go along. Bytes that begin like a program become executable.

    Raise ConfigError for names, arguments and paths that cannot be passed on, HostError for a host
    file that cannot be read.
    """
    archive = cpio.Archive()
    archive.directory("pyvmm")
    if command:
        archive.file(COMMAND, join_zero(command, "argument"))
    if env:
        archive.file(ENVIRONMENT, environment(env))
    for name, content in (files or {}).items():
        add_file(archive, name, content)
    return archive.finish()


def join_zero(texts: Sequence[str], what: str) -> bytes:
    """Return the texts, each closed by a zero byte, so that empty ones survive."""
    if isinstance(texts, str):
        raise ConfigError(f"the command is a sequence of arguments, not one string: {texts!r}")
    encoded = [cpio.as_bytes(text) for text in texts]
    for text in encoded:
        if b"\0" in text:
            raise ConfigError(f"{what} with a zero byte in it: {text!r}")
    return b"".join(text + b"\0" for text in encoded)


def environment(env: Mapping[str, str]) -> bytes:
    """Join an environment as NAME=VALUE entries."""
    for name in env:
        if not name or "=" in name:
            raise ConfigError(f"not a name for an environment variable: {name!r}")
    return join_zero([f"{name}={value}" for name, value in env.items()], "environment variable")


def add_file(archive: cpio.Archive, name: str, content: bytes | str | os.PathLike[str]) -> None:
    """Add one file and the directories above it."""
    clean = cpio.clean_name(name)
    if not name.startswith("/"):
        raise ConfigError(f"files go to absolute paths in the guest: '/{name}', not '{name}'")
    if clean.split(b"/", 1)[0] in HIDDEN:
        raise ConfigError(f"the guest mounts over {name}: choose a place such as /root or /opt")
    if name.endswith("/") or clean in (COMMAND.encode(), ENVIRONMENT.encode()):
        raise ConfigError(f"a file cannot be put at {name}")
    if isinstance(content, bytes):
        data, mode = content, 0o755 if content.startswith(PROGRAM_MARKS) else 0o644
    else:
        data, mode = read_host_file(content)
    archive.parents(clean)
    archive.file(clean, data, mode)


def read_host_file(path: str | os.PathLike[str]) -> tuple[bytes, int]:
    """Read the contents and the permissions of a file of the host."""
    try:
        with open(path, "rb") as file:
            return file.read(), os.fstat(file.fileno()).st_mode & 0o777
    except OSError as error:
        raise HostError(
            error.errno, f"cannot read the file for the guest: {error.strerror}", os.fspath(path)
        ) from error
