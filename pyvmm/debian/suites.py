# SPDX-License-Identifier: Apache-2.0
"""Suites of Debian that are not among the system's sources: the backports of its release, an older
release, and a newer one with its backports.

apt works with a state and a list of sources of its own for each, below the cache. Of the system's
configuration it takes the address of the mirror and the keys, and changes nothing.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import NamedTuple

from pyvmm.cachefolder import cache_root
from pyvmm.debian import tools
from pyvmm.errors import HostError

OS_RELEASE = "/etc/os-release"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
TARGET_FIELDS = "$(CREATED_BY) $(ORIGIN) $(LABEL) $(CODENAME) $(REPO_URI)"


#: Linux 6.1 is of it, and QEMU 7.2 and Bochs 2.7.
OLDER = "bookworm"
#: Linux 7.3 is of its backports; their compiler, and the C library of that, are of the release itself.
NEWER = "trixie"
#: Where kernels and their headers are looked for, besides the system's sources.
WITH_KERNELS = (OLDER, f"{NEWER}-backports", NEWER)


class Suite(NamedTuple):
    """Where the packages come from."""

    uri: str
    name: str


def running_release() -> str:
    """Return the code name of the Debian release here, as in os-release(5).

    Raise HostError on another system.
    """
    try:
        text = Path(OS_RELEASE).read_text(encoding="utf-8")
    except OSError as error:
        raise HostError(f"cannot read {OS_RELEASE}: {error.strerror}") from error
    name = re.search(r'^VERSION_CODENAME="?([\w-]+)', text, re.MULTILINE)
    if name is None or re.search(r'^ID="?debian"?$', text, re.MULTILINE) is None:
        raise HostError(f"{OS_RELEASE} names no release of Debian")
    return name[1]


def mirror() -> str:
    """Return where apt has the packages of the release that runs here from.

    Raise HostError where that is not Debian, or apt has no mirror of it.
    """
    release = running_release()
    command = ["apt-get", "indextargets", "--format", TARGET_FIELDS]
    for line in tools.run(command, what="asking apt for its mirrors").splitlines():
        head, _, uri = line.rpartition(" ")
        if head == f"Packages Debian Debian {release}" and not uri.startswith("cdrom:"):
            return uri
    raise HostError(f"apt has no mirror of Debian {release}")


def backports() -> Suite:
    """Return the backports of the release that runs here. Raise HostError as `mirror` does."""
    return Suite(mirror(), f"{running_release()}-backports")


def named(name: str) -> Suite:
    """Return a suite on the mirror of the release that runs here.

    Raise HostError as `mirror` does, and where it is that release.
    """
    if running_release() == name:
        raise HostError(f"this is Debian {name} itself")
    return Suite(mirror(), name)


def options(folder: Path) -> list[str]:
    """Return the options that confine apt-get and apt-cache to ``folder`` and its contents."""
    places = {
        "Dir::Etc::SourceList": folder / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::Etc::Preferences": "/dev/null",
        "Dir::Etc::PreferencesParts": "/dev/null",
        "Dir::State": folder,
        "Dir::State::Lists": folder / "lists",
        "Dir::State::status": "/dev/null",
        "Dir::Cache": folder,
        "Acquire::Languages": "none",
        "Acquire::Retries": 1,
        "Acquire::http::Timeout": 20,
        "Acquire::https::Timeout": 20,
        "APT::Sandbox::User": "root",
        # A list that could not be fetched is an error, not a warning and the old list.
        "APT::Update::Error-Mode": "any",
    }
    return [word for name, value in places.items() for word in ("-o", f"{name}={value}")]


@functools.cache
def look_up(suite: Suite) -> tuple[str, ...]:
    """Fetch a suite's list of packages, its signature checked; the options with which apt keeps to
    that list.

    Raise HostError where it cannot be had.
    """
    folder = Path(cache_root()) / "debian" / f"suite-{suite.name}"
    with tools.lock(f"debian/suite-{suite.name}"):
        for name in ("lists/partial", "archives/partial"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        signed = f" [signed-by={KEYRING}]" if Path(KEYRING).exists() else ""
        (folder / "sources.list").write_text(f"deb{signed} {suite.uri} {suite.name} main\n")
        own = options(folder)
        tools.run(["apt-get", "-q", *own, "update"], what=f"looking for packages in {suite.name}")
    return tuple(own)
