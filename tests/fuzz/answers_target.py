# SPDX-License-Identifier: Apache-2.0
"""What a guest's kernel answers to symcalls, and what lies in its memory: a lie gives an error of ours, no other."""

from __future__ import annotations

from typing import Any

from tests.fuzz import python

with python.instrumented(include=["pyvmm"]):
    from pyvmm.control import protocol
    from pyvmm.drgn import vmcoreinfo
    from pyvmm.errors import Error, SymcallError
    from pyvmm.machine import pagewalk
    from pyvmm.machine.symcall import Results
    from pyvmm.symbiotic import calls, memory, swapstats, task

from tests.support import images

RAM = images.FakeMemory(64 << 10)
#: Pages of a list before the guest falls silent: an endless one is another test's.
MAX_CALLS = 40


class Guest:
    """Answers as the input says; `raw` of the functions of pyvmm.symbiotic."""

    patient = False

    def __init__(self, provider: Any) -> None:
        self.provider = provider
        self.calls = 0

    def __call__(self, number: int, *args: int, data: bytes = b"", want: int = 0) -> Results:
        provider = self.provider
        self.calls += 1
        if self.calls > MAX_CALLS or provider.ConsumeIntInRange(0, 15) == 15:
            raise SymcallError("no", "error", provider.ConsumeIntInRange(0, 40))
        sizes = (want, args[1] if len(args) > 1 else want, provider.ConsumeIntInRange(0, 4096))
        registers = [
            sizes[provider.ConsumeIntInRange(0, 2)]
            if provider.ConsumeBool()
            else python.number(provider, 64)
            for _ in range(5)
        ]
        # As the engine has it: exactly as many bytes as were wanted.
        answer = provider.ConsumeBytes(provider.ConsumeIntInRange(0, want)).ljust(want, b"\0")
        return Results(*registers, answer)


def tasks(raw: Guest) -> Any:
    return task.tasks(raw, raw.provider.ConsumeBool())


def lookup(raw: Guest) -> Any:
    pte = python.number(raw.provider, 64)
    return memory.lookup(
        raw, python.number(raw.provider, 64), pte, raw.provider.ConsumeIntInRange(0, 8)
    )


def read(raw: Guest) -> Any:
    return memory.read(
        raw, python.number(raw.provider, 64), raw.provider.ConsumeIntInRange(0, 20000)
    )


def note(raw: Guest) -> Any:
    text = raw.provider.ConsumeBytes(1024)
    return vmcoreinfo.parse(text)


def walk(raw: Guest) -> Any:
    """Page tables that the guest wrote."""
    provider = raw.provider
    RAM.write(0, provider.ConsumeBytes(512).ljust(8192, b"\0"))
    for _ in range(provider.ConsumeIntInRange(0, 5)):
        entry = provider.ConsumeIntInRange(0, 15) << 12 | provider.ConsumeIntInRange(0, 0xFFF)
        RAM.write(8 * provider.ConsumeIntInRange(0, 1023), entry.to_bytes(8, "little"))
    numbers = [python.number(provider, 64) for _ in range(5)]
    return pagewalk.walk(RAM, *numbers)  # type: ignore[arg-type]


QUESTIONS: tuple[Any, ...] = (
    *(tasks, calls.read_facts, calls.read_current, calls.read_memory, calls.test),
    *(swapstats.swap_stats, lookup, read, note, walk),
)


def one(data: bytes) -> None:
    provider = python.Provider(data)
    question = QUESTIONS[provider.ConsumeIntInRange(0, len(QUESTIONS) - 1)]
    try:
        answer = question(Guest(provider))
        # What was accepted can be sent on.
        protocol.encode({"result": protocol.plain(answer)})
    except Error:
        pass


if __name__ == "__main__":
    python.run(one)
