# SPDX-License-Identifier: Apache-2.0
"""Makes the patches of the guest driver for a version of Linux, in the form that ``git am`` takes.

Each is made of its text in ``messages/``, of what it changes of Linux in ``hooks-<version>/``, and
of the files that it creates: ``series`` lists these.
"""

from __future__ import annotations

import hashlib
import re
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pyvmm.debian import tools
from pyvmm.errors import ConfigError, HostError
from pyvmm.guest import cache
from pyvmm.guest.source import Patch

if TYPE_CHECKING:
    import os

    from pyvmm.guest.cache import Part

#: Columns of git's diffstat, and of a header's line.
STAT, HEADER = 72, 78
#: Letters of a subject in the name of a patch, as git takes them.
NAME = 52
#: Digits of a blob's hash in an index line.
BLOB = 12


class Section(NamedTuple):
    """A patch's change of one file: the diff, and how many lines it adds and removes."""

    path: str
    text: str
    added: int
    removed: int
    created: bool


def read(name: str) -> list[Patch]:
    """Return the patches of the guest of that name, in order; none for one without the driver.

    Raise ConfigError if a file that is listed is missing, or is no message or hook.
    """
    parts = cache.guest_series(cache.patch_tree(), name)
    return [
        _patch(cache.base_version(name), part, f"{number:0{len(str(len(parts)))}}/{len(parts)}")
        for number, part in enumerate(parts, 1)
    ]


def write(linux: str, folder: str | os.PathLike[str]) -> list[str]:
    """Write the patches for a version into a folder, made if need be; return their paths, in order.

    Raise ConfigError for a version that there are no patches for, and for a folder with other files
    in it; HostError if it cannot be written.
    """
    patches = read(linux)
    target = Path(folder)
    if not patches:
        known = ", ".join(cache.versions(cache.patch_tree()))
        raise ConfigError(f"no patches for Linux {linux}; there are some for {known}")
    try:
        target.mkdir(parents=True, exist_ok=True)
        others = {path.name for path in target.iterdir()} - {patch.name for patch in patches}
    except OSError as error:
        raise HostError(error.errno, str(error.strerror), str(target)) from error
    if others:
        raise ConfigError(
            f"{target} has {min(others)} in it; name a folder that is empty or does not exist"
        )
    for patch in patches:
        tools.write_whole(target / patch.name, patch.text.decode())
    return [str(target / patch.name) for patch in patches]


def _patch(linux: str, part: Part, place: str) -> Patch:
    head, body = _message(part)
    sections = _hooks(linux, part) + [_creation(name) for name in part.files]
    sections.sort(key=lambda section: section.path)
    subject = head["Subject"]
    lines = [
        f"From {'0' * 40} Mon Sep 17 00:00:00 2001",
        *_fold(f"From: {head['From']}"),
        f"Date: {head['Date']}",
        *_fold(f"Subject: [PATCH {place}] {subject}"),
        "",
        body,
        "---",
        *_statistics(sections),
        "",
        "".join(section.text for section in sections),
    ]
    title = re.sub(r"[^A-Za-z0-9_.]+", "-", subject).strip("-.")[:NAME]
    number = int(place.partition("/")[0])
    return Patch(f"{number:04}-{title}.patch", "\n".join(lines).encode())


def _read(name: str) -> str:
    """Return a file of the tree, by its name there."""
    try:
        return Path(cache.patch_tree(), name).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"part of the guest driver's patches, {name}: {said}") from error


def _message(part: Part) -> tuple[dict[str, str], str]:
    """Return the headers of a patch's text, and what follows them."""
    head, _, body = _read(part.message).partition("\n\n")
    fields = dict(re.findall(r"^(\w+): (.*)$", head, re.M))
    if missing := {"From", "Date", "Subject"} - set(fields):
        raise ConfigError(f"{part.message} has no line {min(missing)!r}")
    return fields, body.rstrip("\n")


def _fold(line: str) -> list[str]:
    """Return a header in lines, the second and later ones indented."""
    return textwrap.wrap(
        line, HEADER, subsequent_indent=" ", break_long_words=False, break_on_hyphens=False
    )


def _hooks(linux: str, part: Part) -> list[Section]:
    """Return what a patch changes of Linux' own files."""
    name = part.hooks(linux)
    if name not in cache.hook_files(cache.patch_tree(), linux):
        return []
    text = _read(name)
    found = re.findall(r"^diff --git a/(\S+) .*\n((?:(?!diff --git ).*\n)*)", text, re.M)
    if not found:
        raise ConfigError(f"{name} is no patch: it has no line 'diff --git'")
    sections = []
    for path, rest in found:
        added, removed = (len(re.findall(rf"^\{sign}", rest, re.M)) - 1 for sign in "+-")
        sections.append(
            Section(path, f"diff --git a/{path} b/{path}\n{rest}", added, removed, False)
        )
    return sections


def _creation(path: str) -> Section:
    """Return the creation of one of the driver's files."""
    text = _read(cache.driver_file(path))
    data = text.encode()
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    lines = text.splitlines()
    count = f"1,{len(lines)}" if len(lines) != 1 else "1"
    head = [
        f"diff --git a/{path} b/{path}",
        "new file mode 100644",
        f"index {'0' * BLOB}..{blob[:BLOB]}",
        "--- /dev/null",
        f"+++ b/{path}",
        f"@@ -0,0 +{count} @@",
    ]
    if not text.endswith("\n"):
        raise ConfigError(f"{cache.driver_file(path)} does not end with a new line")
    return Section(
        path, "\n".join([*head, *("+" + line for line in lines), ""]), len(lines), 0, True
    )


def _statistics(sections: list[Section]) -> list[str]:
    """Return the diffstat, which people read and git passes over."""
    width = max(len(section.path) for section in sections)
    most = max(section.added + section.removed for section in sections)
    digits = len(str(most))
    scale = min(1, max(10, STAT - width - digits - 5) / most)
    lines = []
    for path, _, added, removed, _ in sections:
        bar = "+" * _scaled(added, scale) + "-" * _scaled(removed, scale)
        lines.append(f" {path:{width}} | {added + removed:{digits}} {bar}")
    total = [_plural(len(sections), "file") + " changed"]
    for sign, what in (("+", "insertion"), ("-", "deletion")):
        count = sum(section.added if sign == "+" else section.removed for section in sections)
        if count:
            total.append(f"{_plural(count, what)}({sign})")
    made = [f" create mode 100644 {section.path}" for section in sections if section.created]
    return [*lines, " " + ", ".join(total), *made]


def _scaled(count: int, scale: float) -> int:
    return max(1, int(count * scale)) if count else 0


def _plural(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
