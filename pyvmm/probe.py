# SPDX-License-Identifier: Apache-2.0
"""Find out what the KVM of this machine is and can do, by asking it and by running a few
instructions.

No CPU flag and no kernel version decides anything here: software KVMs have neither and still run
guests.
"""

from __future__ import annotations

import os
import time
from typing import Any, NamedTuple

from pyvmm import kvm
from pyvmm.config import CpuState, MachineConfig
from pyvmm.errors import Error
from pyvmm.machine.machine import Machine

#: Guest kernel code slower than this is emulated instruction by instruction; Linux would take tens of minutes to boot.
LINUX_NEEDS_INSTRUCTIONS = 10_000_000

#: Capability, what needs it, and whether nothing works without it.
CAPABILITIES = (
    ("KVM_CAP_USER_MEMORY", "guest memory", True),
    ("KVM_CAP_IRQCHIP", "interrupt controllers in the kernel", True),
    ("KVM_CAP_PIT2", "the timer PC kernels start with", True),
    ("KVM_CAP_IRQFD", "interrupts raised by device threads", True),
    ("KVM_CAP_IOEVENTFD", "kicks of device threads without a return to the VMM", True),
    ("KVM_CAP_IMMEDIATE_EXIT", "pause, stop and symcalls from other threads", True),
    ("KVM_CAP_EXT_CPUID", "the CPUID table of the guest", True),
    ("KVM_CAP_MP_STATE", "more than one vCPU", True),
    ("KVM_CAP_READONLY_MEM", "read-only memory slots", False),
    ("KVM_CAP_TSC_DEADLINE_TIMER", "a precise timer in the guest", False),
    ("KVM_CAP_X86_USER_SPACE_MSR", "MSR hooks, registration of symcalls", False),
    ("KVM_CAP_X86_MSR_FILTER", "MSR hooks, registration of symcalls", False),
    ("KVM_CAP_SYNC_REGS", "fast symcalls", False),
    ("KVM_CAP_VCPU_EVENTS", "symcalls that leave pending events alone", False),
    ("KVM_CAP_DIRTY_LOG_RING", "dirty page tracking by ring", False),
    ("KVM_CAP_ADJUST_CLOCK", "pausing the guest's clock", False),
)

# 32-bit protected mode.  mov ecx, imm32 ; L: out 0xed, al ; dec ecx ; jnz L ; hlt
EXIT_LOOP = b"\xb9%s\xe6\xed\x49\x75\xfb\xf4"
# mov ecx, imm32 ; L: dec ecx ; jnz L ; hlt
SPIN_LOOP = b"\xb9%s\x49\x75\xfd\xf4"
CODE_AT = 0x1000
EXIT_ROUNDS = 3000
SPIN_ROUNDS = 20_000
SPIN_ROUNDS_MOST = 80_000_000
SPIN_SECONDS = 0.03
SPIN_TRIES = 8


class Probe(NamedTuple):
    """The findings. Times are in seconds; `error` says why KVM cannot be used at all, or is empty."""

    path: str
    error: str
    remedy: str
    backend: str
    paging: str
    api: int
    capabilities: dict[str, int]
    max_vcpus: int
    exit_seconds: float
    instructions_per_second: float
    lab: str

    @property
    def usable(self) -> bool:
        """KVM opens and run guests."""
        return not self.error

    @property
    def missing(self) -> list[str]:
        """Capabilities without which nothing works and that are not there."""
        return [name for name, _, must in CAPABILITIES if must and not self.capabilities.get(name)]

    @property
    def software(self) -> bool:
        """Guest kernel code is emulated instruction by instruction."""
        return self.usable and self.instructions_per_second < LINUX_NEEDS_INSTRUCTIONS

    @property
    def boots_linux(self) -> bool:
        """Linux boots here in useful time."""
        return self.usable and not self.missing and not self.software

    @property
    def verdict(self) -> str:
        """One sentence for people: what this machine can run, and what to do about the rest."""
        if not self.usable:
            return f"KVM cannot be used here: {self.error}"
        if self.missing:
            return f"this KVM lacks {', '.join(self.missing)}"
        if self.software:
            speed = self.instructions_per_second / 1e6
            return (
                f"{self.backend} runs bare programs, but emulates guest kernel code at "
                f"{speed:.1f} million instructions a second, too slow for Linux; use the lab: pyvmm lab -- COMMAND"
            )
        return f"Linux boots here, on {self.backend}"


def backend() -> tuple[str, str]:
    """Return the KVM module in use and its second-level paging ("npt", "ept", "shadow" or
    "unknown").
    """
    for name in ("kvm_amd", "kvm_intel"):
        for parameter in ("npt", "ept"):
            try:
                with open(f"/sys/module/{name}/parameters/{parameter}") as file:
                    on = file.read(1) in ("Y", "1")
            except OSError:
                continue
            return name, parameter if on else "shadow"
    try:
        others = sorted(n for n in os.listdir("/sys/module") if n.startswith("kvm_"))
    except OSError:
        others = []
    return (others[0] if others else "kvm (back end unknown)"), "unknown"


def _run_loop(path: str, code: bytes, rounds: int) -> float:
    """Return the seconds that a bare program takes from its first instruction to HLT, thread start
    included.
    """
    with Machine(MachineConfig(1 << 20, irqchip=False, kvm_path=path)) as machine:
        machine.memory.write(CODE_AT, code.replace(b"%s", rounds.to_bytes(4, "little")))
        machine.set_state(CpuState("protected", rip=CODE_AT))
        start = time.perf_counter()
        machine.start()
        result = machine.wait(60)
        seconds = time.perf_counter() - start
        if result is None or result.reason != "halt":
            raise Error(f"a bare loop did not end with HLT but with {result!r}")
        return seconds


def exit_cost(path: str = "/dev/kvm") -> float:
    """Return the seconds of one exit to user space for a port write, served in C."""
    base = _run_loop(path, EXIT_LOOP, 1)
    return max(_run_loop(path, EXIT_LOOP, EXIT_ROUNDS) - base, 0.0) / EXIT_ROUNDS


def instruction_rate(path: str = "/dev/kvm") -> float:
    """Return the instructions a second that guest kernel code gets, for the simplest of loops.

    The best of several: a busy host makes a fast KVM look slow, of three tries in a lab all three;
    nothing makes a slow one look fast.
    """
    best = 0.0
    for _ in range(SPIN_TRIES):
        best = max(best, _instruction_rate(path))
        if best >= 2 * LINUX_NEEDS_INSTRUCTIONS:
            break
    return best


def _instruction_rate(path: str) -> float:
    base = _run_loop(path, SPIN_LOOP, 1)
    rounds = SPIN_ROUNDS
    while True:
        seconds = _run_loop(path, SPIN_LOOP, rounds) - base
        if seconds >= SPIN_SECONDS or rounds >= SPIN_ROUNDS_MOST:
            return 2 * rounds / max(seconds, 1e-6)
        rounds *= 4  # too short to tell it from the start of a thread


def probe(path: str = "/dev/kvm") -> Probe:
    """Look at the KVM behind `path`.

    Never raise for a KVM that is missing or broken: that is a finding.
    """
    name, paging = backend()
    found: dict[str, Any] = {
        "path": path,
        "error": "",
        "remedy": "",
        "backend": name,
        "paging": paging,
        "api": 0,
        "capabilities": {},
        "max_vcpus": 0,
        "exit_seconds": 0.0,
        "instructions_per_second": 0.0,
        "lab": os.environ.get("PYVMM_LAB", ""),
    }
    try:
        with kvm.Kvm(path) as system:
            found["api"] = system.api_version
            found["capabilities"] = {
                cap: system.check_extension(getattr(kvm, cap)) for cap, _, _ in CAPABILITIES
            }
            found["max_vcpus"] = system.check_extension(kvm.KVM_CAP_MAX_VCPUS)
        found["exit_seconds"] = exit_cost(path)
        found["instructions_per_second"] = instruction_rate(path)
    except Error as error:
        found["error"] = str(error)
        found["remedy"] = getattr(error, "remedy", "") or ""
    return Probe(**found)
