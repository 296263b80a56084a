# SPDX-License-Identifier: Apache-2.0
"""cffi builders (API mode, compiled once at install).

`kvm` is the bindings of /dev/kvm alone; `core` is every C file of the other folders here. The
declarations that Python sees are the parts of the headers between the marks ``cffi: begin`` and
``cffi: end``, so that there is one copy of each.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from cffi import FFI

if TYPE_CHECKING:
    from collections.abc import Iterable

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
#: This file: other flags, other modules.
OWN = "csrc/build.py"

#: The interface between guest and VMM: the one header that is not of this folder.
INTERFACE = "include/symbiotic.h"
#: The kernel's names of types, which that has.
KERNEL_TYPES = """
typedef unsigned char __u8;
typedef unsigned int __u32;
typedef unsigned long long __u64;
"""
#: The folders of the core, of which docs/architecture.md has a diagram.
WINGS = ("host", "machine", "virtio", "serial", "symbiotic", "swap")
CFLAGS = [
    "-std=gnu11",
    "-D_GNU_SOURCE",
    "-O2",
    "-g",
    "-Wall",
    "-Wextra",
    "-Wshadow",
    "-fvisibility=hidden",
]
#: These keep a fault that is left from being of use to a guest: canaries, copies that know the size of their
#: target, frames that touch every page of a stack in turn, targets of calls and returns that the CPU checks. Python's
#: own flags may set a level of FORTIFY_SOURCE, hence the -U.
HARDENED = [
    "-fstack-protector-strong",
    "-fstack-clash-protection",
    "-fcf-protection=full",
    "-U_FORTIFY_SOURCE",
    "-D_FORTIFY_SOURCE=3",
    "-Wformat",
    "-Werror=format-security",
]
#: The linker binds everything at load, and makes the tables of addresses read-only after that.
LINKED = ["-Wl,-z,relro,-z,now,-z,noexecstack"]
#: A build for tests: sanitizers as -fsanitize= has them. FORTIFY_SOURCE would hide copies from them.
SANITIZERS = os.environ.get("PYVMM_SANITIZE", "")
if SANITIZERS:
    HARDENED = [f"-fsanitize={SANITIZERS}", "-fno-omit-frame-pointer", "-U_FORTIFY_SOURCE"]
    LINKED = [f"-fsanitize={SANITIZERS}"]
CFLAGS += HARDENED
# cffi's own generated code trips over these two.
CFLAGS += ["-Wno-unused-parameter", "-Wno-missing-field-initializers", "-Wno-sign-compare"]

MARKED = re.compile(r"/\* cffi: begin \*/(.*?)/\* cffi: end \*/", re.DOTALL)
#: A number that is not written as one: the compiler says what it is.
COMPUTED = re.compile(r"^(#define \w+\s+)\(.*$", re.MULTILINE)
INCLUDED = re.compile(r'^#include "(.+)"$', re.MULTILINE)


def declarations(header: Path) -> str:
    """Return the text between the marks of one header."""
    return "\n".join(MARKED.findall(header.read_text()))


def interface() -> str:
    """Return the same of the interface's header, which is written for the kernel."""
    return KERNEL_TYPES + COMPUTED.sub(r"\1...", declarations(ROOT / INTERFACE))


def files(ending: str) -> list[str]:
    """Return the wings' files, WING/NAME."""
    return [
        str(path.relative_to(HERE))
        for wing in WINGS
        for path in sorted((HERE / wing).glob(f"*{ending}"))
    ]


def in_order(headers: Iterable[str], placed: dict[str, None]) -> dict[str, None]:
    """Put each header behind those that it includes: later ones use the types of earlier ones."""
    for name in headers:
        if name not in placed:
            in_order(INCLUDED.findall((HERE / name).read_text()), placed)
            placed[name] = None
    return placed


def builder_of_core() -> FFI:
    """Return the C engine: memory, buses, the vCPU loop and the devices."""
    ffi = FFI()
    headers = [name for name in in_order(files(".h"), {}) if declarations(HERE / name)]
    ffi.cdef(interface())
    for name in headers:
        ffi.cdef(declarations(HERE / name))
    ffi.set_source(
        "pyvmm._core",
        "\n".join(["#include <symbiotic.h>", *(f'#include "{name}"' for name in headers)]),
        sources=[f"csrc/{name}" for name in files(".c")],
        depends=[OWN, INTERFACE, *(f"csrc/{name}" for name in files(".h"))],
        include_dirs=["csrc", "include"],
        extra_compile_args=CFLAGS,
        extra_link_args=LINKED,
        libraries=["pthread"],
    )
    return ffi


def builder_of_kvm() -> FFI:
    """Return the bindings of /dev/kvm, one header a topic, in an order their types need."""
    ffi = FFI()
    folder = HERE / "kvm"
    order = (folder / "ORDER").read_text().split()
    for name in order:
        ffi.cdef(declarations(folder / name))
    ffi.set_source(
        "pyvmm.kvm._kvm",
        "\n".join(f'#include "kvm/{name}"' for name in order),
        depends=[OWN, *(f"csrc/kvm/{name}" for name in order)],
        include_dirs=["csrc"],
        extra_compile_args=CFLAGS,
        extra_link_args=LINKED,
    )
    return ffi
