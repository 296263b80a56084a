# SPDX-License-Identifier: Apache-2.0
"""A VM that is made from the record of another."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pyvmm import VM, CpuState, config
from pyvmm.config import (
    BootConfig,
    ConsoleConfig,
    DiskConfig,
    KvmUnitTestsConfig,
    MachineConfig,
    RngConfig,
    SerialConfig,
    SwapConfig,
    VMConfig,
)
from pyvmm.devices.virtio_blk import VirtioBlk
from pyvmm.errors import ConfigError, StateError
from tests.support import bare

MIB = 1 << 20
STATE = CpuState("protected", rip=bare.CODE, rsp=bare.STACK)


def full(disk: Path) -> VM:
    """One of every device that needs nothing of the host."""
    vm = VM("4M", 2, shared=True, symcall_deadline=1.5, cmdline="a b", flat="real")
    vm.load_state(STATE)
    vm.end_at_status()
    vm.add_console(size=(80, 25))
    vm.add_disk(disk, readonly=True, serial="one")
    vm.add(KvmUnitTestsConfig())
    vm.add_rng()
    vm.add_swap("2M", policy="quota" if vm.machine.symbiosis else "pressure", quota="1M")
    vm.add_serial()
    return vm


def test_the_record_of_another(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(4096))
    with full(disk) as vm:
        record = vm.config
        where = [
            (device.base, device.gsi) for device in vm.machine.devices if hasattr(device, "base")
        ]
        policy = "quota" if vm.machine.symbiosis else "pressure"
    assert record == VMConfig(
        MachineConfig(4 * MIB, 2, shared=True, symcall_deadline=1.5, end_at_status=True),
        BootConfig(cmdline="a b", flat="real", state=STATE),
        (
            ConsoleConfig(size=(80, 25)),
            DiskConfig(str(disk), readonly=True, serial="one"),
            KvmUnitTestsConfig(),
            RngConfig(),
            SwapConfig(2 * MIB, policy=policy, quota=MIB),
            SerialConfig(),
        ),
    )
    with VM.of(config.from_json(config.to_json(record))) as again:
        assert again.config == record
        assert [type(device) for device in again.config.devices] == [
            type(device) for device in record.devices
        ]
        assert where == [
            (device.base, device.gsi) for device in again.machine.devices if hasattr(device, "base")
        ]


def test_it_runs() -> None:
    code = bare.assemble("mov al, 7\nout 0xf4, al\n1: jmp 1b")
    with VM("2M") as vm:
        vm.load_state(STATE)
        vm.end_at_status()
        record = vm.config
    with VM.of(record) as again:
        again.memory.write(bare.CODE, code)
        result = again.run(60)
    assert (result.reason, result.status) == ("poweroff", 7)
    assert record.devices == ()
    assert again.config.devices == (SerialConfig(),), "which a start adds"


def test_every_argument_is_in_the_record() -> None:
    """A field that the constructor does not take, or the reverse, would be lost on the way."""
    import inspect

    taken = set(inspect.signature(VM).parameters)
    boot = set(BootConfig._fields) - {"state"}  # load_state()
    assert taken == set(MachineConfig._fields) - {"end_at_status"} | boot


def test_what_the_swap_disk_is_now_is_in_its_record() -> None:
    with VM("2M") as vm:
        swap = vm.add_swap("2M")
        if vm.machine.symbiosis is None:
            pytest.skip("a swap disk's mode needs a symbiotic machine")
        swap.mode, swap.policy = "direct", "never"
        assert vm.config.devices == (SwapConfig(2 * MIB, "direct", policy="never"),)
        swap.policy = lambda fault: True
        record = vm.config
    assert record.devices == (SwapConfig(2 * MIB, "direct", policy="function"),)
    with pytest.raises(ConfigError, match="function"):
        VM.of(record)


def test_a_disk_over_a_descriptor_is_one_of_this_process(tmp_path: Path) -> None:
    with (tmp_path / "disk").open("w+b") as file:
        file.truncate(4096)
        with VM("2M") as vm:
            vm.add_disk(file.fileno())
            record = vm.config
        with VM.of(record) as again:
            assert again.config.devices == (DiskConfig(file.fileno()),)


def test_a_disk_over_memory_has_no_record() -> None:
    with VM("2M") as vm:
        VirtioBlk(vm.machine, memoryview(bytearray(4096)))
        with pytest.raises(ConfigError, match="no record"):
            vm.config  # noqa: B018


def test_one_that_cannot_be_made_leaves_nothing(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    record = VMConfig(MachineConfig(2 * MIB), devices=(RngConfig(), DiskConfig(str(tmp_path))))
    with pytest.raises(Exception, match="directory"):
        VM.of(record)
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_a_device_comes_before_the_start() -> None:
    with VM("2M") as vm:
        vm.load_state(STATE)
        vm.load()
        for device in (RngConfig(), KvmUnitTestsConfig(), SwapConfig(2 * MIB), ConsoleConfig()):
            with pytest.raises(StateError, match="before the start"):
                vm.add(device)


@pytest.mark.parametrize("thing", [None, {}, MachineConfig(MIB)])
def test_only_the_record_of_a_vm_makes_one(thing: object) -> None:
    with pytest.raises(ConfigError, match="is no record of a VM"):
        VM.of(thing)  # type: ignore[arg-type]
