# SPDX-License-Identifier: Apache-2.0
"""The project's guests as a launch takes them: by name, and with the parameters that each gets."""

from __future__ import annotations

from pyvmm.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Which of the project's guests, where nobody says.
DEFAULT_LINUX = "6.12"
#: Parameters of every guest kernel. A panic ends the run at once; one UART is there to be probed.
BASE_CMDLINE = "panic=-1 8250.nr_uarts=1 random.trust_cpu=on"
QUIET = "quiet loglevel=3"
VERBOSE = "ignore_loglevel"
STOCK = "stock-"


def find_guest(name: str) -> Any:
    """Return the built guest of that name; ConfigError with the command that builds it."""
    from pyvmm.guest import cache

    if name.startswith(STOCK):
        linux = name.removeprefix(STOCK)
        return find_stock(
            linux.removesuffix(cache.SYMBIOTIC), symbiotic=linux.endswith(cache.SYMBIOTIC)
        )
    if cache.base_version(name) not in cache.VERSIONS:
        known = ", ".join(form.format(v) for form in ("{}", "stock-{}") for v in cache.VERSIONS)
        kinds = " or ".join(cache.VARIANTS)
        raise ConfigError(f"no guest {name!r}; there are {known}, the first two also with {kinds}")
    guest = cache.find(name)
    if guest is None:
        raise ConfigError(
            f"the {name} guest is not built, or its sources changed; run: pyvmm guest build --linux {name}"
        )
    return guest


def find_stock(linux: str, *, symbiotic: bool) -> Any:
    """Return the guest with Debian's kernel, fetched and made now where the cache has none that is
    current.
    """
    from pyvmm.guest import cache

    found = cache.find_stock(linux, symbiotic)
    if found is not None:
        return found
    from pyvmm.guest.stock import stock

    return stock(linux, symbiotic=symbiotic)
