# SPDX-License-Identifier: Apache-2.0
"""Packages of the backports of the Debian release that runs here, unpacked into the cache.

apt works with a state and a list of sources of its own, below the cache. Of the system's configuration it takes the
address of the mirror and the keys, and changes nothing.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pyvmm.errors import HostError
from pyvmm.guest import cache, debian, tools

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

OS_RELEASE = "/etc/os-release"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
TARGET_FIELDS = "$(CREATED_BY) $(ORIGIN) $(LABEL) $(CODENAME) $(REPO_URI)"


class Suite(NamedTuple):
    """Where the packages come from."""

    uri: str
    name: str


def running_release() -> str:
    """The code name of the Debian release here, as in os-release(5).

    Raises HostError on another system.
    """
    try:
        text = Path(OS_RELEASE).read_text(encoding="utf-8")
    except OSError as error:
        raise HostError(f"cannot read {OS_RELEASE}: {error.strerror}") from error
    name = re.search(r'^VERSION_CODENAME="?([\w-]+)', text, re.MULTILINE)
    if name is None or re.search(r'^ID="?debian"?$', text, re.MULTILINE) is None:
        raise HostError(f"{OS_RELEASE} names no release of Debian")
    return name[1]


def suite() -> Suite:
    """The backports of this release, on the mirror that apt has for the release itself.

    Raises HostError where that is not Debian, or apt has no mirror of it.
    """
    release = running_release()
    command = ["apt-get", "indextargets", "--format", TARGET_FIELDS]
    for line in tools.run(command, what="asking apt for its mirrors").splitlines():
        head, _, uri = line.rpartition(" ")
        if head == f"Packages Debian Debian {release}" and not uri.startswith("cdrom:"):
            return Suite(uri, f"{release}-backports")
    raise HostError(f"apt has no mirror of Debian {release}")


def options(folder: Path) -> list[str]:
    """What makes apt-get and apt-cache keep to ``folder``, and to what was put there."""
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


def look_up(folder: Path, from_suite: Suite) -> list[str]:
    """Fetches the suite's list of packages, its signature checked; returns apt's options for it."""
    for name in ("lists/partial", "archives/partial"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    signed = f" [signed-by={KEYRING}]" if Path(KEYRING).exists() else ""
    (folder / "sources.list").write_text(f"deb{signed} {from_suite.uri} {from_suite.name} main\n")
    own = options(folder)
    tools.run(["apt-get", "-q", *own, "update"], what=f"looking for packages in {from_suite.name}")
    return own


def unpacked(names: Sequence[str], *, keep: Iterable[str], into: str) -> Path:
    """One tree of several packages, ``<cache>/<into>-<version of the first>``; fetched if it is not there.

    Raises HostError where there are no backports with these packages, or they cannot be had now. Call it with a lock
    of the caller's held.
    """
    root = Path(cache.cache_root())
    own = look_up(root / "debian" / "backports", suite())
    versions = {name: debian.candidate_version(name, own) for name in names}
    missing = [name for name, version in versions.items() if version is None]
    if missing:
        raise HostError(f"the backports have no package '{missing[0]}'")
    final = root / f"{into}-{str(versions[names[0]]).replace(':', '%3a')}"
    if not final.is_dir():

        def fill(fresh: Path) -> None:
            for name in names:
                debian.fetch(name, str(versions[name]), fresh, tuple(keep), own)

        tools.publish(final, fill)
    return final
