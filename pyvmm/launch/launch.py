# SPDX-License-Identifier: Apache-2.0
"""One run of a guest, from its plan to its record and its exit status."""

from __future__ import annotations

import os
import sys

from pyvmm.errors import ConfigError, HostError
from pyvmm.launch import status
from pyvmm.launch.outputs import Outputs
from pyvmm.launch.plan import Plan
from pyvmm.launch.signals import Signals
from pyvmm.launch.streams import Streams
from pyvmm.launch.watch import Watch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyvmm.launch.terminal import Terminal
    from pyvmm.machine.result import Result
    from pyvmm.vm import VM

#: How long a guest may take to end after ctrl-c, before there is no record of it.
STOP_SECONDS = 10.0


def launch(args: Any) -> int:
    """Plan a run and run it in this process, or with --dry-run say what would be run."""
    plan = Plan(args)
    if args.dry_run:
        _print_json(plan.as_dict())
        return status.OK
    plan.check_files()
    return run(plan)


def run(plan: Plan, started: Callable[[str], None] | None = None) -> int:
    """Run what was planned in this process; `started` is told the VM's name once its guest runs and
    can be found by it.
    """
    if plan.own_guest:
        from pyvmm.launch.kvmcheck import refuse_slow

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
        with VM.of(plan.config._replace(devices=())) as vm:
            return _run(vm, plan, outputs, signals, quit_fd, begin)
    finally:
        os.close(quit_fd)


def _run(
    vm: VM,
    plan: Plan,
    outputs: Outputs,
    signals: Signals,
    quit_fd: int,
    begin: Callable[[VM], None],
) -> int:
    with _terminal(plan) as terminal:
        streams = Streams(plan, outputs, tty=terminal.active, quit_fd=quit_fd)
        for device in plan.config.devices:
            streams.add(vm, device)
        vm.load()
        watcher = Watch(vm, plan, quit_fd).start()
        try:
            result, interrupted = _until_its_end(vm, begin, plan.args.timeout)
        finally:
            os.eventfd_write(quit_fd, 1)
            watcher.join()
    code = status.INTERRUPTED if interrupted else status.of_result(result.reason, result.status)
    if code == status.STOPPED:
        code = signals.status
    return _report(vm, plan, outputs, result, streams.see(result, code))


def _until_its_end(
    vm: VM, begin: Callable[[VM], None], timeout: float | None
) -> tuple[Result, bool]:
    """Return how the guest ended, and whether ctrl-c did it: then there is a record, too."""
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


def _terminal(plan: Plan) -> Terminal | _Plain:
    """Return the user's terminal where a person sits at it."""
    if not plan.interactive:
        return _Plain()
    from pyvmm.launch.terminal import Terminal

    return Terminal(0, 1)


class _Plain:
    """Stands for the terminal when there is none to set up."""

    active = False

    def __enter__(self) -> _Plain:
        return self

    def __exit__(self, *exc: object) -> None:
        return


def _serve(vm: VM, name: str | None) -> None:
    """Open the control socket, once the guest boots: what that takes to import is then loaded
    meanwhile.

    A guest that nobody gave a name runs without, if there is no place for one.
    """
    try:
        vm.serve(name)
    except (ConfigError, HostError) as error:
        if name is not None:
            raise
        print(f"pyvmm: no control socket: {error}", file=sys.stderr)


def _report(vm: VM, plan: Plan, outputs: Outputs, result: Result, code: int) -> int:
    """Say how it went, on stderr and in the record; return the status that is left of `code` by
    that.
    """
    if not result.ok:
        from pyvmm.launch.ending import explain

        explain(vm, plan, result)
    if plan.args.summary:
        from pyvmm.launch.summary import show

        show(vm, result)
    if plan.args.json:
        from pyvmm.machine.footprint import of_machine

        record = result.as_dict() | {
            "config": plan.as_dict(),
            "footprint": of_machine(vm.machine)._asdict(),
            "devices": [device.report() for device in vm.machine.devices],
            "swap": _swap_record(vm),
        }
        return _write_record(record, outputs, code)
    return code


def _write_record(record: dict[str, Any], outputs: Outputs, code: int) -> int:
    """Say if the record is lost, which is no success; a failure of the guest's is told
    all the same.
    """
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


def _swap_record(vm: VM) -> Any:
    """Return the VMM's account of the swap disk, for the guest is gone; None without one."""
    from pyvmm.control import protocol, swap

    return None if vm.swap is None else protocol.plain(swap.stats(vm.swap))


def json_text(value: Any) -> str:
    """Write a value as the JSON of a record."""
    import json

    return json.dumps(value, indent=2, default=str) + "\n"


def _print_json(value: Any) -> None:
    print(json_text(value), end="")
