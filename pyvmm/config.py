# SPDX-License-Identifier: Apache-2.0
"""A virtual machine as data: frozen records of the machine, its boot and each device.

A record is plain data. `to_json` and `from_json` are each other's inverse, and `from_json` checks
the type of each field. Whether a value can be had, such as a size of memory or a file, is checked
where it is used.

A record says nothing of what belongs to this process: where a console's bytes go, and hooks.
"""

from __future__ import annotations

from pyvmm.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, NamedTuple
else:
    from pyvmm.record import NamedTuple

#: Selectors of the GDT that a kernel starts with (boot.rst: __BOOT_CS and __BOOT_DS).
BOOT_CS = 0x10
BOOT_DS = 0x18
#: Seconds a symcall may take, where nobody says.
SYMCALL_DEADLINE = 2.0
#: The first serial port: its I/O ports begin here, and its interrupt line.
COM1, COM1_LINE = 0x3F8, 4
#: For a policy that is a function of the program.
FUNCTION = "function"
#: The serial number of a swap disk, where nobody says; the init of the project's guests looks for it.
SWAP_SERIAL = "pyvmm-swap"


class CpuState(NamedTuple):
    """The state of a vCPU before its first instruction; what is not named here is as after INIT.

    ``mode`` is one of

    * ``"long"``: 64-bit mode, paging on with ``cr3``; CS is `BOOT_CS`, the data segments `BOOT_DS`;
    * ``"protected"``: 32-bit flat segments, paging off; the same selectors;
    * ``"real"``: every segment has base and selector 0, so IP is ``rip``.

    Interrupts are off in all three. ``gdt_base`` and ``gdt_limit`` (bytes - 1) describe a GDT that
    already lies in guest memory and holds the two selectors; both are 0 in real mode. Addresses are
    guest-physical.
    """

    mode: str
    rip: int
    rsp: int = 0
    rsi: int = 0
    rbx: int = 0
    rdi: int = 0
    rax: int = 0
    cr3: int = 0
    gdt_base: int = 0
    gdt_limit: int = 0


class MachineConfig(NamedTuple):
    """A machine without devices.

    `memory` is in bytes; `cpus` counts vCPUs. `shared` puts RAM into a memfd, `hugepages` ("2M" or
    "1G") into one from the hugetlb pool. `irqchip` gives it interrupt controllers. `nested` shows
    VMX or SVM to the guest. `symbiotic` shows the interface for symcalls, None where KVM can; a
    symcall may take `symcall_deadline` seconds. `end_at_status` has the guest's report of its
    status, at port 0xf4, end the run. `kvm_path` names the KVM device of the host.
    """

    memory: int
    cpus: int = 1
    shared: bool = False
    hugepages: str | None = None
    irqchip: bool = True
    nested: bool = False
    symbiotic: bool | None = None
    symcall_deadline: float = SYMCALL_DEADLINE
    end_at_status: bool = False
    kvm_path: str = "/dev/kvm"


class BootConfig(NamedTuple):
    """The start of the first vCPU: a kernel, or registers.

    `kernel` names a file, `initrd` its parts: names of files, or bytes. `cmdline` is the kernel's
    command line, `flat` the start mode of a flat binary: "real", "protected" or "long". `state`
    takes the place of a kernel: the registers themselves, over memory that the caller has written.
    """

    kernel: str | None = None
    initrd: tuple[str | bytes, ...] = ()
    cmdline: str = ""
    flat: str | None = None
    state: CpuState | None = None


class SerialConfig(NamedTuple):
    """A 16550A UART at I/O port `port` with interrupt line `gsi`."""

    port: int = COM1
    gsi: int = COM1_LINE


class ConsoleConfig(NamedTuple):
    """A virtio console.

    `framed`: its input is framed (csrc/host/framing.h), which the guest has to know.

    `size` is (columns, rows), None for that of the terminal it is connected to.
    """

    framed: bool = False
    size: tuple[int, int] | None = None


class DiskConfig(NamedTuple):
    """A virtio disk over `file`: a path, or the number of a descriptor that the process has open.

    `serial` is its serial number, at most 20 ASCII characters. `format` is "raw", or None where the
    file must not begin as an image of another format does.
    """

    file: str | int
    readonly: bool = False
    serial: str = ""
    format: str | None = None


class NetConfig(NamedTuple):
    """A virtio network card on the tap of that name.

    `mac` is text such as "02:00:00:12:34:56", None for a random address.
    """

    tap: str
    mac: str | None = None


class RngConfig(NamedTuple):
    """A virtio entropy source."""


class SwapConfig(NamedTuple):
    """A swap disk of `size` bytes, with what `VM.add_swap` takes; `quota` is in bytes.

    `policy` is a word. A policy that is a function of the program is "function", with which no VM
    can be made.
    """

    size: int
    bypass: str = "off"
    serial: str = SWAP_SERIAL
    backing: str | None = None
    policy: str = "pressure"
    quota: int | None = None


class KvmUnitTestsConfig(NamedTuple):
    """The devices of kvm-unit-tests (`pyvmm.testdev`)."""


class VMConfig(NamedTuple):
    """A VM.

    `devices` stand in the order in which they are added: virtio devices get their addresses and
    interrupt lines by it.
    """

    machine: MachineConfig
    boot: BootConfig = BootConfig()
    devices: tuple[DeviceConfig, ...] = ()


if TYPE_CHECKING:
    DeviceConfig = (
        SerialConfig
        | ConsoleConfig
        | DiskConfig
        | NetConfig
        | RngConfig
        | SwapConfig
        | KvmUnitTestsConfig
    )

#: How JSON, and `Device.kind`, call the record of each device.
KINDS: dict[str, Any] = {
    "serial": SerialConfig,
    "virtio-console": ConsoleConfig,
    "virtio-blk": DiskConfig,
    "virtio-net": NetConfig,
    "virtio-rng": RngConfig,
    "swap": SwapConfig,
    "testdev": KvmUnitTestsConfig,
}
_RECORDS: dict[str, Any] = {
    record.__name__: record for record in (MachineConfig, BootConfig, CpuState)
}
_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "bool": (bool,),
    "None": (type(None),),
}
_BYTES = "base64"
_WORDS = {
    "int": "a whole number",
    "float": "a finite number",
    "str": "text",
    "bool": "true or false",
    "None": "null",
    "bytes": f'{{"{_BYTES}": TEXT}}',
}


def kind_of(device: Any) -> str:
    """Return the word for the device that a record describes.

    Raise ConfigError for what is no such record.
    """
    for kind, record in KINDS.items():
        if isinstance(device, record):
            return kind
    raise ConfigError(f"{_said(device)} is no record of a device")


def to_plain(value: Any, *, raw: bool = False) -> Any:
    """Turn a record into what JSON can say: objects, lists, text, numbers.

    Bytes become ``{"base64": TEXT}``, unless `raw`, for what can say bytes. A device's object says
    its `kind` first.
    """
    if isinstance(value, bytes) and not raw:
        import binascii

        return {_BYTES: binascii.b2a_base64(value, newline=False).decode()}
    if isinstance(value, tuple):
        if not hasattr(value, "_asdict"):
            return [to_plain(part, raw=raw) for part in value]
        named = {name: to_plain(part, raw=raw) for name, part in value._asdict().items()}
        return {"kind": kind_of(value), **named} if type(value) in KINDS.values() else named
    return value


def from_plain(data: Any) -> VMConfig:
    """Make a record of what `to_plain` gave.

    Raise ConfigError, which names the field, for what is none.
    """
    config: VMConfig = _record(VMConfig, data, "the VM")
    return config


def to_json(config: VMConfig) -> str:
    """Write a VM as JSON. Raise ConfigError for a number that JSON cannot say: nan and inf."""
    import json

    try:
        return json.dumps(to_plain(config), indent=2, allow_nan=False)
    except ValueError as error:
        raise ConfigError(f"the record of a VM cannot be written as JSON: {error}") from error


def from_json(text: str | bytes) -> VMConfig:
    """Read a VM from JSON. Raise ConfigError, which names the field, for what is none."""
    import json

    if not isinstance(text, (str, bytes, bytearray)):
        raise ConfigError(f"the record of a VM is text with JSON, and not {_said(text)}")
    try:
        data = json.loads(text)
    except ValueError as error:  # UnicodeDecodeError as well
        raise ConfigError(f"the record of a VM is no JSON: {error}") from error
    except RecursionError as error:
        raise ConfigError("the record of a VM is nested too deeply") from error
    return from_plain(data)


def _record(record: Any, data: Any, where: str) -> Any:
    """Make a record of the fields in `data`."""
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: {_said(data)} is no object with fields")
    for name in data:
        if name not in record._fields:
            known = ", ".join(record._fields) or "none"
            raise ConfigError(f"{where}: no field is named {_said(name)}; there are: {known}")
    for name in record._fields:
        if name not in data and name not in record._field_defaults:
            raise ConfigError(f"{where}: the field {name} is missing")
    kinds: Mapping[str, str] = record.__annotations__
    return record(
        **{
            name: _value(kinds[name], value, name if record is VMConfig else f"{where}.{name}")
            for name, value in data.items()
        }
    )


def _value(kind: str, value: Any, where: str) -> Any:
    """Check a field's value against its annotation, and turn it into what the record holds."""
    if kind.startswith("tuple[") and kind.endswith("]"):
        return _items(kind[6:-1].split(", "), value, where)
    if " | " in kind:
        return _one_of(kind.split(" | "), value, where)
    if kind == "DeviceConfig":
        return _device(value, where)
    if kind in _RECORDS:
        return _record(_RECORDS[kind], value, where)
    if kind == "bytes":
        return _decoded(value, where)
    if not _is_plain(kind, value):
        raise ConfigError(f"{where}: {_said(value)} is not {_WORDS[kind]}")
    return value


def _is_plain(kind: str, value: Any) -> bool:
    """Return whether it is a value of that plain type. True, False, nan and inf are no numbers."""
    if kind not in _TYPES or not isinstance(value, _TYPES[kind]):
        return False
    if isinstance(value, bool):
        return kind == "bool"
    return not isinstance(value, float) or abs(value) < float("inf")


def _one_of(kinds: list[str], value: Any, where: str) -> Any:
    if isinstance(value, bytes) and "bytes" in kinds:
        return value
    for kind in kinds:
        if _is_plain(kind, value):
            return value
        structured = dict if kind in _RECORDS or kind == "bytes" else list
        if kind not in _TYPES and isinstance(value, structured):
            return _value(kind, value, where)
    words = " or ".join(_WORDS.get(kind, "an object or a list") for kind in kinds)
    raise ConfigError(f"{where}: {_said(value)} is not {words}")


def _items(kinds: list[str], value: Any, where: str) -> tuple[Any, ...]:
    """Check the items of a list: any number of one kind, or one of each."""
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{where}: {_said(value)} is no list")
    if kinds[-1] == "...":
        kinds = kinds[:1] * len(value)
    if len(value) != len(kinds):
        raise ConfigError(f"{where}: {_said(value)} has {len(value)} items, not {len(kinds)}")
    return tuple(
        _value(kind, part, f"{where}[{n}]")
        for n, (kind, part) in enumerate(zip(kinds, value, strict=True))
    )


def _device(value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: {_said(value)} is no object with fields")
    kind = value.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise ConfigError(f"{where}.kind: {_said(kind)} is none of {', '.join(KINDS)}")
    return _record(KINDS[kind], {k: v for k, v in value.items() if k != "kind"}, where)


def _decoded(value: Any, where: str) -> bytes:
    import binascii

    if not isinstance(value, dict) or set(value) != {_BYTES}:
        raise ConfigError(f"{where}: {_said(value)} is not {_WORDS['bytes']}")
    try:
        return binascii.a2b_base64(value[_BYTES], strict_mode=True)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}.{_BYTES}: {error}") from error


def _said(value: Any) -> str:
    """Quote a value, not all of a long one."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
