# SPDX-License-Identifier: Apache-2.0
"""`pyvmm doctor`: what KVM this machine has, what it can run, and what to do if it cannot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyvmm.launch import status

if TYPE_CHECKING:
    import argparse

    from pyvmm.probe import Probe


def add_parser(sub: argparse._SubParsersAction[Any]) -> None:
    """Add the subcommand's options."""
    parser = sub.add_parser(
        "doctor",
        help="say what KVM this machine has and what it can run",
        description="Exit status: 0 if Linux boots here, 1 if only bare programs do (use the lab), "
        "123 if KVM cannot be used at all.",
    )
    parser.add_argument("--json", action="store_true", help="the same as JSON on stdout")
    parser.add_argument("--kvm", metavar="FILE", default="/dev/kvm", help="device (%(default)s)")


def as_dict(found: Probe) -> dict[str, Any]:
    """Return the findings, ready for JSON."""
    return found._asdict() | {
        "usable": found.usable,
        "missing": found.missing,
        "software": found.software,
        "boots_linux": found.boots_linux,
        "verdict": found.verdict,
    }


def lines(found: Probe) -> list[str]:
    """Return the findings for people."""
    from pyvmm.probe import CAPABILITIES

    if not found.usable:
        return [found.verdict]
    speed = found.instructions_per_second / 1e6
    text = [
        f"device          {found.path}, API {found.api}, up to {found.max_vcpus} vCPUs",
        f"back end        {found.backend}, {found.paging} second-level paging"
        + (f", in the {found.lab} lab" if found.lab else ""),
        f"kind            {'software' if found.software else 'hardware, or nested on it'}",
        f"exit            {found.exit_seconds * 1e6:.1f} us to user space and back (port write, C)",
        f"kernel code     {speed:,.1f} million instructions a second",
        "",
        "capability                   has  for",
    ]
    for name, purpose, must in CAPABILITIES:
        have = found.capabilities.get(name, 0)
        mark = "yes" if have else ("NO" if must else "no")
        text.append(f"{name.removeprefix('KVM_CAP_').lower():28} {mark:4} {purpose}")
    return [*text, "", found.verdict]


def main(args: argparse.Namespace) -> int:
    """Print the findings."""
    from pyvmm.probe import probe

    found = probe(args.kvm)
    if args.json:
        import json

        print(json.dumps(as_dict(found), indent=2))
    else:
        print("\n".join(lines(found)))
    if not found.usable:
        return status.HOST
    return status.OK if found.boots_linux else 1
