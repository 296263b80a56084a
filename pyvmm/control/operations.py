# SPDX-License-Identifier: Apache-2.0
"""Operations of a running VM's control socket. docs/control.md has the list."""

from __future__ import annotations

import os
import time

import pyvmm
from pyvmm.control import protocol, swap
from pyvmm.control.protocol import ProtocolError
from pyvmm.errors import ConfigError, StateError, SymcallError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    from pyvmm.machine.question import Question

    class Served(Protocol):
        """The part of a `pyvmm.VM` that is used."""

        kernel: str | None
        machine: Any
        swap: Any

        @property
        def memory(self) -> Any:
            """Guest RAM, with `size` and `slots()`."""

        @property
        def vcpus(self) -> list[Any]:
            """By index."""

        @property
        def state(self) -> str:
            """As `VM.state`."""

        @property
        def symcalls(self) -> dict[str, int]:
            """Counters."""

        def pause(self, question: Question) -> None:
            """Wait until it is."""

        def resume(self) -> None:
            """Let the vCPUs go on."""

        def stop(self) -> None:
            """End the run."""

        def power_button(self) -> bool:
            """Press the power button. Return False if nobody listens."""

        def symcall(self, cpu: int, call: int | str, *args: Any, **options: Any) -> Any:
            """Make a symcall, from any thread."""


#: Another vCPU may do where one fails for these reasons: it is off line, or its handler hangs.
OF_THIS_CPU = frozenset({"absent", "disabled", "active", "invalid", "deadline", "nested"})
OVER = ("ended", "closed")


class Params:
    """The parameters of a request, taken one by one; what nobody took is a mistake.

    `question` says how long its answer may take.
    """

    def __init__(self, values: dict[str, Any], question: Question) -> None:
        self._values = values
        self.question = question

    def take(self, name: str, kinds: type | tuple[type, ...], default: Any = None) -> Any:
        """Return one of them, or the default. Raise ProtocolError for another kind of value."""
        value = self._values.pop(name, None)
        if value is None:
            return default
        kinds = kinds if isinstance(kinds, tuple) else (kinds,)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            wanted = " or ".join(kind.__name__ for kind in kinds)
            raise ProtocolError(f"{name!r} is to be {wanted}, not {type(value).__name__}")
        return value

    def end(self) -> None:
        """Raise ProtocolError if there are more."""
        if self._values:
            raise ProtocolError(f"no parameter is named {', '.join(sorted(self._values))!r} here")


class Reply:
    """The result of an operation; `fds` go with it and are closed afterwards.

    `cut` says why it is not all.
    """

    def __init__(self, result: Any, fds: tuple[int, ...] = (), cut: str | None = None) -> None:
        self.result = result
        self.fds = fds
        self.cut = cut


class Operations:
    """The operations on one VM, by name. They run on the threads of the clients, several at a time."""

    def __init__(self, vm: Served, name: str) -> None:
        self._vm = vm
        self._name = name
        self._since = time.monotonic()
        self._table: dict[str, Callable[[Params], Any]] = {
            "ping": self._ping,
            "info": self._info,
            "pause": self._pause,
            "resume": self._resume,
            "stop": self._stop,
            "power-button": self._power_button,
            "symcall": self._symcall,
            "tasks": self._tasks,
            "facts": self._facts,
            "memory-stats": self._memory_stats,
            "memory": self._memory,
            "swap-stats": self._swap_stats,
            "swap-set": self._swap_set,
            "swap-evict": self._swap_evict,
        }

    def run(self, request: dict[str, Any], question: Question) -> Reply:
        """Do what a request asks for, in the time of the question.

        Raise what that raises, ProtocolError for what cannot be asked.
        """
        values = {name: value for name, value in request.items() if name not in ("id", "op")}
        op = request.get("op")
        function = self._table.get(op) if isinstance(op, str) else None
        if function is None:
            raise ProtocolError(f"no operation {op!r}; there are: {', '.join(self._table)}")
        params = Params(values, question)
        result = function(params)
        if isinstance(result, Reply):
            return result
        return Reply(protocol.plain(result), cut=getattr(result, "cut", None))

    def _ping(self, params: Params) -> Any:
        params.end()
        return {
            "name": self._name,
            "pid": os.getpid(),
            "state": self._vm.state,
            "version": pyvmm.__version__,
            "protocol": protocol.VERSION,
        }

    def _info(self, params: Params) -> Any:
        vm = self._vm
        return {
            **self._ping(params),
            "cpus": len(vm.vcpus),
            "memory": vm.memory.size,
            "kernel": vm.kernel,
            "seconds": time.monotonic() - self._since,
            "exits": vm.machine.exits(),
            "symcalls": vm.symcalls,
            "threads": [vcpu.thread.native_id if vcpu.thread else None for vcpu in vm.vcpus],
            "swap": swap.brief(vm.swap),
        }

    def _pause(self, params: Params) -> Any:
        params.end()
        self._vm.pause(params.question)
        return {"state": self._vm.state}

    def _resume(self, params: Params) -> Any:
        params.end()
        self._vm.resume()
        return {"state": self._vm.state}

    def _stop(self, params: Params) -> Any:
        params.end()
        self._vm.stop()
        return {"state": self._vm.state}

    def _power_button(self, params: Params) -> Any:
        params.end()
        return {"pressed": self._vm.power_button()}

    def _symcall(self, params: Params) -> Any:
        call = params.take("call", (int, str))
        args = params.take("args", list, [])
        cpu = params.take("cpu", int)
        data = protocol.from_base64(params.take("data", str, ""))
        want = params.take("want", int, 0)
        params.end()
        if call is None:
            raise ProtocolError("'call' is missing: the number or the name of a symcall")
        if not all(isinstance(arg, int) for arg in args):
            raise ProtocolError("'args' is to be a list of integers")
        if isinstance(call, str):
            if data or want:
                raise ProtocolError(f"{call!r} is a name; data and want go with a number")
            return self._call(params, cpu, call, *args)
        cpu = 0 if cpu is None else cpu
        results = self._call(params, cpu, call, *args, data=data, want=want)
        return results._asdict() | {"data": protocol.to_base64(results.data)}

    def _tasks(self, params: Params) -> Any:
        cpu, threads = params.take("cpu", int), params.take("threads", bool, False)
        params.end()
        return self._call(params, cpu, "tasks", threads)

    def _facts(self, params: Params) -> Any:
        cpu = params.take("cpu", int)
        params.end()
        return self._call(params, cpu, "facts")

    def _memory_stats(self, params: Params) -> Any:
        cpu = params.take("cpu", int)
        params.end()
        return self._call(params, cpu, "memory")

    def _swap_stats(self, params: Params) -> Any:
        params.end()
        return swap.stats(swap.swap_of(self._vm), params.question)

    def _swap_set(self, params: Params) -> Any:
        mode, policy = params.take("mode", str), params.take("policy", str)
        quota = params.take("quota", int)
        params.end()
        if mode is None and policy is None and quota is None:
            raise ProtocolError("nothing to set: mode, policy or quota")
        disk = swap.swap_of(self._vm)
        swap.change(disk, mode, policy, quota)
        return swap.brief(disk)

    def _swap_evict(self, params: Params) -> Any:
        pages = params.take("pages", int)
        params.end()
        return {"adopted": swap.swap_of(self._vm).evict(pages, params.question)}

    def _call(
        self, params: Params, cpu: int | None, call: int | str, *args: Any, **options: Any
    ) -> Any:
        """Make a symcall on that vCPU; without one, on the first that takes it."""
        options["question"] = params.question
        if cpu is not None:
            if not 0 <= cpu < len(self._vm.vcpus):
                raise ConfigError(f"no vCPU {cpu}; there are 0 to {len(self._vm.vcpus) - 1}")
            return self._vm.symcall(cpu, call, *args, **options)
        first: SymcallError | None = None
        for index in range(len(self._vm.vcpus)):
            try:
                return self._vm.symcall(index, call, *args, **options)
            except SymcallError as error:
                if error.reason not in OF_THIS_CPU:
                    raise
                first = first or error
        assert first is not None
        raise first

    def _memory(self, params: Params) -> Any:
        """Return the address space of this process, for a client to read RAM from without the VMM's
        help.
        """
        params.end()
        if self._vm.state in OVER:
            raise StateError("the VM has ended, and its memory with it")
        regions = [list(slot) for slot in self._vm.memory.slots()]
        fd = os.open("/proc/self/mem", os.O_RDONLY | os.O_CLOEXEC)
        return Reply({"pid": os.getpid(), "ram": regions}, (fd,))
