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

from cffi import FFI

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
#: This file: other flags, other modules.
OWN = "csrc/build.py"

# Later headers use the types of earlier ones.
CORE_HEADERS = [
    "host/thread.h",
    "host/layout.h",
    "machine/memory.h",
    "host/guard.h",
    "machine/bus.h",
    "host/iothread.h",
    "machine/vcpu.h",
    "symbiotic/symspy.h",
    "symbiotic/symcall.h",
    "symbiotic/watch.h",
    "symbiotic/doorbell.h",
    "host/pagemap.h",
    "swap/store.h",
    "swap/map.h",
    "swap/bypass.h",
    "host/memory.h",
    "swap/governor.h",
    "symbiotic/probe.h",
    "machine/platform.h",
    "host/terminal.h",
    "host/tsc.h",
    "host/framing.h",
    "serial/serial.h",
    "virtio/queue.h",
    "virtio/device.h",
    "virtio/mmio.h",
    "virtio/blk.h",
    "virtio/console.h",
    "virtio/rng.h",
    "virtio/net.h",
]
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


def declarations(header: Path) -> str:
    """The text between the marks of one header."""
    return "\n".join(MARKED.findall(header.read_text()))


def builder_of_core() -> FFI:
    """The C engine: memory, buses, the vCPU loop and the devices."""
    ffi = FFI()
    headers = [HERE / name for name in CORE_HEADERS]
    for header in headers:
        ffi.cdef(declarations(header))
    ffi.set_source(
        "pyvmm._core",
        "\n".join(f'#include "{name}"' for name in CORE_HEADERS),
        sources=sorted(str(path.relative_to(ROOT)) for path in HERE.glob("*/*.c")),
        depends=[OWN, *sorted(str(path.relative_to(ROOT)) for path in HERE.glob("*/*.h"))],
        include_dirs=["csrc"],
        extra_compile_args=CFLAGS,
        extra_link_args=LINKED,
        libraries=["pthread"],
    )
    return ffi


def builder_of_kvm() -> FFI:
    """The bindings of /dev/kvm, one header a topic, in an order their types need."""
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
