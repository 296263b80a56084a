# SPDX-License-Identifier: Apache-2.0
"""Programs with the code that the lab corrects in QEMU."""

from __future__ import annotations

import subprocess
from pathlib import Path

# As in QEMU 10.0: env in %rbx, CPUState below it. The vector goes to exception_index and to the call.
STORE = "mov %esi, -0x28f0(%rbx)"
VMRUN = f"""
    .globl helper_vmrun, do_interrupt_x86_hardirq
    .type helper_vmrun, @function
    .type do_interrupt_x86_hardirq, @function
do_interrupt_x86_hardirq:
    ret
    .size do_interrupt_x86_hardirq, . - do_interrupt_x86_hardirq
helper_vmrun:
    push %rbx
    lea 0x2900(%rdi), %rbx
    {STORE}
    movq $-1, 0x33e8(%rbx)
    mov $1, %edx
    call do_interrupt_x86_hardirq
    pop %rbx
    ret
    movl $2, -0x28f0(%rbx)
    .size helper_vmrun, . - helper_vmrun
"""


def program(folder: Path, assembly: str) -> Path:
    """A shared object of it."""
    source, output = folder / "code.S", folder / "code.so"
    source.write_text(assembly + '.section .note.GNU-stack,"",@progbits\n')
    command = ["gcc", "-shared", "-nostdlib", "-Wl,-Bsymbolic", "-o", str(output), str(source)]
    subprocess.run(command, check=True)
    return output


#: As in QEMU 10.0 of Debian 13, with the masks of registers at 0x3470 and so on.
ASKS = """
    .globl cpu_svm_has_intercept
    .type cpu_svm_has_intercept, @function
cpu_svm_has_intercept:
    cmp $0x1f, %esi
    ja 1f
    cmp $8, %esi
    ja 2f
    movzwl 0x3470(%rdi), %eax
    bt %esi, %eax
    setb %al
    ret
2:  lea -0x10(%rsi), %eax
    movzwl 0x3472(%rdi), %edx
    bt %eax, %edx
    setb %al
    ret
1:  movzwl 0x3474(%rdi), %eax
    sub $0x20, %esi
    bt %esi, %eax
    setb %al
    ret
    .size cpu_svm_has_intercept, . - cpu_svm_has_intercept
"""
