# SPDX-License-Identifier: Apache-2.0
"""A vCPU in words, for a guest that came to a bad end: registers, code, stack and the page walks
that matter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyvmm.errors import GuestMemoryError
from pyvmm.machine.pagewalk import Walk, walk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pyvmm.kvm import Vcpu
    from pyvmm.machine.memory import GuestMemory

__all__ = ["Walk", "dump", "walk"]

PAGE = 4096
CODE_BEFORE = 32
CODE_AFTER = 32
INSTRUCTIONS = 8
STACK_WORDS = 16

GENERAL = (
    *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp"),
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"),
)
SEGMENTS = ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt")

# Bit numbers and names: SDM volume 1, 3.4.3 (RFLAGS) and volume 3A, 2.5 (CR0, CR4), 2.2.1 (EFER).
RFLAGS = {
    0: "CF", 2: "PF", 4: "AF", 6: "ZF", 7: "SF", 8: "TF", 9: "IF", 10: "DF", 11: "OF", 14: "NT",
    16: "RF", 17: "VM", 18: "AC", 19: "VIF", 20: "VIP", 21: "ID"
}  # fmt: skip
CR0 = {
    0: "PE", 1: "MP", 2: "EM", 3: "TS", 4: "ET", 5: "NE", 16: "WP", 18: "AM", 29: "NW", 30: "CD", 31: "PG"
}  # fmt: skip
CR4 = {
    0: "VME", 1: "PVI", 2: "TSD", 3: "DE", 4: "PSE", 5: "PAE", 6: "MCE", 7: "PGE", 8: "PCE",
    9: "OSFXSR", 10: "OSXMMEXCPT", 11: "UMIP", 12: "LA57",
    13: "VMXE", 14: "SMXE", 16: "FSGSBASE", 17: "PCIDE", 18: "OSXSAVE", 19: "KL", 20: "SMEP",
    21: "SMAP", 22: "PKE", 23: "CET", 24: "PKS"
}  # fmt: skip
EFER = {0: "SCE", 8: "LME", 10: "LMA", 11: "NXE", 12: "SVME", 13: "LMSLE", 14: "FFXSR", 15: "TCE"}

CR0_PE = 1 << 0
EFER_LMA = 1 << 10
RFLAGS_VM = 1 << 17

# api.rst, KVM_EXIT_INTERNAL_ERROR; the meaning of the data is kvm_intel's and kvm_amd's.
SUBERRORS = {
    1: ("an instruction that KVM cannot emulate", ()),
    2: ("exceptions at the same time", ("interrupt information", "error code")),
    3: ("an exit while delivering an event", ("event", "exit reason", "exit qualification")),
    4: ("an exit that KVM does not know", ("exit reason", "host CPU")),
}
SUBERROR_EMULATION = 1
EMULATION_HAS_BYTES = 1

# SDM volume 3C, by their titles, as numbers there change with the edition: "VM-Entry Failures During
# or After Loading Guest State" (bit 31 of the exit reason), and "VM Instruction Error Numbers".
ENTRY_FAILED = 1 << 31
ENTRY_REASONS = {33: "invalid guest state", 34: "MSR loading", 41: "machine check"}
INSTRUCTION_ERRORS = {7: "invalid control fields", 8: "invalid host state"}
SVM_INVALID = (0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF)


def dump(vcpu: Vcpu, memory: GuestMemory) -> str:
    """Return everything about a vCPU that helps to see what went wrong, as text of some 60 lines.

    The vCPU must not be running. Guest memory is only read. Whatever cannot be read is said in the
    text; nothing the guest did makes this raise.
    """
    lines: list[str] = []
    _section(lines, lambda: _exit_lines(vcpu.run))
    try:
        state = _State(vcpu.get_regs(), vcpu.get_sregs(), memory)
    except Exception as error:
        return "\n".join([*lines, f"registers: {error}"]) + "\n"
    for part in (_register_lines, _segment_lines, _control_lines, _walk_lines, _code_lines):
        _section(lines, lambda part=part: part(state))  # type: ignore[misc]
    _section(lines, lambda: _stack_lines(state))
    return "\n".join(lines) + "\n"


def _section(lines: list[str], part: Callable[[], Iterator[str]]) -> None:
    try:
        lines.extend(part())
    except Exception as error:  # half a dump is better than none
        lines.append(f"  (dump failed here: {error})")


class _State:
    """The registers, and guest memory as they map it."""

    def __init__(self, regs: Any, sregs: Any, memory: GuestMemory) -> None:
        self.regs = regs
        self.sregs = sregs
        self.memory = memory
        long = bool(sregs.efer & EFER_LMA)
        real = not sregs.cr0 & CR0_PE or bool(regs.rflags & RFLAGS_VM)
        if long and sregs.cs.l:
            self.bits = 64
        else:
            self.bits = 32 if sregs.cs.db and not real else 16

    def linear(self, segment: Any, offset: int) -> int:
        """Return the linear address of an offset; only FS and GS have a base in 64-bit mode."""
        if self.bits == 64:
            return offset
        return int(segment.base + offset) & 0xFFFF_FFFF

    def walk(self, vaddr: int) -> Walk:
        s = self.sregs
        return walk(self.memory, s.cr3, s.cr0, s.cr4, s.efer, vaddr)

    def read(self, vaddr: int, length: int) -> list[int | None]:
        """Read bytes at a linear address; None for each that is not mapped or not in RAM."""
        result: list[int | None] = []
        while length > 0:
            vaddr &= 0xFFFF_FFFF_FFFF_FFFF if self.bits == 64 else 0xFFFF_FFFF
            count = min(length, PAGE - vaddr % PAGE)
            result.extend(self._read_page(vaddr, count))
            vaddr += count
            length -= count
        return result

    def _read_page(self, vaddr: int, count: int) -> list[int] | list[None]:
        gpa = self.walk(vaddr).gpa
        if gpa is not None:
            try:
                return list(self.memory.read(gpa, count))
            except GuestMemoryError:
                pass
        return [None] * count


def _named(value: int, names: dict[int, str]) -> str:
    return " ".join(name for bit, name in names.items() if value >> bit & 1) or "-"


def _exit_lines(run: Any) -> Iterator[str]:
    from pyvmm.kvm import lib
    from pyvmm.machine.result import exit_name

    reason = run.exit_reason
    yield f"exit: {exit_name(reason)} ({reason})"
    if reason == lib.KVM_EXIT_INTERNAL_ERROR:
        yield from _internal_error_lines(run)
    elif reason == lib.KVM_EXIT_FAIL_ENTRY:
        yield f"  {_entry_failure(run.fail_entry.hardware_entry_failure_reason)}"
    elif reason == lib.KVM_EXIT_UNKNOWN:
        yield f"  hardware exit reason {run.hw.hardware_exit_reason:#x}"


def _internal_error_lines(run: Any) -> Iterator[str]:
    error = run.internal
    count = min(error.ndata, len(error.data))
    meaning, names = SUBERRORS.get(error.suberror, ("unknown", ()))
    yield f"  suberror {error.suberror}: {meaning}"
    failure = run.emulation_failure
    if error.suberror == SUBERROR_EMULATION and count and failure.flags & EMULATION_HAS_BYTES:
        # The bytes are a part of the data: they are there only if it is long enough.
        size = min(failure.insn_size, len(failure.insn_bytes), max(0, count * 8 - 9))
        yield f"  instruction bytes: {bytes(failure.insn_bytes)[:size].hex(' ')}"
    for i in range(count):
        yield f"  {names[i] if i < len(names) else f'data[{i}]'}: {error.data[i]:#x}"


def _entry_failure(reason: int) -> str:
    if reason in SVM_INVALID:
        meaning = "SVM: invalid guest state"
    elif reason & ENTRY_FAILED:
        meaning = "VT-x: " + ENTRY_REASONS.get(reason & 0xFFFF, "unknown reason")
    else:
        meaning = "VT-x: instruction error, " + INSTRUCTION_ERRORS.get(reason, "see the SDM")
    return f"hardware entry failure reason {reason:#x} ({meaning})"


def _register_lines(state: _State) -> Iterator[str]:
    regs = state.regs
    flags = regs.rflags
    yield f"mode: {state.bits}-bit code"
    if regs.rip == 0xFFF0 and state.sregs.cs.base == 0xFFFF_0000:
        yield "  These are the registers of a reset: SVM loses the guest's at a triple fault."
    yield f"rip {regs.rip:016x}  rflags {flags:08x} [{_named(flags, RFLAGS)} IOPL={flags >> 12 & 3}]"
    for at in range(0, len(GENERAL), 4):
        yield "  ".join(f"{name:3} {getattr(regs, name):016x}" for name in GENERAL[at : at + 4])


def _segment_lines(state: _State) -> Iterator[str]:
    for name in SEGMENTS:
        segment = getattr(state.sregs, name)
        yield (
            f"{name:3} {segment.selector:04x}  base {segment.base:016x}  limit {segment.limit:08x}"
            f"  {_segment_kind(segment)}"
        )
    for name in ("gdt", "idt"):
        table = getattr(state.sregs, name)
        yield f"{name}       base {table.base:016x}  limit {table.limit:04x}"


def _segment_kind(segment: Any) -> str:
    if segment.unusable:
        return "unusable"
    if not segment.s:
        kind = f"system type {segment.type}"
    elif segment.type & 8:
        size = "64-bit" if segment.l else ("32-bit" if segment.db else "16-bit")
        kind = f"code {size}" + (" conforming" if segment.type & 4 else "")
    else:
        kind = "data" + (" writable" if segment.type & 2 else "")
    present = "" if segment.present else " not present"
    return f"{kind} dpl {segment.dpl}{present}"


def _control_lines(state: _State) -> Iterator[str]:
    s = state.sregs
    yield f"cr0 {s.cr0:08x} [{_named(s.cr0, CR0)}]"
    yield f"cr2 {s.cr2:016x}  cr3 {s.cr3:016x}  cr8 {s.cr8:x}"
    yield f"cr4 {s.cr4:08x} [{_named(s.cr4, CR4)}]"
    yield f"efer {s.efer:04x} [{_named(s.efer, EFER)}]  apic_base {s.apic_base:x}"


def _walk_lines(state: _State) -> Iterator[str]:
    yield from _one_walk("rip", state.walk(state.linear(state.sregs.cs, state.regs.rip)))
    if state.sregs.cr2:
        yield from _one_walk("cr2", state.walk(state.sregs.cr2))


def _one_walk(what: str, result: Walk) -> Iterator[str]:
    yield f"page walk of {what} {result.vaddr:#x} ({result.mode}):"
    for level in result.levels:
        value = "unreadable" if level.value is None else f"{level.value:016x}"
        where = f"{level.table}[{level.slot}]"
        yield f"  {where:10} at {level.address:012x}: {value} {' '.join(level.flags())}".rstrip()
    if result.gpa is None:
        yield f"  not mapped: {result.reason}"
    elif result.page_size:
        yield f"  -> guest-physical {result.gpa:#x}, page of {result.page_size >> 10} KiB"
    else:
        yield f"  -> guest-physical {result.gpa:#x}"


def _code_lines(state: _State) -> Iterator[str]:
    rip = state.linear(state.sregs.cs, state.regs.rip)
    before = min(CODE_BEFORE, rip)
    code = state.read(rip - before, before + CODE_AFTER)
    words = ["??" if byte is None else f"{byte:02x}" for byte in code]
    words[before] = f"<{words[before]}>"
    # As the kernel prints it, so that its scripts/decodecode can read this line too.
    yield "Code: " + " ".join(words)
    readable = code[before:]
    if None in readable:
        readable = readable[: readable.index(None)]
    if not readable:
        yield "  the code at rip cannot be read"
        return
    yield from _disassembly(state, bytes(byte for byte in readable if byte is not None))


def _disassembly(state: _State, code: bytes) -> Iterator[str]:
    try:
        import capstone
    except (ImportError, OSError):
        yield "  (no disassembly: pip install 'pyvmm-kvm[disasm]')"
        return
    modes = {16: capstone.CS_MODE_16, 32: capstone.CS_MODE_32, 64: capstone.CS_MODE_64}
    engine = capstone.Cs(capstone.CS_ARCH_X86, modes[state.bits])
    found = False
    for address, _, mnemonic, operands in engine.disasm_lite(code, state.regs.rip, INSTRUCTIONS):
        found = True
        yield f"  {address:x}: {mnemonic} {operands}".rstrip()
    if not found:
        yield "  the bytes at rip are not an instruction"


def _stack_lines(state: _State) -> Iterator[str]:
    size = state.bits // 8
    ss = state.sregs.ss
    wide = state.bits == 64
    offset = state.regs.rsp if wide else state.regs.rsp & (0xFFFF_FFFF if ss.db else 0xFFFF)
    start = state.linear(ss, offset)
    data = state.read(start, STACK_WORDS * size)
    yield f"stack at {start:#x}:"
    for at in range(0, len(data), 4 * size):
        row = (data[i : i + size] for i in range(at, at + 4 * size, size))
        yield "  " + " ".join(_word(word) for word in row)


def _word(data: list[int | None]) -> str:
    return "".join("??" if byte is None else f"{byte:02x}" for byte in reversed(data))
