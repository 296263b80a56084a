# SPDX-License-Identifier: Apache-2.0
"""Makes guests: a kernel and an initramfs, and the note in the cache that says they belong
together.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pyvmm.cachefolder import refuse_for_make
from pyvmm.errors import ConfigError
from pyvmm.guest import cache, initramfs, kconfig, kernel, pointer, series, source

if TYPE_CHECKING:
    from pyvmm.guest.cache import Guest


def build(
    linux: str | None = None,
    *,
    source_path: str | os.PathLike[str] | None = None,
    jobs: int | None = None,
    config: str | os.PathLike[str] | None = None,
    force: bool = False,
) -> Guest:
    """Build the guest for a Linux version, or take it from the cache, and make it the one that
    `find` returns.

    ``linux`` is one of `cache.versions`, as '6.12' (default: the version of ``source_path`` if that
    is a directory, else `cache.DEFAULT_LINUX`), or one with '-debug' or '-kasan' after it: a kernel
    that checks itself; or with '-plain': without the patches. ``source_path`` is a kernel source
    directory or tar archive in place of Debian's package, ``config`` a file with further kernel
    options, ``jobs`` the number of compilers at once (default: the CPUs there are). ``force``
    builds even what the cache has.

    Raise ConfigError for inputs that cannot work, HostError if the machine lacks something or the
    build fails.
    """
    if jobs is not None and jobs < 1:
        raise ConfigError(f"the number of jobs must be at least 1, not {jobs}")
    refuse_for_make()
    version = linux or default_version(source_path)
    plan, stamps = planned(version, source_path, config)
    kernel_key = kernel.build(plan, jobs=jobs, force=force)
    initramfs_key = initramfs.build(force=force)
    exact = kernel.read_info(kernel_key)["version"]
    pointer.write(version, cache.Pointer(exact, kernel_key, initramfs_key, stamps))
    return cache.assemble(exact, kernel_key, initramfs_key)


def planned(
    version: str,
    source_path: str | os.PathLike[str] | None,
    config: str | os.PathLike[str] | None,
) -> tuple[kernel.Plan, tuple[cache.Stamp, ...]]:
    """Return the kernel's plan, and stamps of the recipe taken now: an edit during the build counts
    as a change.
    """
    number = cache.base_version(version)
    options, patches = kconfig.fragment(version, config), series.read(version)
    stamps = pointer.take_stamps(cache.recipe_files(cache.patch_tree(), version))
    return kernel.Plan(version, source.locate(number, source_path), patches, options), stamps


class Forecast(NamedTuple):
    """A build that did not happen. ``built`` says that the cache has the kernel already."""

    linux: str
    source: str  # a path, or the package that would be fetched
    patches: tuple[str, ...]
    key: str  # "" while the sources are still to be fetched
    built: bool


def forecast(
    linux: str | None = None,
    *,
    source_path: str | os.PathLike[str] | None = None,
    config: str | os.PathLike[str] | None = None,
) -> Forecast:
    """Look at all that `build` with these arguments needs; fetch, build and write nothing.

    Raise what `build` would raise before it begins.
    """
    refuse_for_make()
    version = linux or default_version(source_path)
    number = cache.base_version(version)
    kconfig.fragment(version, config)
    patches = tuple(patch.name for patch in series.read(version))
    kernel.check_machine()
    if not source.is_here(number, source_path):
        package = source.package_of(number)
        wanted = f"{package.name} {package.version}, to be fetched"
        return Forecast(version, wanted, patches, "", False)
    plan, _ = planned(version, source_path, config)
    key = plan.key()
    return Forecast(version, str(plan.source.path), patches, key, kernel.is_built(key))


def default_version(source_path: str | os.PathLike[str] | None) -> str:
    """Return the version to build when none was named."""
    if source_path is None or not Path(source_path).is_dir():
        return cache.DEFAULT_LINUX
    return ".".join(source.source_version(Path(source_path)).split(".")[:2])
