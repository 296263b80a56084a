# SPDX-License-Identifier: Apache-2.0
"""Use after close(): StateError from everything public, from any thread, and C never hears of it."""

from __future__ import annotations

import subprocess
import sys

import pytest

import pyvmm
from pyvmm.errors import StateError

SECONDS = 300

#: Threads use everything they can get at while the machine is closed under them. `rounds` machines.
DURING = """
import faulthandler, sys, threading
import pyvmm
from pyvmm.errors import StateError
from tests.support import closed_machine

faulthandler.enable()
wrong = []

def use(do, over):
    try:
        while not over.is_set():
            do()
    except StateError:
        pass
    except BaseException as error:
        wrong.append(f"{type(error).__name__}: {error}")

for turn in range(int(sys.argv[1])):
    vm = closed_machine.built()
    serial = vm.add_serial()
    console, rng = vm.machine.devices[:2]
    machine, vcpu, swap = vm.machine, vm.vcpus[0], vm.swap
    over = threading.Event()
    threads = [
        threading.Thread(target=use, args=(do, over))
        for do in (
            serial.tail, serial.stats, serial.drain, lambda: serial.feed(b"x"), console.drain, console.stats,
            lambda: rng.needs_reset, machine.exits, machine.board.power_button, lambda: machine.symcalls,
            lambda: machine.board.platform and machine.board.ready_fd(), lambda: vcpu.request(0), vcpu.is_called,
            lambda: vcpu.unclaimed, lambda: vm.memory.read(0x1000, 64), vm.memory.slots, lambda: swap.stats,
            lambda: swap.effective, lambda: setattr(swap, "policy", "always"), lambda: swap.bytes_used,
            lambda: machine.symbiosis.page(0), lambda: vm.serial.tail(7),
        )
    ]
    for thread in threads:
        thread.start()
    if turn % 2:
        vm.run(60)
    vm.close()
    over.set()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
print(wrong)
"""


@pytest.mark.parametrize("when", ["never_started", "ran"])
def test_everything_public(when: str) -> None:
    command = [sys.executable, "-m", "tests.support.closed_machine", when]
    ran = subprocess.run(command, check=False, capture_output=True, text=True, timeout=SECONDS)
    *faults, counted = ran.stdout.splitlines() or [""]
    assert faults == [], ran.stdout + ran.stderr
    classes, members = (int(word) for word in counted.split() if word.isdigit())
    assert classes >= 25, ran.stdout
    assert members >= 250, ran.stdout + ran.stderr


@pytest.mark.parametrize("method", ["run", "start", "wait", "pause", "resume"])
def test_of_one_that_never_ran_the_message_says_that_it_is_closed(method: str) -> None:
    vm = pyvmm.VM("2M")
    vm.close()
    with pytest.raises(StateError, match="closed"):
        getattr(vm, method)()


def test_threads_that_use_it_during_the_close() -> None:
    command = [sys.executable, "-c", DURING, "4"]
    ran = subprocess.run(command, check=False, capture_output=True, text=True, timeout=SECONDS)
    assert (ran.returncode, ran.stdout) == (0, "[]\n"), ran.stdout + ran.stderr


#: A part that is closed under its machine is refused; the machine goes on and ends as ever.
PARTS = """
import faulthandler
from pyvmm.errors import StateError
from tests.support import closed_machine

faulthandler.enable()
vm = closed_machine.built("1: in al, 0xe0; cmp al, 0; je 1b; mov dx, 0x604; mov ax, 0x3400; out dx, ax; hlt")
vm.add_serial()
go_on = False
vm.on_port(0xe0)(lambda exit: int(go_on))
swap, machine = vm.swap, vm.machine
vm.start()
parts = [vm.memory, *vm.vcpus, *(vcpu.kvm for vcpu in vm.vcpus), *machine.devices, swap.store, machine.vm, machine.kvm]
parts += [machine.symbiosis, swap._governor, swap._evictor] if machine.symbiosis else []
for part in parts:
    try:
        part.close()
    except StateError:
        continue
    print("closed", part)
for forbidden in (vm.vcpus[0].kvm.enter,):
    try:
        print("went on", forbidden())
    except StateError:
        continue
go_on = True
print(vm.run(60).reason, len(parts) > 8)
for part in (vm.memory, *vm.vcpus, swap.store, machine.vm, machine.kvm):
    try:
        part.close()
    except StateError:
        continue
    print("closed", part)
vm.close()
for part in parts:
    part.close()
"""


def test_parts_are_closed_by_their_machine() -> None:
    command = [sys.executable, "-c", PARTS]
    ran = subprocess.run(command, check=False, capture_output=True, text=True, timeout=SECONDS)
    assert (ran.returncode, ran.stdout) == (0, "poweroff True\n"), ran.stdout + ran.stderr
