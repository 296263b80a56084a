# SPDX-License-Identifier: Apache-2.0
"""Which guest works under which host: every guest kernel in every kind of lab.

    python -m tests.runner.matrix --json matrix.json --table docs/measurements/matrix.md

Each host is a lab of its own, in which each guest boots, is called into, and uses swapped pages
where they lie, as far as its kernel can. The status is 1 if a guest cannot do what it should. With
--host only some are measured: what the file of --json says of the others stays, with the revision it was
measured at.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from pyvmm.guest import cache, inventory
from pyvmm.lab import emulator, outerkernel
from tests.runner import labs
from tests.support.tree import ROOT

MAKERS = {"svm": "SVM", "vmx": "VT-x"}
OUTER = ("6.1", "6.12")
PAGING = ("nested", "shadow")
CPUS = (1, 2)
PORT = 0x510
#: Seconds of one guest, and of all in one lab.
PATIENCE, LAB_SECONDS = 240, 3600
MARK = "@@cell "
FINE = "yes"
CANNOT = "-"


class Host(NamedTuple):
    """An outer machine: what is emulated, its Linux, its KVM's paging, its CPUs."""

    arch: str
    linux: str
    paging: str
    cpus: int

    def __str__(self) -> str:
        cpus = f"{self.cpus} CPU{'s' * (self.cpus > 1)}"
        return f"{MAKERS[self.arch]}, Linux {self.linux}, {self.paging} paging, {cpus}"


class Guest(NamedTuple):
    """A guest kernel: its name, and whether it answers symcalls and knows the swap bypass."""

    name: str
    what: str
    symcalls: bool
    bypass: bool

    @property
    def linux(self) -> str:
        """Its version."""
        return self.name.removeprefix(cache.STOCK).removesuffix(cache.SYMBIOTIC)


#: Of the document.
HEAD = """\
# Which guest works under which host

Written by `python -m tests.runner.matrix`, in the [lab](../lab.md). SVM is QEMU's, with kvm_amd in
Debian's Linux; VT-x is Bochs's, with kvm_intel in a Linux of the lab's own. *at* is the revision
that was measured.

| word | means |
| --- | --- |
| boots | the guest runs a command and ends |
| symcalls | the guest's kernel answers in a hook |
| bypass | a program in 128 MiB that works on 200 finds its pages right, and used swapped ones where they lie |

A cell leaves out what a kernel cannot do.
"""
HOSTS = (
    *(Host("svm", *each) for each in product(OUTER, PAGING, CPUS)),
    *(Host("vmx", outerkernel.LINUX, paging, 1) for paging in PAGING),
)
GUESTS = (
    *(
        Guest(name, f"the project's {name}", True, True)
        for name in cache.versions(cache.patch_tree())
    ),
    Guest("stock-6.12", "Debian 13's kernel", False, False),
    Guest("stock-6.1", "Debian 12's kernel", False, False),
    Guest("stock-6.12-symbiotic", "Debian 13's, with the module", True, False),
    Guest("stock-6.1-symbiotic", "Debian 12's, with the module", True, False),
)


# In the lab.


def symcalls(name: str) -> None:
    """The guest's kernel says which task writes to a port. Raises what went wrong."""
    from tests.support.linux import Guest as Linux

    heard: list[str] = []
    script = f"echo -n hello | dd of=/dev/port bs=1 seek={PORT} 2> /dev/null"
    with Linux(script, linux=name) as guest:
        guest.vm.on_port(PORT, count=5)(
            lambda exit: heard.append(exit.vcpu.symcall("current").comm)
        )
        guest.start()
        assert guest.finish(PATIENCE).ok, guest.text
    assert heard == ["dd"] * 5, heard


def boots(name: str) -> None:
    """It boots, runs a command and ends."""
    from tests.support.linux import Guest as Linux

    with Linux("echo here is $(uname -r)", linux=name) as guest:
        guest.start()
        assert guest.finish(PATIENCE).ok, guest.text
        assert "here is" in guest.text, guest.text


def bypass(name: str) -> None:
    """A program short of memory finds its pages right, and they were adopted where they lay."""
    from tests.support.kernel_log import faults
    from tests.support.swapguest import SwapGuest

    script = "torture -m 200 -t 2 random; echo STATUS=$?; read go"
    with SwapGuest(script, "direct", swap={"policy": "always"}, linux=name, cpus=1) as guest:
        guest.start()
        guest.expect("STATUS=0", PATIENCE)
        swap = guest.vm.swap
        assert swap is not None
        said = swap.stats.guest
        guest.say("go")
        guest.finish(PATIENCE)
        wrong = faults(guest.vm.console_log(), killed=True)
    assert not wrong, wrong
    assert said is not None
    assert said.adopted_total > 0, said


def attempt(test: Any, name: str) -> str:
    """FINE, or what went wrong."""
    try:
        test(name)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return FINE


def cell(guest: Guest) -> dict[str, str]:
    """All that the guest should be able to do here."""
    return {
        "boots": attempt(boots, guest.name),
        "symcalls": attempt(symcalls, guest.name) if guest.symcalls else CANNOT,
        "bypass": attempt(bypass, guest.name) if guest.bypass else CANNOT,
    }


def all_cells() -> None:
    """A line for each guest."""
    for guest in GUESTS:
        print(MARK + json.dumps({"guest": guest.name, **cell(guest)}), flush=True)


# Outside.


def prepare() -> None:
    """Fetch or make all that goes into the labs: there is no network in a lab."""
    from pyvmm.guest.build import build
    from pyvmm.guest.stock import stock
    from tests.support.swapguest import torture

    for guest in GUESTS:
        if guest.name.startswith(cache.STOCK):
            stock(guest.linux, symbiotic=guest.symcalls)
        else:
            build(guest.linux)
    torture()


def hosts(names: Sequence[str] | None) -> list[Host]:
    """Those asked for, or all."""
    return [host for host in HOSTS if not names or str(host) in names]


def command(host: Host) -> list[str]:
    """What runs all cells of a host."""
    lab = [sys.executable, "-m", "pyvmm", "lab", "--timeout", str(LAB_SECONDS)]
    lab += ["--no-npt"] if host.paging == "shadow" else []
    lab += packed() if host.arch == "vmx" else ["--cpus", str(host.cpus), "--memory", "4G"]
    return [*lab, "--", sys.executable, "-m", "tests.runner.matrix", "--cells"]


def packed() -> list[str]:
    """Return the options of a lab with VT-x, which does not see the cache: each guest goes along."""
    files = {path for guest in GUESTS for path in inventory.guest_files(guest.name)}
    return ["--arch", "vmx", *(word for path in sorted(files) for word in ("--pack", path))]


def environment(host: Host) -> dict[str, str]:
    """Return one with the outer kernel, and for shadow paging the path's QEMU (docs/lab.md)."""
    if host.arch == "vmx":
        return dict(os.environ)
    chosen = {"PYVMM_LAB_LINUX": host.linux}
    if host.paging == "shadow":
        chosen["PYVMM_QEMU"] = emulator.NAME
    return os.environ | chosen


def measured(host: Host) -> dict[str, dict[str, str]]:
    """Each guest's cell. A guest of which nothing was heard has the lab's end in it."""
    done = subprocess.run(
        command(host), cwd=ROOT, env=environment(host),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    lines = [line.removeprefix(MARK) for line in done.stdout.splitlines() if line.startswith(MARK)]
    found = {said.pop("guest"): said for said in map(json.loads, lines)}
    why = f"the lab ended with status {done.returncode}: {done.stdout[-300:].strip()}"
    missing = dict.fromkeys(("boots", "symcalls", "bypass"), why)
    return {guest.name: found.get(guest.name, missing) for guest in GUESTS}


def all_measured(chosen: Sequence[Host]) -> Iterator[tuple[Host, dict[str, dict[str, str]]]]:
    """Yield each host with its cells when it has ended; the longest begin first."""
    with ThreadPoolExecutor(labs.at_a_time()) as pool:
        longest = sorted(chosen, key=lambda host: (host.arch != "vmx", host.paging != "shadow"))
        running = {pool.submit(measured, host): host for host in longest}
        for ended in as_completed(running):
            yield running[ended], ended.result()


def sign(said: dict[str, str]) -> str:
    """Of a cell, for the table."""
    return ", ".join(
        what if value == FINE else f"**no {what}**"
        for what, value in said.items()
        if value != CANNOT
    )


def table(record: dict[str, Any]) -> str:
    """The document."""
    lines = [
        HEAD,
        "| " + " | ".join(["host", "at", *(guest.what for guest in GUESTS)]) + " |",
        "| --- | --- |" + " --- |" * len(GUESTS),
    ]
    for host in map(str, HOSTS):
        if host in record:
            cells = record[host]["cells"]
            signs = [sign(cells.get(guest.name, {})) for guest in GUESTS]
            lines.append("| " + " | ".join([host, record[host]["revision"], *signs]) + " |")
    return "\n".join(lines) + "\n"


def kept(path: str | None) -> dict[str, Any]:
    """What a file says of hosts that there are; nothing where there is no file yet."""
    if path is None or not Path(path).exists():
        return {}
    said = json.loads(Path(path).read_text())
    return {host: said[host] for host in map(str, HOSTS) if host in said}


def failures(record: dict[str, Any]) -> list[str]:
    """A line for each thing that does not work."""
    return [
        f"{host}: {guest}: {what}: {value}"
        for host, entry in record.items()
        for guest, said in entry["cells"].items()
        for what, value in said.items()
        if value not in (FINE, CANNOT)
    ]


def main(argv: Sequence[str]) -> int:
    from bench.report.record import revision
    from pyvmm import outfile
    from pyvmm.launch.parser import Parser

    parser = Parser(prog="python -m tests.runner.matrix", description=__doc__)
    parser.add_argument("--json", metavar="FILE", help="what was measured, with the reasons")
    parser.add_argument("--table", metavar="FILE", help="as Markdown")
    parser.add_argument(
        "--host",
        action="append",
        choices=list(map(str, HOSTS)),
        metavar="TEXT",
        help="only this one, as the table has it; repeat",
    )
    parser.add_argument("--cells", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.cells:
        all_cells()
        return 0
    for option, name in (("--json", args.json), ("--table", args.table)):
        if name:
            outfile.check(option, name)  # hours before it is written
    prepare()
    record, now = kept(args.json), {}
    for host, cells in all_measured(hosts(args.host)):
        now[str(host)] = {"revision": revision(), "cells": cells}
        print(f"matrix: {host}", flush=True)
        for name, said in cells.items():
            print(f"  {name}: {said}", flush=True)
        record |= now
        if args.json:
            Path(args.json).write_text(json.dumps(record, indent=1) + "\n")
    if args.table:
        Path(args.table).write_text(table(record))
    wrong = failures(now)
    print("\n".join(wrong))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
