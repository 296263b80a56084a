# SPDX-License-Identifier: Apache-2.0
"""The system descriptor: /dev/kvm itself."""

from __future__ import annotations

import os
from errno import E2BIG, EINTR

from pyvmm.kvm._kvm import ffi, lib
from pyvmm.kvm.cpuid import read_cpuid
from pyvmm.kvm.descriptor import Descriptor, checked
from pyvmm.kvm.errors import KvmUnavailable, error_of
from pyvmm.kvm.msr import read_msrs
from pyvmm.kvm.vm import Vm

TYPE_CHECKING = False  # what type checkers take for true; spares an import of typing
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

# A signal can cut KVM_CREATE_VM short while it waits for the other CPUs; more than this is something else.
CREATE_ATTEMPTS = 100


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise error_of("open", error.errno or 0, path) from None


class Kvm(Descriptor):
    """The KVM of this host. Everything else starts from here.

    Raises KvmUnavailable when there is no such device, KvmPermission when it may not be opened.
    api.rst, "System ioctls".
    """

    def __init__(self, path: str = "/dev/kvm") -> None:
        super().__init__(_open(path))
        self.path = path
        try:
            version = self.api_version
            if version != lib.KVM_API_VERSION:
                raise KvmUnavailable(
                    "KVM_GET_API_VERSION",
                    0,
                    f"Only version {lib.KVM_API_VERSION}, stable since Linux 2.6.22, is usable.",
                    f"{path} speaks version {version}",
                )
        except BaseException:
            self.close()
            raise

    @property
    def api_version(self) -> int:
        """KVM_GET_API_VERSION: 12 on every kernel since 2.6.22."""
        return checked(lib.kvm_get_api_version(self.fd), "KVM_GET_API_VERSION", self.path)

    @property
    def vcpu_mmap_size(self) -> int:
        """Bytes of a vCPU's shared area: struct kvm_run and what follows it."""
        return checked(lib.kvm_get_vcpu_mmap_size(self.fd), "KVM_GET_VCPU_MMAP_SIZE")

    def supported_cpuid(self) -> Any:
        """Return a `struct kvm_cpuid2 *` of what this host can show a guest
        (KVM_GET_SUPPORTED_CPUID).
        """
        return read_cpuid(self.fd, lib.kvm_get_supported_cpuid, "KVM_GET_SUPPORTED_CPUID")

    def emulated_cpuid(self) -> Any:
        """Return a `struct kvm_cpuid2 *` of features that KVM emulates although the processor lacks
        them (KVM_GET_EMULATED_CPUID).
        """
        return read_cpuid(self.fd, lib.kvm_get_emulated_cpuid, "KVM_GET_EMULATED_CPUID")

    def msr_index_list(self) -> list[int]:
        """Return the MSRs that make up a guest's state on this host (KVM_GET_MSR_INDEX_LIST)."""
        return self._msr_list(lib.kvm_get_msr_index_list, "KVM_GET_MSR_INDEX_LIST")

    def msr_feature_list(self) -> list[int]:
        """Return the MSRs that describe what this host can offer (KVM_GET_MSR_FEATURE_INDEX_LIST)."""
        return self._msr_list(lib.kvm_get_msr_feature_index_list, "KVM_GET_MSR_FEATURE_INDEX_LIST")

    def _msr_list(self, get: Callable[[int, Any], int], ioctl: str) -> list[int]:
        count = 0
        while True:
            table = ffi.new("struct kvm_msr_list *", {"indices": count})
            table.nmsrs = count
            result = get(self.fd, table)
            if result != -E2BIG:
                checked(result, ioctl)
                return [table.indices[i] for i in range(table.nmsrs)]
            count = table.nmsrs

    def get_feature_msrs(self, indices: Iterable[int]) -> dict[int, int]:
        """Return the values of feature MSRs, by index (KVM_GET_MSRS of the system).

        Raise KvmMsrRefused, naming the first that this host lacks.
        """
        return read_msrs(self.fd, indices)

    def create_vm(self, type: int = 0, kind: Callable[[int, int], Vm] = Vm) -> Vm:
        """Return a new, empty VM (KVM_CREATE_VM); `kind` is a class of the caller's for it.

        Raise KvmBusy when another hypervisor holds the processor.
        """
        run_size = self.vcpu_mmap_size
        for _ in range(CREATE_ATTEMPTS):
            fd = lib.kvm_create_vm(self.fd, type)
            if fd != -EINTR:
                break
        return kind(checked(fd, "KVM_CREATE_VM"), run_size)
