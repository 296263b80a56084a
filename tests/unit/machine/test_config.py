# SPDX-License-Identifier: Apache-2.0
"""A VM as data: its records, as JSON and back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm import config
from pyvmm.config import BootConfig, CpuState, DiskConfig, MachineConfig, SwapConfig, VMConfig
from pyvmm.errors import ConfigError

TYPES: dict[str, st.SearchStrategy[Any]] = {
    "int": st.integers(-(1 << 63), 1 << 63),
    "float": st.floats(allow_nan=False, allow_infinity=False),
    "str": st.text(),
    "bool": st.booleans(),
    "bytes": st.binary(max_size=40),
    "None": st.none(),
}


def values(kind: str) -> st.SearchStrategy[Any]:
    """Values that fit a field's annotation."""
    if kind.startswith("tuple[") and kind.endswith("]"):
        inner = kind[6:-1].split(", ")
        if inner[-1] == "...":
            return st.lists(values(inner[0]), max_size=4).map(tuple)
        return st.tuples(*map(values, inner))
    if " | " in kind:
        return st.one_of(*map(values, kind.split(" | ")))
    if kind == "DeviceConfig":
        return st.one_of(*map(records, config.KINDS.values()))
    named = {"MachineConfig": MachineConfig, "BootConfig": BootConfig, "CpuState": CpuState}
    return records(named[kind]) if kind in named else TYPES[kind]


def records(record: Any) -> st.SearchStrategy[Any]:
    """Any record of a class."""
    return st.builds(
        record, **{name: values(record.__annotations__[name]) for name in record._fields}
    )


@given(records(VMConfig))
def test_json_and_back(vm: VMConfig) -> None:
    again = config.from_json(config.to_json(vm))
    assert again == vm
    assert [type(device) for device in again.devices] == [type(device) for device in vm.devices]


def test_every_kind_of_device_has_a_word_of_its_own() -> None:
    for kind, record in config.KINDS.items():
        device = record(**dict.fromkeys(record._fields))
        assert config.kind_of(device) == kind
        assert config.to_plain(device)["kind"] == kind


def test_a_record_cannot_be_changed() -> None:
    machine = MachineConfig(1 << 20)
    with pytest.raises(AttributeError):
        machine.cpus = 2  # type: ignore[misc]


PLAIN = config.to_plain(
    VMConfig(
        MachineConfig(1 << 20),
        BootConfig("vmlinux", ("initrd", b"more"), state=CpuState("real", 0)),
        (DiskConfig("disk"), SwapConfig(1 << 21)),
    )
)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ((), [], "the VM: [] is no object"),
        (("machine",), None, "machine: None is no object"),
        (("machine", "memory"), "256M", "machine.memory: '256M' is not a whole number"),
        (("machine", "cpus"), True, "machine.cpus: True is not a whole number"),
        (("machine", "symbiotic"), 1, "machine.symbiotic: 1 is not true or false or null"),
        (("machine", "symcall_deadline"), "2", "machine.symcall_deadline: '2' is not a finite"),
        (("machine", "colour"), 1, "machine: no field is named 'colour'; there are: memory,"),
        (("boot", "kernel"), 7, "boot.kernel: 7 is not text or null"),
        (("boot", "initrd"), "a", "boot.initrd: 'a' is no list"),
        (("boot", "initrd", 0), 1, "boot.initrd[0]: 1 is not text or"),
        (("boot", "initrd", 1), {"base64": "!"}, "boot.initrd[1].base64: "),
        (("boot", "initrd", 1), {"hex": ""}, "boot.initrd[1]: {'hex': ''} is not"),
        (("boot", "state", "rip"), "0", "boot.state.rip: '0' is not a whole number"),
        (("boot", "state", "rip"), ..., "boot.state: the field rip is missing"),
        (("devices",), {}, "devices: {} is no list"),
        (("devices", 0), "disk", "devices[0]: 'disk' is no object"),
        (("devices", 0, "kind"), "floppy", "devices[0].kind: 'floppy' is none of serial,"),
        (("devices", 0, "file"), None, "devices[0].file: None is not text or a whole number"),
        (("devices", 1, "size"), ..., "devices[1]: the field size is missing"),
    ],
)
def test_what_is_wrong_is_named(path: tuple[Any, ...], value: Any, said: str) -> None:
    data = json.loads(json.dumps(PLAIN))
    at, last = {"": data}, ""
    for step in path:
        at, last = at[last], step
    if value is ...:
        del at[last]
    else:
        at[last] = value
    with pytest.raises(ConfigError) as caught:
        config.from_plain(at[""] if path == () else data)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize("text", ["", "{", b"\xff\xff", "[" * 100_000])
def test_no_json_is_no_record(text: str | bytes) -> None:
    with pytest.raises(ConfigError, match=r"no JSON|too deeply"):
        config.from_json(text)


@pytest.mark.parametrize("text", [None, 7, PLAIN, VMConfig(MachineConfig(1 << 20))])
def test_what_is_no_text_is_no_record(text: Any) -> None:
    with pytest.raises(ConfigError, match="is text with JSON, and not "):
        config.from_json(text)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_number_without_a_value_is_none(number: str) -> None:
    text = json.dumps(PLAIN).replace('"symcall_deadline": 2.0', f'"symcall_deadline": {number}')
    with pytest.raises(ConfigError, match=r"machine\.symcall_deadline: .* is not a finite number"):
        config.from_json(text)
    broken = VMConfig(MachineConfig(1 << 20, symcall_deadline=float(number)))
    with pytest.raises(ConfigError, match="cannot be written as JSON"):
        config.to_json(broken)


NAMES = st.sampled_from(["machine", "boot", "devices", "kind", "memory"])
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(NAMES | st.text(), inner),
)


@given(ANYTHING)
def test_anything_else_is_refused_by_name(data: Any) -> None:
    try:
        config.from_plain(data)
    except ConfigError:
        return
    assert isinstance(data["machine"]["memory"], int)
