# SPDX-License-Identifier: Apache-2.0
"""`pyvmm run`: boot a guest on this terminal, or run one command in it and return its exit status."""

from __future__ import annotations

import os
import sys

from pyvmm.cli import status
from pyvmm.cli.kvmcheck import refuse_slow
from pyvmm.cli.number import Duration, Whole
from pyvmm.cli.outputs import Outputs
from pyvmm.cli.plan import Plan
from pyvmm.cli.signals import Signals
from pyvmm.cli.streams import Streams
from pyvmm.errors import ConfigError, HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence
    from typing import Any

    from pyvmm.machine.result import Result
    from pyvmm.vm import VM

#: How long a guest may take to end after ctrl-c, before there is no record of it.
STOP_SECONDS = 10.0

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
            "help": "which built guest: 6.12, 6.1, or Debian's own as stock-6.12, stock-6.1; those with the "
            "guest driver as a module are stock-6.12-symbiotic, stock-6.1-symbiotic (6.12)",
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


def add_parser(sub: argparse._SubParsersAction[Any]) -> None:
    """Adds the subcommand's options."""
    parser = sub.add_parser(
        "run",
        help="boot a guest, or run one command in it",
        usage="pyvmm run [OPTIONS] [-- COMMAND [ARG...]]",
        description="Without -k the project's own guest is booted (pyvmm guest build makes it): with a COMMAND "
        "that runs there and its exit status becomes pyvmm's; without one there is a shell. "
        "ctrl-a x ends the guest.",
    )
    for names, words in OPTIONS:
        parser.add_argument(*names, **words)
    parser.add_argument(
        "command", nargs="*", metavar="COMMAND", help="to run in the guest, after --"
    )


class Options:
    """What `quick_parse` makes: an attribute an option, as argparse's Namespace has."""

    def __init__(self) -> None:
        for names, words in OPTIONS:
            off = False if words.get("action") == "store_true" else None
            setattr(self, attribute(names), words.get("default", off))
        self.command: list[str] = []


def attribute(names: tuple[str, ...]) -> str:
    """argparse's name for an option."""
    return names[-1].lstrip("-").replace("-", "_")


def quick_parse(arguments: Sequence[str]) -> Options | None:
    """The plain cases, without argparse, which costs a tenth of a launch on a slow machine.

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


def main(args: Any) -> int:
    """Runs it; the exit status is one of `pyvmm.cli.status`."""
    if args.no_fork and not args.detach:
        raise ConfigError("--no-fork says how to detach; add --detach")
    if args.detach and not args.dry_run:
        from pyvmm.cli import detach

        return detach.start(args)
    return launch(args)


def launch(args: Any, started: Callable[[str], None] | None = None) -> int:
    """The same in this process; `started` is told the VM's name once its guest runs and can be found by it."""
    plan = Plan(args)
    if args.dry_run:
        _print_json(plan.as_dict())
        return status.OK
    plan.check_files()
    refuse_slow(plan)
    with Signals() as signals, Outputs(plan) as outputs:
        return _launch(plan, outputs, signals, started)


def _launch(
    plan: Plan, outputs: Outputs, signals: Signals, started: Callable[[str], None] | None
) -> int:
    from pyvmm.vm import VM

    args = plan.args
    quit_fd = os.eventfd(0, os.EFD_CLOEXEC)  # the devices signal it until they are gone

    def begin(vm: VM) -> None:
        signals.stop(vm)
        outputs.begin()
        vm.start()
        signals.started(vm)
        _serve(vm, args.name)
        if started:
            started(args.name)

    try:
        with VM(
            args.memory,
            args.cpus,
            kernel=plan.kernel,
            initrd=plan.initrd or None,
            cmdline=plan.cmdline,
            flat=args.flat,
            shared=args.shared,
            hugepages=args.hugepages,
            nested=args.nested,
            symbiotic=False if args.no_symbiotic else None,
            kvm_path=args.kvm,
        ) as vm:
            return _run(vm, plan, outputs, quit_fd, begin)
    finally:
        os.close(quit_fd)


def _run(vm: VM, plan: Plan, outputs: Outputs, quit_fd: int, begin: Callable[[VM], None]) -> int:
    from pyvmm.devices.terminal import Terminal

    with Terminal(0, 1) if plan.interactive else _Plain() as terminal:
        streams = Streams(vm, plan, outputs, tty=terminal.active, quit_fd=quit_fd)
        _add_devices(vm, plan)
        vm.load()
        watcher = _watch_quit(vm, quit_fd)
        try:
            result, interrupted = _until_its_end(vm, begin, plan.args.timeout)
        finally:
            os.eventfd_write(quit_fd, 1)
            watcher.join()
    code = status.INTERRUPTED if interrupted else status.of_result(result.reason, result.status)
    return _report(vm, plan, outputs, result, streams.see(result, code))


def _until_its_end(
    vm: VM, begin: Callable[[VM], None], timeout: float | None
) -> tuple[Result, bool]:
    """How the guest ended, and whether ctrl-c did it: then there is a record, too."""
    try:
        begin(vm)
        return vm.run(timeout), False
    except KeyboardInterrupt:
        vm.stop()
        result = vm.wait(STOP_SECONDS) if vm.state != "built" else None
        if result is None:
            raise
        result.detail = result.detail or "ctrl-c"
        return result, True


class _Plain:
    """Stands for the terminal when there is none to set up."""

    active = False

    def __enter__(self) -> _Plain:
        return self

    def __exit__(self, *exc: object) -> None:
        return


def _add_devices(vm: VM, plan: Plan) -> None:
    args = plan.args
    for disk in plan.disks:
        vm.add_disk(disk.file, readonly=disk.readonly, serial=disk.serial, format=disk.format)
    for tap in args.net or []:
        vm.add_net(tap)
    if not args.no_rng:
        vm.add_rng()
    if plan.swap is not None:
        vm.add_swap(**plan.swap)
    if args.debug_exit:
        vm.end_at_status()
    if args.testdev:
        from pyvmm.testdev import TestDevice

        TestDevice(vm)


def _serve(vm: VM, name: str | None) -> None:
    """Opens the control socket, once the guest boots: what that takes to import is then loaded meanwhile.

    A guest that nobody gave a name runs without, if there is no place for one.
    """
    try:
        vm.serve(name)
    except (ConfigError, HostError) as error:
        if name is not None:
            raise
        print(f"pyvmm: no control socket: {error}", file=sys.stderr)


def _watch_quit(vm: VM, quit_fd: int) -> Any:
    """A thread that ends the guest when ctrl-a x was typed."""
    from pyvmm.machine.thread import Thread

    def wait() -> None:
        os.eventfd_read(quit_fd)
        vm.stop()

    thread = Thread(wait, "quit")
    thread.start()
    return thread


def _report(vm: VM, plan: Plan, outputs: Outputs, result: Result, code: int) -> int:
    """Says how it went, on stderr and in the record; the status that is left of `code` by that."""
    if not result.ok:
        from pyvmm.cli.ending import explain

        explain(vm, plan, result)
    if plan.args.summary:
        from pyvmm.cli.summary import show

        show(vm, result)
    if plan.args.json:
        from pyvmm.machine.footprint import of_machine

        record = result.as_dict() | {
            "config": plan.as_dict(),
            "footprint": of_machine(vm.machine)._asdict(),
            "devices": [_device_record(device) for device in vm.machine.devices],
            "swap": _swap_record(vm),
        }
        return _write_record(record, outputs, code)
    return code


def _write_record(record: dict[str, Any], outputs: Outputs, code: int) -> int:
    """A record that is lost is said so, and is no success; a failure of the guest's is told all the same."""
    try:
        if outputs.record is None:
            _print_json(record)
            sys.stdout.flush()
        else:
            outputs.record.write(json_text(record).encode())
    except BrokenPipeError:
        return code or status.BROKEN_PIPE
    except OSError as error:
        print(f"pyvmm: the record was not written: {error}", file=sys.stderr)
        return code or status.HOST
    return code


def _device_record(device: Any) -> dict[str, Any]:
    """A device's kind and counters."""
    kind = getattr(device, "kind", type(device).__name__.lower())
    stats = device.stats() if hasattr(device, "stats") else {}
    return {"kind": kind} | (stats if isinstance(stats, dict) else stats._asdict())


def _swap_record(vm: VM) -> Any:
    """What the VMM knows of the swap disk: the guest is gone. None without one."""
    from pyvmm.control import protocol, swap

    return None if vm.swap is None else protocol.plain(swap.stats(vm.swap))


def json_text(value: Any) -> str:
    """As a record has it."""
    import json

    return json.dumps(value, indent=2, default=str) + "\n"


def _print_json(value: Any) -> None:
    print(json_text(value), end="")
