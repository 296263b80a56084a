# SPDX-License-Identifier: Apache-2.0
"""The part of the symcall benchmark that runs pyvmm itself.

`python -m bench.loads.ours KIND CPL ROUNDS` does one of it.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from bench.loads import symguest
from pyvmm._core import lib
from pyvmm.config import CpuState, MachineConfig
from pyvmm.machine.machine import Machine

PORT_IN_C = 0xF4
PORT_IN_PYTHON = 0xE0
PORT_OF_PROBE = 0xE1
DOORBELL = 0x7E
ECHO = lib.SYMBIOTIC_ECHO
NUMBER = lib.SYMBIOTIC_HYPERCALL_USER_FIRST
TEST = 1
PATIENCE = 300.0

CPLS = {"CPL 0": 0, "CPL 3": symguest.FLAG_USER}


def machine(port: int, flags: int, rounds: int, value: int = 0, **options: Any) -> Machine:
    """Return the benchmark's guest, not started."""
    made = Machine(MachineConfig(symguest.SIZE, **{"irqchip": False, **options}))
    made.memory.write(0, symguest.image())
    state = CpuState(
        "long", rip=symguest.CODE, rsp=symguest.STACK, rbx=rounds, rsi=port, rdi=flags, rax=value,
        cr3=symguest.TABLES, gdt_base=symguest.GDT, gdt_limit=symguest.GDT_LIMIT,
    )  # fmt: skip
    made.set_state(state)
    return made


def loop(made: Machine) -> float:
    """Run the guest; return the seconds from its mark to its end."""
    made.start()
    result = made.wait(PATIENCE)
    if result is None or result.reason != "poweroff" or result.boot_seconds is None:
        raise RuntimeError(f"the benchmark's guest ended by {result and result.reason}")
    return result.seconds - result.boot_seconds


def exit_in_c(flags: int, rounds: int, **options: Any) -> float:
    with machine(PORT_IN_C, flags, rounds, **options) as made:
        return loop(made)


def exit_in_python(flags: int, rounds: int) -> float:
    with machine(PORT_IN_PYTHON, flags, rounds) as made:
        made.on_port(PORT_IN_PYTHON, lambda exit: None)
        return loop(made)


def checked(made: Machine, rounds: int) -> float:
    """Run the loop; every round made one call that came back."""
    seconds = loop(made)
    counters = made.symcalls
    expected = rounds + symguest.WARM_UP
    if counters["calls"] != expected or counters["returned"] != expected:
        raise RuntimeError(f"{expected} rounds and these calls: {counters}")
    return seconds


def call_in_c(flags: int, rounds: int) -> float:
    """Call by the doorbell's echo, which CPL 0 alone may ring; the probe's port from CPL 3."""
    user = flags & symguest.FLAG_USER
    port, value = (PORT_OF_PROBE, 0) if user else (DOORBELL, ECHO)
    with machine(port, flags | symguest.FLAG_REGISTER, rounds, value) as made:
        if user:
            assert lib.probe_attach(made.board.pio, PORT_OF_PROBE) == 0
        return checked(made, rounds)


def call_in_python(flags: int, rounds: int) -> float:
    """Call in a hook of the doorbell, or of a port for CPL 3."""
    user = flags & symguest.FLAG_USER
    port, value = (PORT_IN_PYTHON, 0) if user else (DOORBELL, NUMBER)
    with machine(port, flags | symguest.FLAG_REGISTER, rounds, value) as made:
        if user:
            made.on_port(port, lambda exit: exit.vcpu.symcall(TEST) and None)
        else:
            made.on_hypercall(NUMBER, lambda call: call.vcpu.symcall(TEST) and None)
        return checked(made, rounds)


KINDS: dict[str, Callable[[int, int], float]] = {
    "exit": exit_in_c,
    "python": exit_in_python,
    "call": call_in_c,
    "python-call": call_in_python,
}

#: The work of the vCPU while another thread calls.
WHILE = {
    "spinning at CPL 0": symguest.FLAG_SPIN,
    "spinning at CPL 3": symguest.FLAG_SPIN | symguest.FLAG_USER,
    "halted": symguest.FLAG_HALT,
}


def remote(flags: int, calls: int) -> dict[str, float]:
    """Return seconds of a call from another thread: the median and the slowest of some."""
    with machine(0, flags | symguest.FLAG_REGISTER, 1, irqchip=True) as made:
        made.start()
        deadline = time.monotonic() + PATIENCE
        while not made.board.platform.mark_ns:
            if time.monotonic() > deadline:
                raise RuntimeError("the benchmark's guest did not reach its mark")
            time.sleep(0.001)
        taken = []
        for _ in range(calls):
            start = time.perf_counter()
            answer = made.symcall(0, TEST, 41)
            taken.append(time.perf_counter() - start)
            assert answer.rbx == 42
        made.stop()
        made.wait(PATIENCE)
    return {"median": statistics.median(taken), "slowest": max(taken)}


if __name__ == "__main__":
    KINDS[sys.argv[1]](CPLS[f"CPL {sys.argv[2]}"], int(sys.argv[3]))
