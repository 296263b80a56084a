# SPDX-License-Identifier: Apache-2.0
"""The owner of a descriptor, shown on a pipe: it needs no KVM."""

from __future__ import annotations

import gc
import os

import pytest

from pyvmm import kvm
from pyvmm.errors import StateError
from pyvmm.kvm.descriptor import Descriptor, capability_name


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


@pytest.fixture
def fd() -> int:
    read, write = os.pipe()
    os.close(write)
    return read


def test_close_twice(fd: int) -> None:
    owner = Descriptor(fd)
    assert owner.fd == owner.fileno() == fd
    owner.close()
    assert owner.closed
    assert not is_open(fd)
    owner.close()
    with pytest.raises(StateError, match="this Descriptor is closed"):
        owner.fd  # noqa: B018


def test_context_manager(fd: int) -> None:
    with Descriptor(fd) as owner:
        assert not owner.closed
    assert not is_open(fd)


def test_closed_on_an_exception(fd: int) -> None:
    with pytest.raises(KeyError), Descriptor(fd):
        raise KeyError
    assert not is_open(fd)


def test_collected(fd: int) -> None:
    Descriptor(fd)
    gc.collect()
    assert not is_open(fd)


def test_half_made_object_is_collected_quietly() -> None:
    Descriptor.__new__(Descriptor).__del__()


def test_finalizer_forgives_a_descriptor_closed_elsewhere(fd: int) -> None:
    owner = Descriptor(fd)
    os.close(fd)
    owner.__del__()
    assert owner.closed


def test_not_a_kvm_descriptor(fd: int) -> None:
    with Descriptor(fd) as owner, pytest.raises(kvm.KvmError, match=r"KVM_CHECK_EXTENSION.*ENOTTY"):
        owner.check_extension(kvm.KVM_CAP_IRQCHIP)


def test_capability_names() -> None:
    assert capability_name(kvm.KVM_CAP_SREGS2) == "KVM_CAP_SREGS2"
    assert capability_name(99999) == "KVM_CAP number 99999"
