# SPDX-License-Identifier: Apache-2.0
"""Everything public of machines that are closed, tried in a process each: the program of test_after_close.

Its argument is when they are closed, `never_started` or `ran`. Prints each fault, then how many classes and members
were tried.
"""

from __future__ import annotations

import inspect
import mmap
import os
import pkgutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pyvmm
from pyvmm import kvm
from pyvmm.config import CpuState, RngConfig
from pyvmm.errors import StateError
from pyvmm.machine.hooks import Exit, Hypercall
from pyvmm.machine.result import Result
from pyvmm.machine.symcall import Call
from pyvmm.swap import disk
from tests.support import bare

PACKAGES = ("pyvmm.machine", "pyvmm.devices", "pyvmm.swap", "pyvmm.symbiotic", "pyvmm.kvm")
#: Classes of these packages that belong to no machine, or hold nothing of one.
APART = {
    "pyvmm.devices.tap.Tap": "an interface of the host; its descriptor is -1 once it is closed",
    "pyvmm.launch.terminal.Terminal": "the user's terminal",
    "pyvmm.devices.virtio_net.VirtioNet": "needs a tap; all it has is VirtioDevice's",
    "pyvmm.kvm.msr.MsrRange": "numbers",
    "pyvmm.config.CpuState": "numbers",
    "pyvmm.machine.crash.State": "registers that were read",
    "pyvmm.machine.handle.Closed": "what stands for a pointer",
    "pyvmm.machine.part.Part": "remembers whose it is",
    "pyvmm.machine.question.Question": "a time",
    "pyvmm.machine.result.Result": "what a run left",
    "pyvmm.swap.file.SwapFile": "a descriptor, which is -1 once it is closed",
    "pyvmm.machine.thread.Thread": "Python's own",
    "pyvmm.symbiotic.task.TaskList": "what a guest answered",
    "pyvmm.swap.evictor.Evictor": "counts, and its thread has ended",
}
#: Members that may be called once more, or only remember what they were given.
HARMLESS = {"close", "give_back", "keep", "stop", "released", "closed", "closing"}
#: Values of these are what was given, counted or left, and hold nothing of C; a closed map raises ValueError.
PLAIN = (int, float, str, bytes, type(None), tuple, list, dict, mmap.mmap)
#: Arguments where `value_for` finds none that would do in a machine that is open.
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "Machine.on_mmio": (0xD8000000, 16, print),
    "Hooks.on_mmio": (0xD8000000, 16, print),
    "Board.bus": ("pio",),
    "Owner.own": (SimpleNamespace(close=print),),
    "Run.end": (None, Result("halt")),
    "Run.park": (SimpleNamespace(parked=False),),
    "VM.add": (RngConfig(),),
    "Registers.set_signal_mask": ([10],),
    "Vm.get_dirty_log": (0,),
    "Vm.clear_dirty_log": (0, bytes(64)),
    "Call.pack": ((1,), b"data", 8),
    "SwapStore.watch": (SimpleNamespace(observe=print),),
    "Vm.set_gsi_routing": ([kvm.irqchip_route(4, 0, 4)],),
    "Vm.signal_msi": (0xFEE00000, 0),
}
SECONDS = 20


class C:
    """Stands for `lib`: nothing may reach C with a pointer any more."""

    def __init__(self, lib: Any, ffi: Any) -> None:
        self._lib, self._ffi = lib, ffi

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._lib, name)
        if not callable(real) or isinstance(real, self._ffi.CData):
            return real

        def guarded(*args: Any) -> Any:
            for arg in args:
                if isinstance(arg, self._ffi.CData) and "owning" not in repr(arg):
                    raise AssertionError(f"C was called: {name}({arg!r})")
            return real(*args)

        return guarded


POWER_OFF = "mov dx, 0x604; mov ax, 0x3400; out dx, ax; hlt"


def built(code: str = POWER_OFF) -> pyvmm.VM:
    """One of everything."""
    vm = pyvmm.VM("2M", cpus=2)
    vm.memory.write(bare.CODE, bare.assemble(code))
    vm.load_state(CpuState("protected", rip=bare.CODE, rsp=bare.STACK))
    vm.add_console(-1, -1)
    vm.add_rng()
    vm.add_swap("2M", "symcall")
    vm.on_port(0x510)(lambda exit: None)
    return vm


def never_started() -> pyvmm.VM:
    """Closed before anything ran."""
    vm = built()
    vm.add_serial()
    return vm


def ran() -> pyvmm.VM:
    """Closed after the end of its guest."""
    vm = built()
    vm.run(60)
    return vm


def closed_call() -> Call:
    """As `Machine.symcall` makes one."""
    call = Call()
    call.close()
    return call


def objects(vm: pyvmm.VM) -> dict[str, Any]:
    """An object of each class of `PACKAGES` that hangs on it, and what hooks would get."""
    found: dict[str, Any] = {}
    vcpu = vm.vcpus[0]
    seen: set[int] = set()
    left: list[Any] = [
        vm,
        Exit(vcpu, 0x510, 0, 1, False, 0),
        Hypercall(vcpu, (0x6000, 1, 2, 3, 4, 5)),
        disk.SwapFault(0, 4096, 1, vm.swap.store),  # type: ignore[union-attr]
    ]
    while left:
        thing = left.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, (list, tuple)):
            left.extend(thing)
        elif isinstance(thing, dict):
            left.extend(thing.values())
        if type(thing).__module__.startswith("pyvmm"):
            found.setdefault(f"{type(thing).__module__}.{type(thing).__qualname__}", thing)
            left.extend(vars(thing).values() if hasattr(thing, "__dict__") else [])
            for name in getattr(type(thing), "__slots__", ()):
                left.append(getattr(thing, name, None))
    return found


def classes() -> Iterator[str]:
    """The public classes of `PACKAGES`; records and exceptions hold nothing of C."""
    for package in PACKAGES:
        folder = import_module(package)
        for info in pkgutil.iter_modules(folder.__path__, f"{package}."):
            module = import_module(info.name)
            for name, kind in vars(module).items():
                if (
                    inspect.isclass(kind)
                    and kind.__module__ == info.name
                    and not name.startswith("_")
                    and not issubclass(kind, (tuple, BaseException))
                    and not getattr(kind, "_is_protocol", False)
                ):
                    yield f"{info.name}.{name}"


def given(function: Callable[..., Any]) -> tuple[Sequence[Any], dict[str, Any]]:
    """Arguments that a function could have."""
    args: list[Any] = []
    options: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.VAR_POSITIONAL or parameter.kind is parameter.VAR_KEYWORD:
            continue
        if parameter.default is not parameter.empty:
            continue
        value = value_for(name, str(parameter.annotation))
        if parameter.kind is parameter.KEYWORD_ONLY:
            options[name] = value
        else:
            args.append(value)
    return args, options


def value_for(name: str, kind: str) -> Any:
    """By the name of a parameter where that says more, else by its type."""
    named = {
        "mode": "off",
        "policy": "always",
        "call": 1,
        "table": [],
        "entries": [],
        "state": CpuState("protected", rip=0, rsp=0),
        "number": 0x6000,
        "data": b"x",
        "ranges": [(0x600, 1)],
        "capability": kvm.KVM_CAP_IRQCHIP,
        "tap": "pyvmmtest0",
        "what": None,
        "size": 2 << 20 if kind == "str | int" else 4096,
    }
    if name in named:
        return named[name]
    for text, value in (
        ("Callable", print),
        ("Handler", print),
        ("bytes", b"x"),
        ("bool", True),
        ("int", 1),
        ("float", 0.1),
        ("str", "x"),
        ("Iterable", [1]),
        ("Sequence", [1]),
        ("dict", {1: 1}),
        ("Mapping", {1: 1}),
    ):
        if text in kind:
            return value
    return None


def attempt(thing: Any, name: str) -> str:
    """What is wrong with a member of a closed machine's; nothing if it raises StateError or is harmless."""
    try:
        value = getattr(thing, name)
        if callable(value):
            special = ARGUMENTS.get(f"{type(thing).__name__}.{name}")
            args, options = (special, {}) if special else given(value)
            value = value(*args, **options)
            if inspect.isgenerator(value):
                value = next(value)
    except StateError:
        return ""
    except BaseException:
        return traceback.format_exc(limit=-3)
    if name in HARMLESS or isinstance(value, PLAIN):
        return ""
    if type(value).__module__.startswith("pyvmm") or callable(value):
        return ""  # tried itself
    return f"gave {value!r}"


def in_a_child(work: Callable[[], str]) -> str:
    """What `work` says, or how its process died."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        signal.alarm(SECONDS)
        os.close(reading)
        try:
            os.write(writing, work().encode()[-4000:])
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        said = file.read().decode()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return said or (f"died of signal {-code}" if code else "")


def guard() -> None:
    """From here on C hears of no pointer."""
    from pyvmm import _core
    from pyvmm.kvm import _kvm

    guards = {id(part.lib): C(part.lib, part.ffi) for part in (_core, _kvm)}
    for name, module in list(sys.modules.items()):
        if name.startswith("pyvmm.") and id(getattr(module, "lib", None)) in guards:
            module.lib = guards[id(module.lib)]  # type: ignore[attr-defined]


def pointers(found: dict[str, Any]) -> Iterator[str]:
    """Attributes that still hold what C has freed."""
    from pyvmm._core import ffi

    for name, thing in found.items():
        for key, value in (vars(thing) if hasattr(thing, "__dict__") else {}).items():
            if isinstance(value, ffi.CData) and "owning" not in repr(value) and value != ffi.NULL:
                yield f"{name}.{key} holds {value!r}"


def main() -> None:
    vm = {"never_started": never_started, "ran": ran}[sys.argv[1]]()
    found = objects(vm)
    vm.close()
    found.setdefault("pyvmm.machine.symcall.Call", closed_call())
    guard()
    for fault in pointers(found):
        print(fault)
    members = 0
    for kind, thing in found.items():
        for name in () if kind in APART else dir(type(thing)):
            if name.startswith("_") or hasattr(tuple, name):
                continue
            if isinstance(inspect.getattr_static(type(thing), name), classmethod):
                continue  # makes another one
            members += 1
            fault = in_a_child(partial(attempt, thing, name))
            if fault:
                print(f"{kind}.{name}: {fault}")
    tried = {
        f"{kind.__module__}.{kind.__name__}" for one in found.values() for kind in type(one).mro()
    }
    for kind in sorted(set(classes()) - tried - set(APART)):
        print(f"{kind} was not tried, and stands not in APART")
    print(f"{len(found)} classes, {members} members")


if __name__ == "__main__":
    main()
