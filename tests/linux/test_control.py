# SPDX-License-Identifier: Apache-2.0
"""A running Linux guest under the control of Python: hooks, pause, entropy, the power button."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import pytest

from pyvmm.debian import kernelmodules, kernels
from pyvmm.errors import StateError
from tests.support.linux import Guest
from tests.support.stream import SECONDS

if TYPE_CHECKING:
    from pyvmm.machine.hooks import Exit

PORT = 0x510
PORTS = f"""
for byte in 1 2 3 200; do
    printf "\\\\x$(printf %x $byte)" | dd of=/dev/port bs=1 seek={PORT} conv=notrunc 2> /dev/null
done
echo read $(dd if=/dev/port bs=1 skip={PORT + 1} count=1 2> /dev/null | od -An -tu1)
echo again $(dd if=/dev/port bs=1 skip={PORT + 1} count=1 2> /dev/null | od -An -tu1)
"""


def test_port_hook() -> None:
    written = []
    answers = iter((77, 78))
    with Guest(PORTS, cpus=2) as guest:

        @guest.vm.on_port(PORT)
        def write(exit: Exit) -> None:
            assert exit.is_write
            written.append((exit.value, exit.size))

        @guest.vm.on_port(PORT + 1)
        def read(exit: Exit) -> int:
            assert not exit.is_write
            return next(answers)

        guest.start()
        assert guest.finish().ok
        assert written == [(1, 1), (2, 1), (3, 1), (200, 1)]
        assert "read 77\nagain 78\n" in guest.text


def test_hook_that_raises_ends_the_run() -> None:
    with Guest(PORTS) as guest:

        @guest.vm.on_port(PORT)
        def fail(exit: Exit) -> None:
            raise LookupError("from the hook")

        guest.start()
        with pytest.raises(LookupError, match="from the hook"):
            guest.finish()
        assert guest.vm.state == "ended"


def test_mmio_hook() -> None:
    address, seen = 0xE0000000, []
    script = f"devmem {address + 4:#x} 32 0x12345678; echo read $(devmem {address:#x} 32)"
    with Guest(script) as guest:

        @guest.vm.on_mmio(address, 0x1000)
        def access(exit: Exit) -> int | None:
            seen.append((exit.offset, exit.size, exit.value if exit.is_write else None))
            return 0xCAFE0001

        guest.start()
        assert guest.finish().ok
        assert "read 0xCAFE0001" in guest.text
        assert seen == [(4, 4, 0x12345678), (0, 4, None)]


TICKS = """
echo start $(date +%s)
n=0
while :; do
    echo tick $n $(cut -d ' ' -f 1 /proc/uptime)
    n=$((n + 1))
    usleep 20000
    if read -t 0 line; then break; fi
done
echo date $(date +%s)
"""


def ticks(text: str) -> list[tuple[int, float]]:
    return [(int(n), float(at)) for n, at in re.findall(r"tick (\d+) ([\d.]+)\n", text)]


@pytest.mark.parametrize("cpus", [pytest.param(1, marks=pytest.mark.rest), 4])
def test_pause_and_resume(cpus: int) -> None:
    """Nothing runs while paused, nothing is lost, and the guest's clock never goes back."""
    with Guest(TICKS, cpus=cpus) as guest:
        guest.start()
        guest.expect("tick 5 ")
        for _ in range(3):
            guest.vm.pause()
            assert guest.vm.state == "paused"
            guest.quiet(0.5)  # what the console still had
            before = guest.vm.machine.exits()
            assert guest.quiet(1) == b""
            assert guest.vm.machine.exits() == before
            guest.vm.resume()
            last = ticks(guest.text)[-1][0]
            guest.expect(f"tick {last + 5} ")
        with pytest.raises(StateError, match="not paused"):
            guest.vm.resume()
        guest.say("stop")
        assert guest.finish().ok
        seen = ticks(guest.text)
        assert [n for n, _ in seen] == list(range(len(seen)))
        times = [at for _, at in seen]
        assert times == sorted(times)
        start, end = (int(n) for n in re.findall(r"(?:start|date) (\d+)", guest.text))
        assert 0 <= end - start < SECONDS


def test_stop_while_paused() -> None:
    with Guest(TICKS) as guest:
        guest.start()
        guest.expect("tick 5 ")
        guest.vm.pause()
        guest.vm.stop()
        assert guest.finish().reason == "stopped"


def test_memory_and_registers_of_a_paused_guest() -> None:
    """The banner of the kernel lies in its memory, and its vCPU runs at a canonical address."""
    with Guest("echo ready; read line", cpus=2) as guest:
        guest.start()
        guest.expect("ready")
        guest.vm.pause()
        with guest.vm.memory.view(0, guest.vm.memory.size) as view:
            assert b"Linux version 6.12." in bytes(view)
        for vcpu in guest.vm.vcpus:
            regs = vcpu.kvm.get_regs()
            assert regs.rip < 1 << 47 or regs.rip >= (1 << 64) - (1 << 47)
            assert vcpu.kvm.get_sregs().cr3
        guest.vm.resume()
        guest.say("")
        assert guest.finish().ok


ENTROPY = """
cat /sys/class/misc/hw_random/rng_current
for n in 1 2 3; do head -c 32 /dev/hwrng | od -An -tx1 | tr -d ' \\n'; echo; done
"""


def test_entropy() -> None:
    with Guest(ENTROPY) as guest:
        rng = guest.vm.add_rng()
        guest.start()
        assert guest.finish().ok
        current, *pieces = guest.text.split()
        assert current == "virtio_rng.0"
        assert len(pieces) == len(set(pieces)) == 3
        assert all(len(piece) == 64 for piece in pieces)
        stats = rng.stats()
        assert stats["bytes_to_guest"] >= 96
        assert rng.violations == {}


PM_ENABLE = 0x602
BUTTON = f"""
count() {{ grep -i acpi /proc/interrupts | tr -s ' ' | cut -d ' ' -f 3; }}
echo ready; read line
printf '\\000\\001' | dd of=/dev/port bs=2 seek={PM_ENABLE // 2} conv=notrunc 2> /dev/null
echo before $(count); read line
n=0; while [ $(count) = 0 ] && [ $n -lt 200 ]; do usleep 50000; n=$((n + 1)); done
usleep 200000
echo after $(count); read line
"""


def test_power_button_raises_one_interrupt_where_it_is_enabled() -> None:
    """Our kernel has no driver for the button: the test enables the event by hand."""
    with Guest(BUTTON) as guest:
        guest.start()
        guest.expect("ready")
        assert guest.vm.power_button() is False
        guest.say("")
        guest.expect("before 0")
        assert guest.vm.power_button() is True
        guest.say("")
        # The kernel turns an event off that nobody handles.
        guest.expect("after 1\n")
        assert guest.vm.power_button() is False
        guest.say("")
        assert guest.finish().ok


LISTENER = """
insmod /root/button.ko
insmod /root/evdev.ko
dd if=/dev/input/event0 of=/tmp/events bs=24 count=1 2> /dev/null &
usleep 300000
echo listening
wait
echo event $(od -An -tu2 -j 16 -N 4 /tmp/events)
poweroff -f
"""
EV_KEY, KEY_POWER = 1, 116


def module(name: str) -> bytes:
    """A module of Debian's 6.1 that depends on no other."""
    files = kernels.kernel_package("6.1")
    (path,) = kernelmodules.module_closure(files.modules_dir, [name])
    return kernelmodules.module_bytes(path)


def test_power_button_reaches_a_listener() -> None:
    """Debian's kernel with its button driver: the key event arrives, and the guest powers off."""
    files = {f"/root/{name}.ko": module(name) for name in ("button", "evdev")}
    with Guest(LISTENER, linux="stock-6.1", memory="512M", files=files) as guest:
        guest.start()
        guest.expect("listening")
        assert guest.vm.power_button() is True
        guest.expect(f"event {EV_KEY} {KEY_POWER}")
        assert guest.finish().reason == "poweroff"


def test_log_of_the_kernel_is_kept() -> None:
    with Guest("exit 0", params="ignore_loglevel") as guest:
        guest.start()
        deadline = time.monotonic() + SECONDS
        while b"Linux version" not in guest.vm.console_log():
            assert time.monotonic() < deadline
            guest.pump(0.1)
        assert guest.finish().ok
        log = guest.vm.console_log().decode()
    assert "reboot: Power down" in log
