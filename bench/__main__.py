# SPDX-License-Identifier: Apache-2.0
"""Benchmarks: `python -m bench SUITE`. Each measures all its subjects in one run and writes JSON beside its table."""

from __future__ import annotations

import argparse
import importlib
import sys

from bench import options

SUITES = {
    "exits": "cost of an exit to user space: bare C loop, C, Python hook",
    "symcall": "a call into the guest: C and Python, from CPL 0 and 3, its steps, against calls without care",
    "boot": "launch to init and to exit against QEMU microvm and kvmtool (on a KVM that boots Linux)",
    "swap": "SwapBypass against RAM, stock swap and zram (on a KVM that boots Linux)",
    "disk": "virtio-blk against QEMU with an I/O thread (on a KVM that boots Linux)",
}
#: What measures nothing.
OTHERS = {
    "torture": "memory used in every way while it is swapped, checked (on a KVM that boots Linux)",
    "compare": "two runs of one suite: OLD.json NEW.json; ends with 1 if a figure got worse",
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    sub = parser.add_subparsers(dest="suite", required=True)
    for name, text in {**SUITES, **OTHERS}.items():
        suite = sub.add_parser(name, help=text)
        if name in SUITES:
            options.add(suite)
        importlib.import_module(f"bench.{name}").add_options(suite)
    args = parser.parse_args()
    importlib.import_module(f"bench.{args.suite}").main(args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
