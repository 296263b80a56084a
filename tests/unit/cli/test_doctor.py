# SPDX-License-Identifier: Apache-2.0
"""`pyvmm doctor`: its verdict, and how it is printed."""

from __future__ import annotations

import json

import pytest

from pyvmm import probe
from pyvmm.cli import doctor
from pyvmm.cli.main import main
from pyvmm.launch import status
from tests.support.findings import finding


@pytest.mark.parametrize(
    ("found", "code", "words"),
    [
        (finding(), 0, "Linux boots here, on kvm_amd"),
        (finding(instructions_per_second=1.4e6), 1, "at 1.4 million instructions a second"),
        (finding(capabilities={}), 1, "this KVM lacks KVM_CAP_USER_MEMORY"),
        (finding(error="no such device"), status.HOST, "KVM cannot be used here: no such device"),
    ],
)
@pytest.mark.parametrize("as_json", [True, False])
def test_doctor(
    found: probe.Probe,
    code: int,
    words: str,
    as_json: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(probe, "probe", lambda path: found)
    assert main(["doctor", *(["--json"] if as_json else [])]) == code
    text = capsys.readouterr().out
    assert words in (json.loads(text)["verdict"] if as_json else text.splitlines()[-1])


def test_doctor_marks_what_is_missing() -> None:
    text = "\n".join(doctor.lines(finding(capabilities={"KVM_CAP_IRQCHIP": 1})))
    assert "irqchip                      yes " in text
    assert "irqfd                        NO " in text
    assert "sync_regs                    no " in text
    assert "12.3 us" in text


def test_a_device_that_is_no_kvm() -> None:
    found = probe.probe("/dev/null")
    assert not found.usable
    assert "/dev/null" in found.verdict


def test_json_of_doctor_has_every_field() -> None:
    record = doctor.as_dict(finding())
    assert set(record) == {
        *probe.Probe._fields,
        *("usable", "missing", "software", "boots_linux", "verdict"),
    }
    json.dumps(record)
