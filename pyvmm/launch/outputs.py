# SPDX-License-Identifier: Apache-2.0
"""The files that a `pyvmm run` writes, and that none of them is one it also reads or writes
otherwise.
"""

from __future__ import annotations

import os

from pyvmm.errors import ConfigError
from pyvmm.outfile import STREAMS, OutFile, empty, identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from pyvmm.launch.plan import Plan


class Outputs:
    """The log and the record, open; nothing in them changes until `begin`.

    A context manager. Raises ConfigError for a file that cannot be written, or that the run names
    twice.
    """

    def __init__(self, plan: Plan) -> None:
        self.log: OutFile | None = None
        self.record: OutFile | None = None
        #: In the background standard output is the log, which the caller opened; whether it is to be emptied.
        self.stands_for_log = getattr(plan.args, "log_to_empty", None)
        try:
            self._open(plan.args)
            refuse_same(plan, self)
            for file in self.files():
                file.lock()
        except BaseException:
            self.close()
            raise

    def _open(self, args: Any) -> None:
        if args.log is not None:
            self.log = OutFile("--log", args.log)
        if args.json is not None and args.json != "-":
            self.record = OutFile("--json", args.json)

    def files(self) -> list[OutFile]:
        """List those that there are."""
        return [file for file in (self.log, self.record) if file is not None]

    @property
    def log_fd(self) -> int:
        """The log's descriptor, or -1."""
        return -1 if self.log is None else self.log.fd

    def begin(self) -> None:
        """Begin the run: empty the files."""
        for file in self.files():
            file.begin()
        if self.stands_for_log:
            empty(1)

    def close(self) -> None:
        """Let go of the files; those made for a run that did not start are removed."""
        for file in self.files():
            file.close()

    def __enter__(self) -> Outputs:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def refuse_same(plan: Plan, outputs: Outputs) -> None:
    """Raise ConfigError if one file is named twice and the run writes to it."""
    seen: dict[tuple[int, ...], tuple[str, bool]] = {}
    for what, found, writes in uses(plan, outputs):
        if found is None:
            continue
        other, also_writes = seen.get(found, ("", False))
        both_streams = what in STREAMS and other in STREAMS
        if other and (writes or also_writes) and not both_streams:
            raise ConfigError(f"{what} is the same file as {other}; nothing was changed in it")
        seen[found] = (other or what, writes or also_writes)


def uses(plan: Plan, outputs: Outputs) -> Iterator[tuple[str, tuple[int, ...] | None, bool]]:
    """Yield how the run names each file, the identity of that file, and whether the run writes to
    it.
    """
    boot, swap = plan.config.boot, plan.swap
    yield f"--kernel {plan.kernel}", _at(plan.kernel), False
    for part in boot.initrd:
        if isinstance(part, str):
            # A module of a Multiboot kernel may have a string after its name.
            yield f"--initrd {part}", _at(part) or _at(part.partition(" ")[0]), False
    for disk in plan.disks:
        yield f"--disk {disk.file}", _at(disk.file), not disk.readonly
    for file in outputs.files():
        if not file.shared:
            yield f"{file.option} {file.path}", file.identity, True
    if swap is not None and swap.backing is not None:
        yield f"--swap-file {swap.backing}", _at(swap.backing), True
    names = STREAMS if outputs.stands_for_log is None else (STREAMS[0], "--log")
    for fd, name in enumerate(names):
        yield name, identity(os.fstat(fd)), fd > 0


def _at(path: str | int) -> tuple[int, ...] | None:
    try:
        return identity(os.stat(path))
    except OSError:
        return None
