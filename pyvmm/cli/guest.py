# SPDX-License-Identifier: Apache-2.0
"""`pyvmm guest`: builds, lists and removes the kernels and initramfs that guests boot."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pyvmm.guest import cache
from pyvmm.launch.number import Whole

if TYPE_CHECKING:
    import argparse

    from pyvmm.guest.cache import Guest
    from pyvmm.guest.inventory import Entry


#: The files of a guest that `guest path` can name.
FILES = ("bzImage", "vmlinux", "vmlinux.debug", "initramfs", "config")


def add_parser(sub: argparse._SubParsersAction[Any]) -> None:
    """Add the subcommand's own subcommands and their options."""
    parser = sub.add_parser(
        "guest",
        help="build, list and remove guest kernels",
        description="The cache is $PYVMM_CACHE, else $XDG_CACHE_HOME/pyvmm, else ~/.cache/pyvmm.",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    add_build(actions)
    add_stock(actions)
    add_list(actions)
    add_path(actions)
    add_series(actions)
    add_package(actions)
    add_clean(actions)


def own_versions() -> str:
    """Return the versions of Linux that guests are built of, for a help text."""
    return " or ".join(cache.versions(cache.patch_tree()))


def add_build(actions: argparse._SubParsersAction[Any]) -> None:
    """Add `guest build`."""
    parser = actions.add_parser(
        "build",
        help="build a small kernel and an initramfs, unless the cache has them",
        description="Takes about 6 minutes on 2 CPUs the first time. Needs a compiler and what "
        "kernels need to build; says what is missing.",
    )
    kinds = ", ".join(cache.VARIANTS)
    parser.add_argument(
        "--linux",
        metavar="VERSION",
        help=f"{own_versions()}, also with one of {kinds} (default: {cache.DEFAULT_LINUX})",
    )
    parser.add_argument(
        "--source",
        metavar="PATH",
        help="kernel source directory or tar archive (default: Debian's)",
    )
    parser.add_argument(
        "--jobs",
        "-j",
        type=Whole("number of jobs", most=4096),
        metavar="N",
        help="compilers at once (all CPUs)",
    )
    parser.add_argument(
        "--config", metavar="FILE", help="further kernel options, CONFIG_X=y a line"
    )
    parser.add_argument("--force", action="store_true", help="build even what the cache has")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="only look at what is needed, and say what would be built",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def add_stock(actions: argparse._SubParsersAction[Any]) -> None:
    """Add `guest stock`."""
    parser = actions.add_parser(
        "stock", help="fetch Debian's own kernel and make an initramfs with its virtio modules"
    )
    parser.add_argument(
        "--linux",
        metavar="VERSION",
        help=f"Debian's, as 6.1 or 6.12-cloud (default: {cache.DEFAULT_LINUX})",
    )
    parser.add_argument(
        "--symbiotic",
        action="store_true",
        help="with the guest driver as a module, built against Debian's headers: stock-VERSION-symbiotic",
    )
    parser.add_argument("--force", action="store_true", help="fetch the newest that apt knows")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def add_list(actions: argparse._SubParsersAction[Any]) -> None:
    """Add `guest list`."""
    parser = actions.add_parser("list", help="list the guests in the cache")
    parser.add_argument("--json", action="store_true", help="print as JSON")


def add_path(actions: argparse._SubParsersAction[Any]) -> None:
    """Add `guest path`."""
    parser = actions.add_parser("path", help="print the path of a file of a guest")
    which = "which (%(default)s)"
    parser.add_argument("--linux", default=cache.DEFAULT_LINUX, metavar="VERSION", help=which)
    parser.add_argument("--stock", action="store_true", help="the one with Debian's own kernel")
    parser.add_argument(
        "--symbiotic", action="store_true", help="of those, the one with the module"
    )
    parser.add_argument(
        "--file",
        default="bzImage",
        choices=FILES,
        help="which file (%(default)s)",
    )


def add_series(actions: argparse._SubParsersAction[Any]) -> None:
    """Add `guest series`."""
    parser = actions.add_parser(
        "series", help="write the guest driver's patches for a kernel of your own, for 'git am'"
    )
    parser.add_argument(
        "--linux",
        default=cache.DEFAULT_LINUX,
        metavar="VERSION",
        help=f"{own_versions()} (%(default)s)",
    )
    parser.add_argument("folder", metavar="DIR", help="where to; empty, or made")


def add_package(actions: argparse._SubParsersAction[Any]) -> None:
    """Add `guest package`."""
    parser = actions.add_parser(
        "package", help="write the guest driver as a Debian package, for a guest of your own"
    )
    parser.add_argument(
        "--output", default=".", metavar="DIR", help="where to (default: the current folder)"
    )


def add_clean(actions: argparse._SubParsersAction[Any]) -> None:
    """Add `guest clean`."""
    parser = actions.add_parser("clean", help="remove builds that are no longer used")
    parser.add_argument(
        "--all", action="store_true", help="remove every guest, kernel source and Debian package"
    )


def main(args: argparse.Namespace) -> int:
    """Run one action."""
    actions = {
        "build": build,
        "stock": stock,
        "list": show_list,
        "path": path,
        "series": write_series,
        "package": write_package,
        "clean": clean,
    }
    return actions[args.action](args)


def build(args: argparse.Namespace) -> int:
    """Build and say where the files are."""
    from pyvmm.guest.build import build as build_guest

    if args.dry_run:
        return show_forecast(args)
    guest = build_guest(
        args.linux,
        source_path=args.source,
        jobs=args.jobs,
        config=args.config,
        force=args.force,
    )
    return show(guest, args.json)


def show_forecast(args: argparse.Namespace) -> int:
    """Say what would be built."""
    from pyvmm.guest.build import forecast

    found = forecast(args.linux, source_path=args.source, config=args.config)
    if args.json:
        print(json.dumps(found._asdict(), indent=2))
        return 0
    state = "in the cache" if found.built and not args.force else "to be built"
    for name, value in (
        ("linux", found.linux),
        ("source", found.source),
        ("patches", len(found.patches)),
        ("key", found.key or "known when the sources are here"),
        ("kernel", state),
    ):
        print(f"{name:10} {value}")
    return 0


def stock(args: argparse.Namespace) -> int:
    """Fetch and say where the files are."""
    from pyvmm.guest.stock import stock as stock_guest

    return show(stock_guest(args.linux, symbiotic=args.symbiotic, force=args.force), args.json)


def show(guest: Guest, as_json: bool) -> int:
    """Print one guest."""
    if as_json:
        print(json.dumps(guest._asdict(), indent=2))
        return 0
    for name, value in guest._asdict().items():
        if value:
            print(f"{name:10} {value}")
    return 0


def show_list(args: argparse.Namespace) -> int:
    """Print all guests."""
    from pyvmm.guest.inventory import entries

    found = entries()
    if args.json:
        print(json.dumps([as_dict(entry) for entry in found], indent=2))
        return 0
    if not found:
        print("no guest yet: run 'pyvmm guest build'")
    name = max([12, *(len(entry.name) for entry in found)])
    version = max([22, *(len(entry.guest.version) for entry in found)])
    for entry in found:
        mib = entry.size / 2**20
        print(f"{entry.name:{name}} {entry.guest.version:{version}} {mib:6.1f} MiB  {entry.state}")
    return 0


def as_dict(entry: Entry) -> dict[str, Any]:
    """Return one line of the list, ready for JSON."""
    return {
        "name": entry.name,
        "state": entry.state,
        "bytes": entry.size,
        **entry.guest._asdict(),
    }


def path(args: argparse.Namespace) -> int:
    """Print the path of one file. Raise ConfigError if there is no such guest or file."""
    from pyvmm.guest.inventory import path_of

    print(path_of(args.linux, args.file, stock=args.stock, symbiotic=args.symbiotic))
    return 0


def write_series(args: argparse.Namespace) -> int:
    """Write the driver's patches and print their paths, in order."""
    from pyvmm.guest.series import write

    print(*write(args.linux, args.folder), sep="\n")
    return 0


def write_package(args: argparse.Namespace) -> int:
    """Write the package and print its path."""
    from pyvmm.guest.package import package

    print(package(args.output))
    return 0


def clean(args: argparse.Namespace) -> int:
    """Remove and say how much that freed."""
    from pyvmm.guest.inventory import clean as clean_cache

    print(f"freed {clean_cache(args.all) / 2**20:.1f} MiB")
    return 0
