# SPDX-License-Identifier: Apache-2.0
"""The options of `pyvmm run` that describe the VM are in its record; the others are about the run."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyvmm import config
from pyvmm.config import (
    ConsoleConfig,
    DiskConfig,
    KvmUnitTestsConfig,
    NetConfig,
    RngConfig,
    SerialConfig,
    SwapConfig,
)
from pyvmm.errors import ConfigError
from pyvmm.guest import cache
from pyvmm.launch.options import OPTIONS, attribute
from pyvmm.launch.plan import Plan
from tests.support.run_options import arguments

ABOUT_THE_RUN = {
    *("name", "detach", "no_fork", "log", "timeout", "json", "summary", "dry_run"),
}
KERNEL = ("-k", "k")
SWAP = ("--swap", "4M")
#: Of each option that describes the VM: what it needs, and the option.
DESCRIBE: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "kernel": ((), KERNEL),
    "initrd": (KERNEL, ("-i", "i")),
    "memory": ((), ("-m", "1G")),
    "cpus": (KERNEL, ("-c", "2")),
    "params": ((), ("-p", "word")),
    "disk": ((), ("-d", "d")),
    "swap": ((), SWAP),
    "swap_bypass": (SWAP, ("--swap-bypass", "direct")),
    "swap_policy": (SWAP, ("--swap-policy", "never")),
    "swap_quota": (SWAP, ("--swap-quota", "2M")),
    "swap_file": (SWAP, ("--swap-file", "f")),
    "net": ((), ("--net", "tap0")),
    "no_rng": ((), ("--no-rng",)),
    "console": ((), ("--console", "virtio")),
    "linux": ((), ("--linux", "6.1")),
    "modules": ((*KERNEL, "-p", "root=/dev/vda"), ("--modules", ".")),
    "env": ((), ("--env", "A=1")),
    "flat": (KERNEL, ("--flat", "real")),
    "debug_exit": ((), ("--debug-exit",)),
    "testdev": ((), ("--testdev",)),
    "shared": ((), ("--shared",)),
    "hugepages": ((), ("--hugepages", "2M")),
    "nested": ((), ("--nested",)),
    "no_symbiotic": ((), ("--no-symbiotic",)),
    "verbose": ((), ("--verbose",)),
    "kvm": ((), ("--kvm", "/dev/other")),
}


@pytest.fixture(autouse=True)
def guests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guests of any name, and modules of any kernel."""
    monkeypatch.setattr(
        "pyvmm.guest.named.find_guest",
        lambda name: cache.Guest(name, name, "i", "6.12.1", "key"),
    )
    monkeypatch.setattr("pyvmm.guest.cache.read_pointer", lambda name: "some")
    monkeypatch.setattr("pyvmm.launch.plan.Plan._check_cpus", lambda *args: None)
    monkeypatch.setattr("pyvmm.guest.modular.initramfs_with", lambda *args, **options: b"modules")
    monkeypatch.setattr("os.isatty", lambda fd: False)


def test_each_option_is_about_the_vm_or_about_the_run() -> None:
    options = {attribute(names) for names, _ in OPTIONS}
    assert options == ABOUT_THE_RUN | set(DESCRIBE)
    assert not ABOUT_THE_RUN & set(DESCRIBE)


@pytest.mark.parametrize("option", DESCRIBE)
def test_it_is_in_the_record(option: str) -> None:
    needs, words = DESCRIBE[option]
    without, given = Plan(arguments(*needs)), Plan(arguments(*needs, *words))
    assert without.config != given.config
    for plan in (without, given):
        assert config.from_json(config.to_json(plan.config)) == plan.config


def test_the_command_is_in_the_record() -> None:
    assert Plan(arguments()).config != Plan(arguments("--", "true")).config


def test_devices_are_in_the_order_of_the_guest() -> None:
    words = ("--testdev", "--net", "tap0", "-d", "d,ro", *SWAP, "--console", "virtio")
    plan = Plan(arguments(*words))
    assert plan.config.devices == (
        SerialConfig(),
        ConsoleConfig(framed=True),
        DiskConfig("d", readonly=True),
        NetConfig("tap0"),
        RngConfig(),
        SwapConfig(4 << 20),
        KvmUnitTestsConfig(),
    )
    said = plan.as_dict()
    assert [device["kind"] for device in said["devices"]] == [
        *("serial", "virtio-console", "virtio-blk", "virtio-net", "virtio-rng", "swap", "testdev"),
    ]
    assert said["machine"]["memory"] == 256 << 20


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("-m", "much"), "memory 'much' is not a size"),
        (("--swap", "1X"), "swap size '1X' is not a size"),
        ((*SWAP, "--swap-quota", "x"), "swap quota 'x' is not a size"),
    ],
)
def test_sizes_are_read_before_anything_is_made(words: tuple[str, ...], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        Plan(arguments(*words))


def test_bytes_of_an_initrd_are_not_shown(tmp_path: Path) -> None:
    said = Plan(arguments("--env", "SECRET=1", "--", "true")).as_dict()
    assert "SECRET" not in str(said)
    assert said["initrd"][-1].endswith(" bytes>")
