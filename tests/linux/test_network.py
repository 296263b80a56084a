# SPDX-License-Identifier: Apache-2.0
"""The network card on a tap, in a network namespace of the test's own."""

from __future__ import annotations

import hashlib
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.stream import SECONDS, Process
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 1 << 20
SPACE = "pyvmm-test"
TAP = "pvtest0"
HOST, GUEST = "192.168.77.1", "192.168.77.2"
INSIDE = ("ip", "netns", "exec", SPACE)

#: The guest fetches, then serves what it made itself, until somebody connects to port 99.
SCRIPT = f"""
ip link set eth0 up
ip addr add {GUEST}/24 dev eth0
n=0; until ping -c 1 -W 5 {HOST} > /dev/null || [ $n = 20 ]; do n=$((n + 1)); done
ping -c 3 -W 20 {HOST} | grep 'packets received'
mkdir /tmp/www
wget -q -O /tmp/fetched http://{HOST}:8000/file && echo fetched $(sha256sum < /tmp/fetched)
dd if=/dev/urandom of=/tmp/www/file bs=1M count=4 2> /dev/null
echo made $(sha256sum < /tmp/www/file)
httpd -p 8001 -h /tmp/www
echo serving
nc -l -p 99 < /dev/null
echo card $(cat /sys/class/net/eth0/address) $(cat /sys/class/net/eth0/mtu)
echo lost $(cat /sys/class/net/eth0/statistics/*errors /sys/class/net/eth0/statistics/*dropped)
"""


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


def in_namespace(*words: str) -> str:
    done = subprocess.run(
        [*INSIDE, *words], capture_output=True, timeout=SECONDS, check=False, text=True
    )
    assert done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture
def namespace() -> Iterator[None]:
    ip("netns", "add", SPACE)
    ip("-n", SPACE, "link", "set", "lo", "up")
    yield
    ip("netns", "del", SPACE)


@pytest.fixture
def server(namespace: None, tmp_path: Path) -> Iterator[bytes]:
    """A web server in the namespace; the contents of its one file."""
    folder = tmp_path / "www"
    folder.mkdir()
    data = os.urandom(6 * MIB)
    (folder / "file").write_bytes(data)
    command = [*INSIDE, "busybox", "httpd", "-f", "-p", "8000", "-h", str(folder)]
    process = subprocess.Popen(command)
    yield data
    process.kill()
    process.wait()


def test_ping_and_tcp_both_ways(server: bytes, tmp_path: Path) -> None:
    with Process("run", "--net", TAP, "--", "sh", "-c", SCRIPT, prefix=INSIDE) as pyvmm:
        until(lambda: TAP in ip("-n", SPACE, "-brief", "link"), SECONDS)
        ip("-n", SPACE, "addr", "add", f"{HOST}/24", "dev", TAP)
        pyvmm.expect("3 packets received")
        pyvmm.expect(f"fetched {hashlib.sha256(server).hexdigest()}")
        pyvmm.expect("made ")
        made = pyvmm.expect("serving").split()[0]

        assert " 0% packet loss" in in_namespace("ping", "-c", "3", "-W", "20", GUEST)
        # 4000 bytes: several frames, put together by both sides.
        assert " 0% packet loss" in in_namespace("ping", "-c", "2", "-W", "20", "-s", "4000", GUEST)
        target = tmp_path / "from-guest"
        in_namespace("busybox", "wget", "-q", "-O", str(target), f"http://{GUEST}:8001/file")
        assert hashlib.sha256(target.read_bytes()).hexdigest() == made
        in_namespace("busybox", "nc", GUEST, "99")
        card = pyvmm.expect("lost").split()
        address, mtu = card[card.index("card") + 1 :][:2]
        assert int(address[:2], 16) & 3 == 2  # unicast, locally administered
        assert mtu == "1500"
        assert pyvmm.finish() == 0
        assert set(pyvmm.text.rpartition("lost")[2].split()) == {"0"}
    assert TAP not in ip("-n", SPACE, "-brief", "link")


def test_tap_of_somebody_else_stays(namespace: None) -> None:
    ip("-n", SPACE, "tuntap", "add", "dev", TAP, "mode", "tap", "vnet_hdr")
    script = "cat /sys/class/net/eth0/carrier; ip link set eth0 up; cat /sys/class/net/eth0/carrier"
    with Process("run", "--net", TAP, "--", "sh", "-c", script, prefix=INSIDE) as pyvmm:
        assert pyvmm.finish() == 0, pyvmm.text
        assert "1" in pyvmm.text
    assert TAP in ip("-n", SPACE, "-brief", "link")


def test_tap_in_use_is_the_hosts_refusal(namespace: None) -> None:
    with Process("run", "--net", TAP, "--", "cat", prefix=INSIDE) as first:
        until(lambda: TAP in ip("-n", SPACE, "-brief", "link"), SECONDS)
        with Process("run", "--net", TAP, "--", "true", prefix=INSIDE) as second:
            assert second.finish() == 123
            assert f"tap {TAP}: in use by another process" in second.text
        first.process.terminate()
        assert first.finish() == 121
