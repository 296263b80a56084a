# SPDX-License-Identifier: Apache-2.0
"""What a failure of /dev/kvm becomes: type, errno, message."""

from __future__ import annotations

import errno
import pickle
from pathlib import Path

import pytest

from pyvmm import kvm
from pyvmm.errors import HostError
from pyvmm.kvm.remedies import GENERAL, REMEDIES


@pytest.mark.parametrize(
    ("ioctl", "number", "kind"),
    [
        ("open", errno.ENOENT, kvm.KvmUnavailable),
        ("open", errno.ENODEV, kvm.KvmUnavailable),
        ("open", errno.ENXIO, kvm.KvmUnavailable),
        ("open", errno.ENOTDIR, kvm.KvmUnavailable),
        ("open", errno.EACCES, kvm.KvmPermission),
        ("open", errno.EPERM, kvm.KvmPermission),
        ("open", errno.EMFILE, kvm.KvmError),
        ("KVM_GET_API_VERSION", errno.ENOTTY, kvm.KvmUnavailable),
        ("KVM_CREATE_VM", errno.EBUSY, kvm.KvmBusy),
        ("KVM_CREATE_VM", errno.ENOMEM, kvm.KvmError),
        ("KVM_SET_BOOT_CPU_ID", errno.EBUSY, kvm.KvmError),
        ("KVM_RUN", errno.EFAULT, kvm.KvmError),
    ],
)
def test_type_and_errno(ioctl: str, number: int, kind: type[kvm.KvmError]) -> None:
    error = kvm.error_of(ioctl, number)
    assert type(error) is kind
    assert isinstance(error, HostError)
    assert isinstance(error, OSError)
    assert error.errno == number
    assert error.ioctl == ioctl


def test_permission_is_a_permission_error() -> None:
    assert isinstance(kvm.error_of("open", errno.EACCES), PermissionError)


def test_message_names_request_errno_detail_and_remedy() -> None:
    text = str(kvm.error_of("KVM_CREATE_VCPU", errno.EEXIST, "vCPU 3"))
    assert text.startswith("KVM_CREATE_VCPU failed: EEXIST (")
    assert "vCPU 3" in text
    assert "its own id" in text


def test_general_remedy_where_there_is_no_special_one() -> None:
    assert "does not know the request" in str(kvm.error_of("KVM_GET_REGS", errno.ENOTTY))
    assert str(kvm.error_of("KVM_GET_REGS", errno.EPERM)).endswith(")")


def test_words_of_the_three_classic_failures() -> None:
    assert "modprobe" in str(kvm.error_of("open", errno.ENOENT))
    assert "nested" in str(kvm.error_of("open", errno.ENOENT))
    assert "usermod -aG kvm" in str(kvm.error_of("open", errno.EACCES))
    assert "VirtualBox" in str(kvm.error_of("KVM_CREATE_VM", errno.EBUSY))


def test_every_remedy_is_a_sentence() -> None:
    texts = [text for by_errno in REMEDIES.values() for text in by_errno.values()]
    for text in [*texts, *GENERAL.values()]:
        assert text[0].isupper()
        assert text.endswith(".")


def test_remedies_are_for_requests_that_exist() -> None:
    source = "".join(path.read_text() for path in Path(kvm.__file__).parent.glob("*.py"))
    for ioctl in REMEDIES:
        assert source.count(f'"{ioctl}"') >= 2, f"{ioctl} is never made"


def test_unknown_errno_is_shown_as_a_number() -> None:
    assert "9999" in str(kvm.error_of("KVM_RUN", 9999))


def test_missing_capability_names_it_and_its_purpose() -> None:
    error = kvm.KvmCapabilityMissing("KVM_CAP_SREGS2", "reading PDPTRs")
    assert error.errno == errno.EOPNOTSUPP
    assert error.capability == "KVM_CAP_SREGS2"
    assert "KVM_CAP_SREGS2, needed for reading PDPTRs" in str(error)
    assert "needed" not in str(kvm.KvmCapabilityMissing("KVM_CAP_SREGS2"))


def test_refused_msr_names_it() -> None:
    error = kvm.KvmMsrRefused("KVM_SET_MSRS", 0x534, 2)
    assert (error.index, error.done) == (0x534, 2)
    assert "MSR 0x534 was refused, the 2 before it" in str(error)


@pytest.mark.parametrize(
    "error",
    [
        kvm.error_of("KVM_RUN", errno.EFAULT, "vCPU 1"),
        kvm.error_of("open", errno.EACCES, "/dev/kvm"),
        kvm.KvmCapabilityMissing("KVM_CAP_XCRS", "XCR0"),
        kvm.KvmMsrRefused("KVM_GET_MSRS", 0x10, 0),
    ],
)
def test_survives_pickling(error: kvm.KvmError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert again.errno == error.errno
