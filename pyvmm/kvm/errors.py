# SPDX-License-Identifier: Apache-2.0
"""Refusals of KVM, as exceptions with a remedy.

Every failure of /dev/kvm becomes one of these by `error_of`, which names the ioctl, the errno and
the remedy. All are `OSError`s with `errno` set.
"""

from __future__ import annotations

import errno as _errno
from os import strerror

from pyvmm.errors import HostError


class KvmError(HostError):
    """An ioctl on a KVM descriptor failed.

    `ioctl`, `errno`, `detail` and `remedy` say which, how and what next.
    """

    def __init__(self, ioctl: str, errno: int, remedy: str = "", detail: str = "") -> None:
        super().__init__(errno, strerror(errno))
        self.ioctl = ioctl
        self.remedy = remedy
        self.detail = detail

    def __str__(self) -> str:
        name = _errno.errorcode.get(self.errno or 0, str(self.errno))
        text = f"{self.ioctl} failed: {name} ({self.strerror})"
        if self.detail:
            text += f": {self.detail}"
        return f"{text}. {self.remedy}" if self.remedy else text

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.ioctl, self.errno, self.remedy, self.detail)


class KvmUnavailable(KvmError):
    """There is no usable KVM device node."""


class KvmPermission(KvmError, PermissionError):
    """The device node exists and this process may not open it."""


class KvmBusy(KvmError):
    """Another hypervisor holds the processor's virtualisation."""


class KvmMsrRefused(KvmError):
    """KVM stopped at one MSR of a list; `index` is that MSR, `done` how many before it went
    through.
    """

    def __init__(self, ioctl: str, index: int, done: int) -> None:
        super().__init__(
            ioctl,
            _errno.EINVAL,
            "Leave it out, give it a value KVM accepts, or ask Kvm.msr_index_list() which MSRs exist.",
            f"MSR {index:#x} was refused, the {done} before it went through",
        )
        self.index = index
        self.done = done

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.ioctl, self.index, self.done)


class KvmCapabilityMissing(KvmError):
    """This host's KVM lacks a capability; `capability` is its name, `purpose` what it was wanted
    for.
    """

    def __init__(self, capability: str, purpose: str = "") -> None:
        super().__init__(
            "KVM_CHECK_EXTENSION",
            _errno.EOPNOTSUPP,
            "A newer kernel or another KVM back end may have it; do without, or run where it exists.",
            f"this KVM does not offer {capability}"
            + (f", needed for {purpose}" if purpose else ""),
        )
        self.capability = capability
        self.purpose = purpose

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.capability, self.purpose)


def error_of(ioctl: str, errno: int, detail: str = "") -> KvmError:
    """Return the exception for a failed request.

    `ioctl` is its name, or "open" for opening the device node.
    """
    if errno in (_errno.EMFILE, _errno.ENFILE):
        # The remedies are in a file, and none can be opened.
        return KvmError(ioctl, errno, "Raise the limit of open files (ulimit -n).", detail)
    from pyvmm.kvm import remedies

    if ioctl == "open":
        if errno in (_errno.EACCES, _errno.EPERM):
            return KvmPermission(ioctl, errno, remedies.FORBIDDEN, detail)
        if errno in (_errno.ENOENT, _errno.ENODEV, _errno.ENXIO, _errno.ENOTDIR):
            return KvmUnavailable(ioctl, errno, remedies.ABSENT, detail)
    if ioctl == "KVM_GET_API_VERSION" and errno in (_errno.ENOTTY, _errno.EINVAL, _errno.ENODEV):
        return KvmUnavailable(ioctl, errno, f"This is not a KVM device. {remedies.ABSENT}", detail)
    if ioctl == "KVM_CREATE_VM" and errno == _errno.EBUSY:
        return KvmBusy(ioctl, errno, remedies.HELD, detail)
    remedy = remedies.REMEDIES.get(ioctl, {}).get(errno) or remedies.GENERAL.get(errno, "")
    return KvmError(ioctl, errno, remedy, detail)
