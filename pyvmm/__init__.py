# SPDX-License-Identifier: Apache-2.0
"""pyvmm: a virtual machine monitor on Linux KVM, driven from Python.

`VM` is the public face. `pyvmm.kvm` is the bindings of /dev/kvm alone. Names are loaded when first used, so that
`import pyvmm.kvm` and the command line pay only for what they need.
"""

from __future__ import annotations

from pyvmm.errors import (
    ConfigError,
    Error,
    GuestDataError,
    GuestMemoryError,
    HostError,
    ImageError,
    LimitError,
    StateError,
    SymcallError,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm.config import CpuState
    from pyvmm.machine.hooks import Exit, GuestFault, Hypercall
    from pyvmm.machine.result import Result
    from pyvmm.vm import VM

__version__ = "0.1.0"

_LAZY = {
    "VM": "pyvmm.vm",
    "CpuState": "pyvmm.config",
    "Exit": "pyvmm.machine.hooks",
    "GuestFault": "pyvmm.machine.hooks",
    "Hypercall": "pyvmm.machine.hooks",
    "Result": "pyvmm.machine.result",
}

__all__ = [
    "VM",
    "ConfigError",
    "CpuState",
    "Error",
    "Exit",
    "GuestDataError",
    "GuestFault",
    "GuestMemoryError",
    "HostError",
    "Hypercall",
    "ImageError",
    "LimitError",
    "Result",
    "StateError",
    "SymcallError",
]


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module 'pyvmm' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(module), name)
