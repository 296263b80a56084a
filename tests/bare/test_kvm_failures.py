# SPDX-License-Identifier: Apache-2.0
"""Failures on a real KVM: what is raised, and that nothing stays open or mapped."""

from __future__ import annotations

import errno
import gc
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm import kvm
from pyvmm.errors import StateError
from tests.support.kvm_guest import HLT, SIZE, Guest, address_of

NOBODY = 65534


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def mapped_vcpus() -> int:
    return Path("/proc/self/maps").read_text().count("kvm-vcpu")


@pytest.fixture(autouse=True)
def nothing_stays_open() -> Iterator[None]:
    gc.collect()
    before = open_descriptors(), mapped_vcpus()
    yield
    gc.collect()
    assert (open_descriptors(), mapped_vcpus()) == before


def test_no_such_node() -> None:
    with pytest.raises(kvm.KvmUnavailable, match=r"/nonexistent/kvm.*modprobe") as caught:
        kvm.Kvm("/nonexistent/kvm")
    assert caught.value.errno == errno.ENOENT


def test_not_a_kvm_node(tmp_path: Path) -> None:
    with pytest.raises(kvm.KvmUnavailable, match="not a KVM device"):
        kvm.Kvm("/dev/null")
    file = tmp_path / "kvm"
    file.touch()
    with pytest.raises(kvm.KvmUnavailable, match="not a KVM device"):
        kvm.Kvm(str(file))


def test_forbidden_node(tmp_path: Path) -> None:
    node = tmp_path / "kvm"
    node.touch()
    node.chmod(0)
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        with pytest.raises(kvm.KvmPermission, match="usermod -aG kvm") as caught:
            kvm.Kvm(str(node))
    finally:
        if root:
            os.seteuid(0)
    assert isinstance(caught.value, PermissionError)
    assert caught.value.errno == errno.EACCES


def test_another_api_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kvm.Kvm, "api_version", 11)
    with pytest.raises(kvm.KvmUnavailable, match=r"speaks version 11"):
        kvm.Kvm()


def test_unknown_machine_type() -> None:
    with kvm.Kvm() as host, pytest.raises(kvm.KvmError, match="0 is the default"):
        host.create_vm(1 << 20)


def test_all_is_closed_in_any_order() -> None:
    host = kvm.Kvm()
    vm = host.create_vm()
    vcpu = vm.create_vcpu(0)
    host.close()
    vm.close()
    assert vcpu.get_regs().rip == 0xFFF0  # a vCPU keeps its machine
    vcpu.close()
    vcpu.close()
    assert vcpu.closed
    assert vm.closed
    assert host.closed


def test_closed_objects_say_so() -> None:
    host = kvm.Kvm()
    vm = host.create_vm()
    vcpu = vm.create_vcpu(0)
    for each in (vcpu, vm, host):
        each.close()
    for call in (
        vcpu.enter,
        vcpu.get_regs,
        lambda: vcpu.run,
        lambda: vcpu.run_address,
        vcpu.io_data,
        lambda: vm.create_vcpu(1),
        lambda: vm.set_memory_region(0, 0, 4096, 0),
        lambda: host.check_extension(0),
        host.create_vm,
    ):
        with pytest.raises(StateError, match="closed"):
            call()


def test_collected_without_close() -> None:
    kvm.Kvm().create_vm().create_vcpu(0)


def test_shared_area_outlives_its_vcpu_while_held() -> None:
    vm = kvm.Kvm().create_vm()
    assert vm.create_vcpu(0).run.exit_reason == 0
    vcpu = vm.create_vcpu(1)
    run = vcpu.run
    vcpu.close()
    assert run.exit_reason == 0
    assert mapped_vcpus() > 0


def test_failed_mapping_leaves_nothing_open() -> None:
    with kvm.Kvm() as host, host.create_vm() as vm:
        before = open_descriptors()
        vm._run_size = 0
        with pytest.raises(kvm.KvmError, match="mmap failed: EINVAL"):
            vm.create_vcpu(0)
        gc.collect()
        assert open_descriptors() == before


def test_failed_ring_leaves_nothing_open() -> None:
    with kvm.Kvm() as host, host.create_vm() as vm:
        before = open_descriptors(), mapped_vcpus()
        vm.dirty_ring_size = -1  # no mapping has such a size
        with pytest.raises((kvm.KvmError, OverflowError)):
            vm.create_vcpu(0)
        gc.collect()
        assert (open_descriptors(), mapped_vcpus()) == before


def test_too_many_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with kvm.Kvm() as host, host.create_vm() as vm:
        lowest_free = os.dup(host.fd)
        os.close(lowest_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
        try:
            for call in (kvm.Kvm, host.create_vm, lambda: vm.create_vcpu(0)):
                with pytest.raises(kvm.KvmError, match="ulimit -n") as caught:
                    call()
                assert caught.value.errno == errno.EMFILE
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_bad_memory_regions() -> None:
    with Guest(HLT) as guest:
        hva = address_of(guest.memory)
        with pytest.raises(kvm.KvmError, match="overlaps another slot"):
            guest.vm.set_memory_region(1, 0x1000, 0x1000, hva)
        for slot, gpa, size in (
            (1, SIZE + 1, 0x1000),
            (1, SIZE, 100),
            (60000, SIZE, 0x1000),
            (0, 0, SIZE * 2),
        ):
            with pytest.raises(kvm.KvmError, match=f"slot {slot}, .*whole pages"):
                guest.vm.set_memory_region(slot, gpa, size, hva)
        with pytest.raises(kvm.KvmError, match="only an existing one can be deleted"):
            guest.vm.delete_memory_region(7)


def test_wrong_structures_are_refused_before_the_kernel() -> None:
    with Guest(HLT) as guest:
        with pytest.raises(TypeError):
            guest.vcpu.set_regs(guest.vcpu.get_sregs())
        with pytest.raises(TypeError):
            guest.vcpu.set_sregs(0)
        with pytest.raises(OverflowError):
            guest.vm.irq_line(-1, 1)
        with pytest.raises(IndexError):
            guest.vm.enable_cap(kvm.KVM_CAP_SPLIT_IRQCHIP, 1, 2, 3, 4, 5)


def test_many_machines_leave_nothing() -> None:
    for _ in range(20):
        with Guest(HLT) as guest:
            assert guest.run() == kvm.KVM_EXIT_HLT
