# SPDX-License-Identifier: Apache-2.0
"""The virtio network card, on a real tap where the host lets us have one."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from pyvmm.devices import tap as taps
from pyvmm.devices.tap import Tap
from pyvmm.devices.virtio_net import VirtioNet, parse_mac, random_mac
from pyvmm.errors import ConfigError, HostError, StateError
from tests.support.virtio_driver import (
    F_INDIRECT,
    F_VERSION_1,
    PATIENCE,
    WRITE,
    Descriptor,
    Driver,
    FakeMachine,
)

F_CSUM, F_GUEST_CSUM, F_MTU, F_MAC = 0, 1, 3, 5
F_GUEST_TSO4, F_GUEST_ECN, F_HOST_TSO4, F_MRG_RXBUF, F_STATUS = 7, 9, 11, 15, 16
BASE = 1 << F_VERSION_1 | 1 << F_MAC | 1 << F_STATUS
HEADER = 12
RX_AT, TX_AT = 0x40000, 0xA0000
TYPE = 0x88B5  # for local experiments (IEEE 802)


def test_mac_addresses() -> None:
    assert parse_mac("02:00:00:Ab:cD:ef") == bytes.fromhex("020000abcdef")
    for bad in ("", "02:00:00:00:00", "02:00:00:00:00:0g", "1:2:3:4:5:6", "01:00:00:00:00:01"):
        with pytest.raises(ConfigError, match="MAC address"):
            parse_mac(bad)
    assert random_mac()[0] == 2
    assert random_mac() != random_mac()


@pytest.mark.parametrize("name", ["", "a" * 16, "a/b", "a b", "..", "ä", "a\0b"])
def test_tap_names(name: str) -> None:
    with pytest.raises(ConfigError, match="tap name"):
        Tap(name)


def test_tap_options() -> None:
    for mtu in (0, 67, 65522):
        with pytest.raises(ConfigError, match="MTU"):
            Tap(mtu=mtu)
    for address in ("", "1.2.3", "1.2.3.4/33", "1.2.3.4/-1", "1.2.3.4/", "fe80::1/64"):
        with pytest.raises(ConfigError, match="tap address"):
            Tap(address=address)


def test_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taps, "DEVICE", "/dev/net/no-such-thing")
    with pytest.raises(HostError, match="modprobe tun"):
        Tap()


def hush(tap: Tap) -> None:
    """Ends the host's own chatter on the tap, so that frames of ours come alone."""
    try:
        with open(f"/proc/sys/net/ipv6/conf/{tap.name}/disable_ipv6", "w") as file:
            file.write("1")
    except FileNotFoundError:
        pass
    try:
        while True:
            os.read(tap.fd, 65536)
    except BlockingIOError:
        pass


@pytest.fixture
def tap() -> Iterator[Tap]:
    try:
        tap = Tap(mtu=1400)
    except HostError as error:
        if os.geteuid():
            pytest.skip(f"only root may make a tap: {error}")
        raise
    hush(tap)
    yield tap
    tap.close()


class Card:
    """A network card, its driver, and the host's side of the tap."""

    def __init__(self, tap: Tap) -> None:
        self.machine = FakeMachine()
        self.device = VirtioNet(self.machine, tap, "02:00:00:12:34:56")  # type: ignore[arg-type]
        self.driver = Driver(self.machine, self.device)
        self.memory = self.machine.memory
        self.host = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(TYPE))
        self.host.bind((tap.name, TYPE))
        self.host.settimeout(PATIENCE)

    def start(self, features: int = BASE | 1 << F_MRG_RXBUF) -> None:
        self.rx, self.tx = self.driver.start(features)

    def offer(self, count: int, room: int) -> None:
        for _ in range(count):
            head = self.rx.idx % self.rx.size
            self.rx.write_desc(head, Descriptor(RX_AT + 0x4000 * head, room, WRITE))
            self.rx.offer(head)
        self.rx.kick()

    def wait_frame(self) -> tuple[bytes, int, int]:
        """(frame without header, chains, num_buffers) of one frame of ours; skips those of others."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            done = self.rx.collect()
            if not done:
                time.sleep(0.0002)
                continue
            data = b"".join(self.memory.read(RX_AT + 0x4000 * h, n) for h, n in done)
            if data[HEADER + 12 : HEADER + 14] == TYPE.to_bytes(2, "big"):
                return data[HEADER:], len(done), struct.unpack_from("<H", data, 10)[0]
            self.offer(len(done), done[0][1])
        raise AssertionError("no frame came")

    def send(self, data: bytes, header: bytes = bytes(HEADER)) -> None:
        self.memory.write(TX_AT, header + data)
        self.tx.chain(0, [Descriptor(TX_AT, HEADER), Descriptor(TX_AT + HEADER, len(data))])
        self.tx.offer(0)
        self.tx.kick()

    def close(self) -> None:
        self.machine.close()
        self.host.close()


@pytest.fixture
def card(tap: Tap) -> Iterator[Card]:
    card = Card(tap)
    yield card
    card.close()


def frame(length: int, seed: int = 3) -> bytes:
    body = bytes((n * seed + (n >> 8)) & 0xFF for n in range(length - 14))
    return b"\x02\0\0\x12\x34\x56" + b"\x02\0\0\0\0\x01" + TYPE.to_bytes(2, "big") + body


def test_config_space(card: Card) -> None:
    assert card.driver.read(8) == 1
    assert card.driver.config(0, 6) == bytes.fromhex("020000123456")
    assert card.driver.config(6, 2) == b"\1\0"
    assert struct.unpack("<H", card.driver.config(10, 2)) == (1400,)
    offered = card.driver.offered()
    for feature in (F_CSUM, F_GUEST_CSUM, F_MTU, F_MAC, F_GUEST_TSO4, F_HOST_TSO4, F_MRG_RXBUF):
        assert offered >> feature & 1
    assert card.device.mac == "02:00:00:12:34:56"


@pytest.mark.parametrize(
    "features",
    [1 << F_GUEST_TSO4, 1 << F_HOST_TSO4, 1 << F_GUEST_ECN | 1 << F_GUEST_CSUM],
)
def test_features_that_need_others(card: Card, features: int) -> None:
    assert not card.driver.negotiate(BASE | features)
    assert card.driver.negotiate(card.driver.offered())


def test_sends(card: Card) -> None:
    card.start()
    for length in (60, 1414):
        card.send(frame(length))
        assert card.tx.wait() == [(0, 0)]
        assert card.host.recv(4096) == frame(length)
    assert card.device.stats()["bytes_from_guest"] == 60 + 1414


def test_receives_into_one_buffer(card: Card) -> None:
    card.start(BASE)
    card.offer(4, 2048)
    card.host.send(frame(700))
    got, chains, buffers = card.wait_frame()
    assert got == frame(700)
    assert (chains, buffers) == (1, 1)


def test_receives_into_many_buffers(card: Card) -> None:
    card.start()
    card.offer(16, 100)
    card.host.send(frame(1000))
    got, chains, buffers = card.wait_frame()
    assert got == frame(1000)
    assert chains == buffers == 11  # 1012 bytes


def test_waits_for_buffers(card: Card) -> None:
    """A frame that does not fit yet is not lost, and nothing of it is published early."""
    card.start()
    card.host.send(frame(1000))
    card.offer(4, 100)
    card.driver.settle()
    assert card.rx.used_idx == 0
    card.offer(3, 100)
    card.driver.settle()
    assert card.rx.used_idx == 0
    card.offer(4, 100)
    assert card.wait_frame()[0] == frame(1000)


def test_frame_larger_than_the_whole_queue(card: Card) -> None:
    card.start()
    card.offer(16, 50)
    card.host.send(frame(1000))
    card.host.send(frame(300))
    assert card.wait_frame()[0] == frame(300)
    assert card.device.stats()["errors"] >= 1


def test_frame_larger_than_a_buffer_without_merging(card: Card) -> None:
    card.start(BASE)
    card.offer(8, 400)
    card.host.send(frame(1000))
    card.host.send(frame(300))
    assert card.wait_frame()[0] == frame(300)
    assert card.device.stats()["errors"] >= 1


def test_many_frames_both_ways(card: Card) -> None:
    card.start()
    card.offer(15, 1600)
    for number in range(300):
        card.send(frame(60 + number, number))
        card.host.send(frame(360 - number, number))
        card.tx.wait()
        assert card.host.recv(4096) == frame(60 + number, number)
        got, chains, _ = card.wait_frame()
        assert got == frame(360 - number, number)
        card.offer(chains, 1600)
    assert not card.device.needs_reset


def test_frames_the_host_refuses(card: Card) -> None:
    card.start()
    card.send(b"")  # a header alone
    card.tx.wait()
    card.send(frame(60), b"\1\xff" + b"\xff" * 10)  # offloads that make no sense
    card.tx.wait()
    assert card.device.stats()["errors"] == 2
    assert not card.device.needs_reset
    card.send(frame(60))
    card.tx.wait()
    assert card.host.recv(4096) == frame(60)


def test_malformed_chains(card: Card) -> None:
    card.start()
    card.tx.chain(0, [Descriptor(TX_AT, HEADER - 1)])
    card.tx.offer(0)
    card.tx.kick()
    card.driver.settle()
    assert card.device.violations == {"malformed request": 1}
    card.start()
    card.offer(4, HEADER - 1)
    card.host.send(frame(60))
    deadline = time.monotonic() + PATIENCE
    while not card.device.needs_reset:
        assert time.monotonic() < deadline
    card.start(BASE | 1 << F_INDIRECT)
    assert not card.device.needs_reset


def test_interface_down(card: Card, tap: Tap) -> None:
    card.start()
    assert subprocess.run(["ip", "link", "set", tap.name, "down"], check=False).returncode == 0
    card.send(frame(60))
    card.tx.wait()
    assert card.device.stats()["errors"] == 1
    subprocess.run(["ip", "link", "set", tap.name, "up"], check=False)
    card.send(frame(60))
    card.tx.wait()
    assert card.device.stats()["errors"] == 1


def test_interface_deleted(card: Card, tap: Tap) -> None:
    card.start()
    card.offer(4, 2000)
    subprocess.run(["ip", "link", "delete", tap.name], check=True)
    deadline = time.monotonic() + PATIENCE
    while card.driver.config(6, 2) != b"\0\0":
        assert time.monotonic() < deadline
    assert card.driver.wait_interrupt() & 2
    card.send(frame(60))
    card.tx.wait()


def test_tap_life(tap: Tap) -> None:
    assert tap.name.startswith("pyvmm")
    assert tap.name in os.listdir("/sys/class/net")
    with open(f"/sys/class/net/{tap.name}/mtu") as file:
        assert file.read() == "1400\n"
    with pytest.raises(HostError, match=f"{tap.name}: in use"):
        Tap(tap.name)
    tap.close()
    assert tap.name not in os.listdir("/sys/class/net")


def test_a_tap_that_is_closed_while_the_card_uses_it(card: Card, tap: Tap) -> None:
    """No other file gets its frames, though one gets its number."""
    number = tap.fd
    tap.close()
    taken = os.memfd_create("taken")
    if taken != number:
        os.dup2(taken, number)
        os.close(taken)
    card.start()
    card.send(frame(60))
    assert card.tx.wait() == [(0, 0)]
    assert os.fstat(number).st_size == 0
    os.close(number)
    assert card.host.recv(100) == frame(60)
    with pytest.raises(StateError, match="closed"):
        VirtioNet(card.machine, tap)  # type: ignore[arg-type]


def test_tap_of_another_kind(tap: Tap) -> None:
    with pytest.raises(HostError, match="tap lo: "):
        Tap("lo")


def test_persistent_tap(tap: Tap) -> None:
    kept = Tap("pyvmmtest%d", persistent=True, address="192.0.2.1/30")
    try:
        kept.close()
        assert kept.name in os.listdir("/sys/class/net")
        again = Tap(kept.name)
        fcntl.ioctl(again.fd, taps.TUNSETPERSIST, 0)
        again.close()
        assert kept.name not in os.listdir("/sys/class/net")
    finally:
        subprocess.run(["ip", "link", "delete", kept.name], capture_output=True, check=False)


def test_not_a_tap() -> None:
    class NoTap:
        fd = os.open("/dev/null", os.O_RDWR)
        mtu: Any = None

    with FakeMachine() as machine, pytest.raises(HostError, match="virtio-net"):
        VirtioNet(machine, NoTap())  # type: ignore[arg-type]
    os.close(NoTap.fd)
