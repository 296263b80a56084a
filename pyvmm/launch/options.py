# SPDX-License-Identifier: Apache-2.0
"""The options of `pyvmm run`, as a table, and a parser for the plain cases."""

from __future__ import annotations

from pyvmm.launch.number import Duration, Whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

#: The options, in argparse's words; `quick_parse` reads the same table.
OPTIONS: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = (
    (
        ("-k", "--kernel"),
        {
            "metavar": "FILE",
            "help": "bzImage, ELF vmlinux with PVH, Multiboot kernel, or flat binary",
        },
    ),
    (
        ("-i", "--initrd"),
        {"metavar": "FILE", "action": "append", "help": "initial RAM disk; repeat to append"},
    ),
    (
        ("-m", "--memory"),
        {"metavar": "SIZE", "default": "256M", "help": "RAM, as in 512M or 4G (%(default)s)"},
    ),
    (
        ("-c", "--cpus"),
        {
            "metavar": "N",
            "type": Whole("number of vCPUs"),
            "default": 1,
            "help": "vCPUs (%(default)s)",
        },
    ),
    (("-p", "--params"), {"metavar": "TEXT", "default": "", "help": "further kernel parameters"}),
    (
        ("-d", "--disk"),
        {
            "metavar": "FILE[,ro][,serial=S][,format=raw]",
            "action": "append",
            "help": "virtio disk, raw; repeat",
        },
    ),
    (("--swap",), {"metavar": "SIZE", "help": "a disk to swap to, in host memory"}),
    (
        ("--swap-bypass",),
        {
            "choices": ("off", "symcall", "direct"),
            "help": "how a symbiotic guest may use swapped pages where they lie (off)",
        },
    ),
    (
        ("--swap-policy",),
        {
            "choices": ("pressure", "always", "never", "quota"),
            "help": "when it may: always, growing less while the host is short (pressure), or by quota",
        },
    ),
    (("--swap-quota",), {"metavar": "SIZE", "help": "what swapped pages may take, for quota"}),
    (
        ("--swap-file",),
        {"metavar": "FILE", "help": "keep swapped pages there, in place of host memory"},
    ),
    (
        ("--name",),
        {"metavar": "NAME", "help": "what pyvmm list and ps call this VM (vm-PID)"},
    ),
    (
        ("--detach",),
        {
            "action": "store_true",
            "help": "come back once the guest runs, and print its name; --log gets what would be on the terminal",
        },
    ),
    (
        ("--no-fork",),
        {
            "action": "store_true",
            "help": "with --detach: a process of its own, whose addresses no other VM has",
        },
    ),
    (("--net",), {"metavar": "TAP", "action": "append", "help": "virtio network card on a tap"}),
    (("--no-rng",), {"action": "store_true", "help": "no virtio entropy source"}),
    (
        ("--console",),
        {
            "choices": ("serial", "virtio", "none"),
            "help": "what the terminal is connected to (virtio with a COMMAND, else serial)",
        },
    ),
    (("--log",), {"metavar": "FILE", "help": "write the serial port's output there"}),
    (
        ("--linux",),
        {
            "metavar": "NAME",
            "help": "which guest: one that is built here by its version (pyvmm guest list), or Debian's own as "
            "stock-VERSION; with the guest driver as a module as stock-VERSION-symbiotic (6.12, or that where it was "
            "never built)",
        },
    ),
    (
        ("--modules",),
        {
            "metavar": "DIR[,NAME...]",
            "help": "of the kernel of -k: its lib/modules/RELEASE, for drivers and a COMMAND, or for -p root=/dev/vda",
        },
    ),
    (
        ("--env",),
        {"metavar": "NAME[=VALUE]", "action": "append", "help": "for the COMMAND; repeat"},
    ),
    (
        ("--flat",),
        {"choices": ("real", "protected", "long"), "help": "start mode of a flat binary"},
    ),
    (
        ("--debug-exit",),
        {
            "action": "store_true",
            "help": "end the guest when it writes its status to port 0xf4, as QEMU's isa-debug-exit does",
        },
    ),
    (
        ("--testdev",),
        {
            "action": "store_true",
            "help": "the devices of kvm-unit-tests: debug exit, test device, fw_cfg",
        },
    ),
    (
        ("--shared",),
        {"action": "store_true", "help": "keep RAM in a memfd, for other processes to map"},
    ),
    (
        ("--hugepages",),
        {"choices": ("2M", "1G"), "help": "take RAM from the host's hugetlb pool"},
    ),
    (("--nested",), {"action": "store_true", "help": "let the guest see VMX or SVM"}),
    (
        ("--no-symbiotic",),
        {"action": "store_true", "help": "hide the interface for calls into the guest kernel"},
    ),
    (
        ("--timeout",),
        {"metavar": "SECONDS", "type": Duration(), "help": "end the guest then, with status 124"},
    ),
    (
        ("--json",),
        {"metavar": "FILE", "help": "write result, exits and memory use there (- for stdout)"},
    ),
    (("--summary",), {"action": "store_true", "help": "a screen about the run, on stderr"}),
    (
        ("--dry-run",),
        {"action": "store_true", "help": "say what would be started, and start nothing"},
    ),
    (
        ("-v", "--verbose"),
        {"action": "store_true", "help": "all kernel messages, on the terminal"},
    ),
    (
        ("--kvm",),
        {"metavar": "FILE", "default": "/dev/kvm", "help": "the KVM device (%(default)s)"},
    ),
)


class Options:
    """The result of `quick_parse`: an attribute an option, as argparse's Namespace has."""

    def __init__(self) -> None:
        for names, words in OPTIONS:
            off = False if words.get("action") == "store_true" else None
            setattr(self, attribute(names), words.get("default", off))
        self.command: list[str] = []


def attribute(names: tuple[str, ...]) -> str:
    """Return argparse's name for an option."""
    return names[-1].lstrip("-").replace("-", "_")


def quick_parse(arguments: Sequence[str]) -> Options | None:
    """Return the plain cases, without argparse, which costs a tenth of a launch on a slow machine.

    None for anything else: help, abbreviations, clustered letters, mistakes. argparse then answers.
    """
    options = Options()
    table = {name: (attribute(names), words) for names, words in OPTIONS for name in names}
    rest = iter(arguments)
    for argument in rest:
        if argument == "--":
            options.command = list(rest)
            break
        name, equals, value = argument.partition("=")
        if name not in table or (equals and not name.startswith("--")):
            return None
        target, words = table[name]
        if words.get("action") == "store_true":
            if equals:
                return None
            setattr(options, target, True)
            continue
        text = value if equals else next(rest, None)
        if text is None or (not equals and text.startswith("-") and text != "-"):
            return None
        if "choices" in words and text not in words["choices"]:
            return None
        try:
            parsed = words.get("type", str)(text)
        except Exception:
            return None  # argparse says what is wrong
        if words.get("action") == "append":
            parsed = [*(getattr(options, target) or []), parsed]
        setattr(options, target, parsed)
    return options
