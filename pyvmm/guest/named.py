# SPDX-License-Identifier: Apache-2.0
"""The project's guests as a launch takes them: by name, and with the parameters that each gets."""

from __future__ import annotations

import sys

from pyvmm.errors import ConfigError, HostError
from pyvmm.guest import cache

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Parameters of every guest kernel. A panic ends the run at once; one UART is there to be probed.
BASE_CMDLINE = "panic=-1 8250.nr_uarts=1 random.trust_cpu=on"
QUIET = "quiet loglevel=3"
VERBOSE = "ignore_loglevel"


def find_guest(name: str) -> Any:
    """Return the built guest of that name; ConfigError with the command that builds it."""
    if name.startswith(cache.STOCK):
        linux = name.removeprefix(cache.STOCK)
        return find_stock(
            linux.removesuffix(cache.SYMBIOTIC), symbiotic=linux.endswith(cache.SYMBIOTIC)
        )
    guest = cache.find(name)
    if guest is not None:
        return guest
    known = cache.versions(cache.patch_tree())
    if cache.base_version(name) not in known:
        raise ConfigError(
            f"no guest {name!r}; there are {', '.join(known)}, each also with "
            f"{' or '.join(cache.VARIANTS)} after it, and Debian's kernels as stock-VERSION"
        )
    raise ConfigError(
        f"the {name} guest is not built, or its sources changed; run: pyvmm guest build --linux {name}"
    )


def default_name() -> str:
    """Return the name of the guest where nobody names one: the project's own, or where none was
    ever built Debian's kernel with the guest driver as a module.
    """
    name = cache.DEFAULT_LINUX
    return name if cache.read_pointer(name) is not None else cache.stock_name(name, symbiotic=True)


def find_default() -> tuple[str, Any]:
    """Return the guest that has the `default_name`, and that.

    If it is Debian's, which one it is and what it can do goes to standard error. Raise as
    `find_guest` does.
    """
    name, own = default_name(), cache.DEFAULT_LINUX
    if name == own:
        return name, find_guest(name)
    try:
        guest = find_guest(name)
    except HostError as error:
        raise HostError(
            f"the {own} guest is not built, and Debian's kernel cannot be had in its place; run: "
            f"pyvmm guest build ({error})"
        ) from error
    print(
        f"pyvmm: the {own} guest is not built (pyvmm guest build): this is {describe(guest)}",
        file=sys.stderr,
    )
    return name, guest


def describe(guest: Any) -> str:
    """Return what a guest is that has Debian's kernel and the module, and what it can do."""
    return (
        f"Debian's Linux {guest.version} with the guest driver as a module; it answers symcalls, "
        "and uses the memory of a swap disk as a tier"
    )


def find_stock(linux: str, *, symbiotic: bool) -> Any:
    """Return the guest with Debian's kernel, fetched and made now where the cache has none that is
    current.
    """
    found = cache.find_stock(linux, symbiotic)
    if found is not None:
        return found
    from pyvmm.guest.stock import stock

    return stock(linux, symbiotic=symbiotic)
