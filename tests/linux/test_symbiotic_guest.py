# SPDX-License-Identifier: Apache-2.0
"""The guest driver and the VMM with and without each other, CPUs that come and go, and what the calls say."""

from __future__ import annotations

import errno
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from pyvmm._core import lib
from pyvmm.errors import SymcallError
from pyvmm.machine import cpuid, symbiosis
from pyvmm.machine.hooks import GuestFault
from tests.support import example, kernels
from tests.support.kernel_log import faults
from tests.support.linux import Guest, program
from tests.support.plain_qemu import QUIET, check_silence, log_of_a_boot

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pyvmm.machine.hooks import Exit, Hypercall
    from pyvmm.symbiotic.memory import Lookup
    from pyvmm.symbiotic.task import Current
    from pyvmm.vm import VM

CPUS = 2
STATS = "/sys/kernel/debug/symbiotic/stats"
#: Does what its input says, a line of shell at a time.
SCRIPT = """
mount -t debugfs none /sys/kernel/debug
echo ready
while read -r line; do eval "$line"; echo "==== end"; done
"""
END = "==== end\n"
PORT = 0x510
#: What Linux says where it finds that a handler was left and its preemption count stayed: __schedule() before a switch,
#: finish_task_switch() after one that was under way, softirqs, timers and workqueues behind what they ran.
ATOMIC = re.compile(
    "BUG: scheduling while atomic|corrupted preempt_count|softirq .* with preempt_count .*, exited"
    "|preempt leak|workqueue leaked atomic"
)


class Count(NamedTuple):
    """One line of the driver's counters."""

    calls: int
    errors: int


class Talk:
    """A guest that does what it is told."""

    def __init__(self, guest: Guest) -> None:
        self.vm: VM = guest.vm
        self._guest = guest
        guest.start()
        guest.expect("ready\n")

    def tell(self, line: str) -> str:
        """What the line printed."""
        self._guest.say(line)
        return self._guest.expect(END).removesuffix(END)

    def registered(self) -> list[int]:
        """The CPUs that the driver has registered."""
        return [int(word) for word in self.tell(f"head -n 1 {STATS}").split()[1:]]

    def counts(self) -> dict[tuple[str, int], Count]:
        """What the driver counted, by number of the call and CPU."""
        rows = [line.split() for line in self.tell(f"tail -n +3 {STATS}").splitlines()]
        return {(row[0], int(row[1])): Count(int(row[2]), int(row[3])) for row in rows}

    def refusal(self, cpu: int) -> str:
        """Why a symcall was not made."""
        with pytest.raises(SymcallError) as caught:
            self.vm.symcall(cpu, "test")
        return caught.value.reason

    def trouble(self) -> list[str]:
        """Lines of the kernel's log that should not be there."""
        lines = self.tell("dmesg").splitlines()
        quiet = [line for line in lines if QUIET.search(line) and "ommand line: " not in line]
        return faults("\n".join(lines)) + quiet


@pytest.fixture(params=kernels.ALL)
def talk(request: pytest.FixtureRequest) -> Iterator[Talk]:
    with Guest(SCRIPT, linux=request.param, cpus=CPUS) as guest:
        yield Talk(guest)


@pytest.mark.parametrize("name", kernels.ALL)
def test_symbiotic_kernel_says_nothing_under_qemu(name: str, tmp_path: Path) -> None:
    check_silence(log_of_a_boot(tmp_path, name, "kvm", 200))


@pytest.mark.parametrize("name", ["stock-6.12", kernels.one("stock-6.1")])
def test_stock_kernel_boots_under_symbiotic_vmm(name: str) -> None:
    with Guest(SCRIPT.replace("mount", "true"), linux=name, memory="512M", cpus=CPUS) as guest:
        talk = Talk(guest)
        assert talk.tell("nproc").split() == [str(CPUS)]
        assert [talk.refusal(cpu) for cpu in range(CPUS)] == ["absent"] * CPUS
        assert not QUIET.search(talk.tell("dmesg | grep -v 'ommand line: '"))
        counters = talk.vm.symcalls
        assert (counters["calls"], counters["refused_absent"]) == (0, CPUS)
        assert counters["msr_refused"] == counters["pages_refused"] == counters["doorbells"] == 0


@pytest.mark.parametrize("name", kernels.BOTH)
def test_kernel_parameter_leaves_it_unused(name: str) -> None:
    with Guest(SCRIPT, linux=name, params="quiet symbiotic=off") as guest:
        talk = Talk(guest)
        assert talk.refusal(0) == "absent"
        assert talk.tell(f"test -e {STATS} || echo none") == "none\n"
        assert talk.trouble() == []


def test_every_cpu_is_registered_and_counts(talk: Talk) -> None:
    """The driver's counters, on each CPU, are the calls that were made."""
    vm = talk.vm
    assert talk.registered() == list(range(CPUS))
    assert talk.counts() == {}
    for cpu in range(CPUS):
        for n in range(10 + cpu):
            assert vm.symcall(cpu, lib.SYMCALL_TEST, n, 2, 3, 4, 2**64 - 1)[:5] == (
                *(n + 1, 3, 4, 5, 0),
            )
        assert vm.symcall(cpu, "current").cpu == cpu
        with pytest.raises(SymcallError):
            vm.symcall(cpu, lib.SYMCALL_READ, 0x1000, 4096)
        with pytest.raises(SymcallError):
            vm.symcall(cpu, 0xFFFF)
    counts = talk.counts()
    assert {key: counts.pop(key) for key in list(counts) if key[1] == 0} == {
        ("0x0001", 0): (10, 0),
        ("0x0101", 0): (1, 0),
        ("0x0104", 0): (1, 1),
        ("other", 0): (1, 1),
    }
    assert counts[("0x0001", 1)] == (11, 0)
    counters = vm.symcalls
    assert counters["calls"] == 10 + 11 + 3 * CPUS
    assert counters["errors"] == 2 * CPUS
    assert counters["returned"] + counters["errors"] == counters["calls"]
    assert talk.trouble() == []


def test_cpu_goes_offline_and_comes_back(talk: Talk) -> None:
    vm = talk.vm
    online = "/sys/devices/system/cpu/cpu1/online"
    for _ in range(3):
        assert vm.symcall(1, "test", 1)[0] == 2
        assert talk.tell(f"echo 0 > {online} && cat {online}") == "0\n"
        assert talk.registered() == [0]
        assert talk.refusal(1) == "absent"
        assert vm.symcall(0, "test", 1)[0] == 2
        assert talk.tell(f"echo 1 > {online} && cat {online}") == "1\n"
        assert talk.registered() == [0, 1]
        assert vm.symcall(1, "current").cpu == 1
    assert vm.symcalls["msr_refused"] == vm.symcalls["pages_refused"] == 0
    assert talk.trouble() == []


def test_kernel_and_its_memory(talk: Talk) -> None:
    """The facts, statistics and bytes that calls bring are those that the guest's own files tell."""
    vm = talk.vm
    facts, memory = vm.facts(), vm.symcall(1, "memory")
    assert not facts.out_of_tree
    assert talk.tell("uname -r; uname -v") == f"{facts.release}\n{facts.version}\n"
    note = [int(word, 16) for word in talk.tell("cat /sys/kernel/vmcoreinfo").split()]
    assert [facts.vmcoreinfo_gpa, facts.vmcoreinfo_size] == note
    total, swap = re.findall(r"\d+", talk.tell("grep -E 'MemTotal|SwapTotal' /proc/meminfo"))
    assert (memory.total, memory.swap_total) == (int(total) << 10, int(swap) << 10)
    assert memory.swap_free == memory.swap_cached == memory.pswpin == 0
    assert 0 < (memory.free or 0) < (memory.total or 0)
    faults = int(talk.tell("grep '^pgfault ' /proc/vmstat").split()[1])
    assert 0 < (memory.pgfault or 0) <= faults
    check_kernel_memory(talk)


def check_kernel_memory(talk: Talk) -> None:
    vm = talk.vm
    symbols = talk.tell("grep -E ' (linux_banner|_text|init_task)$' /proc/kallsyms").splitlines()
    at = {name: int(address, 16) for address, _, name in map(str.split, symbols)}
    banner = talk.tell("cat /proc/version")
    assert vm.symcall(0, "read", at["linux_banner"], len(banner)).decode() == banner
    assert vm.facts().kaslr_offset == at["_text"] - 0xFFFF_FFFF_8100_0000
    text, data = (vm.symcall(0, "mem_lookup", at[name]) for name in ("_text", "init_task"))
    assert (text.readable, text.writable, text.executable) == (True, False, True)
    assert (data.readable, data.writable, data.executable) == (True, True, False)
    entry = int.from_bytes(vm.memory.read(data.pte_gpa or 0, 8), "little")
    assert entry & 3 == 3
    for wild in (0xDEAD << 48, 0x7FFF_FFFF_F000, 0xFFFF_8000_0000_0000):
        found = vm.symcall(0, "mem_lookup", wild)
        assert (found.vaddr, found.permissions) == (None, 0)
        with pytest.raises(SymcallError):
            vm.symcall(0, lib.SYMCALL_READ, wild, 1)


class Watch:
    """Looks at a process while it makes an exit in user mode."""

    def __init__(self, vm: VM) -> None:
        self.current: dict[str, Current] = {}
        self.lookups: dict[str, Lookup] = {}
        self.bytes: dict[str, bytes] = {}
        self.refusals: set[tuple[str, int]] = set()
        self._halves = [0, 0]
        vm.on_port(PORT)(self._look)
        vm.on_port(PORT + 4)(lambda exit: self._keep(0, exit))
        vm.on_port(PORT + 8)(lambda exit: self._keep(1, exit))

    def _keep(self, half: int, exit: Exit) -> None:
        self._halves[half] = exit.value

    def _look(self, exit: Exit) -> None:
        name, address = chr(exit.value), self._halves[0] | self._halves[1] << 32
        self.current[name] = exit.vcpu.symcall("current")
        self.lookups[name] = exit.vcpu.symcall("mem_lookup", address)
        try:
            done = exit.vcpu.symcall(
                lib.SYMCALL_READ, address + 4000 * (name == "e"), 200, want=200
            )
        except SymcallError as error:
            self.bytes[name] = b""
            self.refusals.add((error.reason, error.code))
        else:
            self.bytes[name] = done.data[: done.rbx]


@pytest.mark.parametrize("name", kernels.ALL)
def test_process_in_user_mode(name: str) -> None:
    with Guest(SCRIPT, linux=name, cpus=CPUS, files={"/root/look": program("symbiotic")}) as guest:
        watch = Watch(guest.vm)
        talk = Talk(guest)
        # Under page-table isolation, if this kernel has it, user space is on other tables.
        told = talk.tell("/root/look < /dev/null")
        (pid,) = re.findall(r"pid (\d+)", told)
        assert "told" in told
        assert {found.pid for found in watch.current.values()} == {int(pid)}
        assert {found.comm for found in watch.current.values()} == {"look"}
        check_mappings(watch)
        assert talk.trouble() == []


def check_mappings(watch: Watch) -> None:
    allowed = {name: found.permissions for name, found in watch.lookups.items()}
    read, write, execute = (
        lib.SYMBIOTIC_ACCESS_READ,
        lib.SYMBIOTIC_ACCESS_WRITE,
        lib.SYMBIOTIC_ACCESS_EXECUTE,
    )
    assert allowed == {
        "t": read | execute,
        "w": read | write,
        "r": read,
        "u": read | write,
        "n": 0,
        "e": read | write,
    }
    assert {name for name, found in watch.lookups.items() if found.vaddr is None} == {"n"}
    assert watch.bytes["w"].startswith(b"seen from outside\0")
    assert watch.bytes["r"].startswith(b"to be read\0")
    assert watch.bytes["e"] == b"e" * 96  # the page ends there
    assert watch.bytes["u"] == watch.bytes["n"] == b""
    assert watch.refusals == {("error", errno.EFAULT)}
    assert len(watch.bytes["t"]) == 200


@pytest.mark.parametrize("name", [kernels.one(kernels.DEFAULT), kernels.one(kernels.DEBUG)])
def test_page_table_isolation(name: str) -> None:
    """The same process when user space has page tables without the kernel."""
    files = {"/root/look": program("symbiotic")}
    with Guest(SCRIPT, linux=name, params="quiet pti=on", files=files) as guest:
        watch = Watch(guest.vm)
        talk = Talk(guest)
        assert "isolation: enabled" in talk.tell("dmesg")
        assert "told" in talk.tell("/root/look < /dev/null")
        check_mappings(watch)
        assert guest.vm.symcalls["faults"] == 0
        assert talk.trouble() == []


def test_processes_and_threads(talk: Talk) -> None:
    """Those of /proc; with threads, as many as /proc has tasks."""
    listed = talk.tell(
        r"cat /proc/[0-9]*/stat | sed 's/^\([0-9]*\) (\(.*\)) . \([0-9]*\).*/\1 \3 \2/'"
    )
    expected = {}
    for line in listed.splitlines():
        pid, parent, comm = line.split(" ", 2)
        if comm not in ("cat", "sed") and "kworker" not in comm:
            expected[int(pid)] = (int(parent), comm[:15])  # /proc has longer names for some
    found = {task.pid: (task.ppid, task.comm) for task in talk.vm.tasks()}
    assert {pid: entry for pid, entry in found.items() if pid in expected} == expected
    threads = list(talk.vm.tasks(threads=True))
    assert len(threads) >= len(found)
    (shell,) = (task for task in threads if task.pid == 1)
    assert (shell.ppid, shell.uid, shell.threads, shell.kernel_thread) == (0, 0, 1, False)
    assert (shell.rss_bytes or 0) > 0


def test_call_from_other_kernel_code() -> None:
    """The module of docs/guest-driver.md: registers a call, calls the VMM, answers, and goes again."""
    files = {"/root/load.ko": example.cached("6.12", "load")}
    with Guest(SCRIPT, linux="stock-6.12-symbiotic", memory="512M", files=files) as guest:
        offered = []

        @guest.vm.on_hypercall(0x6000)
        def ready(call: Hypercall) -> list[int]:
            offered.append(call.args[0])
            return [77]

        talk, vm = Talk(guest), guest.vm
        assert talk.tell("insmod /root/load.ko && echo in") == "in\n"
        assert offered == [0x1000]
        assert "the VMM says 0, 77" in talk.tell("dmesg | tail -n 3")
        results = vm.symcall(0, 0x1000, 1000, want=24)
        loads = [float(word) for word in talk.tell("cat /proc/loadavg").split()[:3]]
        assert [n / 1000 for n in results[:3]] == pytest.approx(loads, abs=0.2)
        raw = [int.from_bytes(results.data[at : at + 8], "little") for at in (0, 8, 16)]
        assert [n * 1000 >> 11 for n in raw] == list(results[:3])
        with pytest.raises(SymcallError) as caught:
            vm.symcall(0, 0x1000, 2_000_000)
        assert (caught.value.reason, caught.value.code) == ("error", errno.EINVAL)
        assert talk.counts()["0x1000", 0] == (2, 1)
        assert talk.tell("grep -c load " + STATS) == "1\n"
        assert talk.tell("rmmod load && echo out") == "out\n"
        with pytest.raises(SymcallError) as caught:
            vm.symcall(0, 0x1000)
        assert caught.value.code == errno.ENOSYS


@pytest.mark.parametrize("ender", ["the guest", pytest.param("the VMM", marks=pytest.mark.rest)])
def test_a_handler_that_never_ends(ender: str) -> None:
    """Its CPU gets no more symcalls, and its kernel notices. All else goes on, and both sides can end the guest."""
    script = "taskset -p 1 $$ > /dev/null\n" + SCRIPT
    files = {"/root/spin.ko": example.cached("6.12", "spin")}
    options: dict[str, Any] = {"memory": "512M", "cpus": CPUS, "symcall_deadline": 1.0}
    with Guest(script, linux="stock-6.12-symbiotic", files=files, **options) as guest:
        talk, vm = Talk(guest), guest.vm
        assert talk.tell("insmod /root/spin.ko && echo in") == "in\n"
        assert vm.symcall(1, "current").cpu == 1
        with pytest.raises(SymcallError) as caught:
            vm.symcall(1, 0x1001)
        assert caught.value.reason == "deadline"
        for _ in range(3):
            assert vm.symcall(0, "current").cpu == 0
            assert "init" in {task.comm for task in vm.tasks()}
            assert talk.refusal(1) == "disabled"
        assert talk.tell("taskset 2 echo on CPU 1") == "on CPU 1\n"
        log = talk.tell("dmesg")
        assert ATOMIC.search(log), log[-4000:]
        assert (vm.symcalls["deadlines"], vm.symcalls["refused_disabled"]) == (1, 3)
        if ender == "the guest":
            guest.say("exit 0")
            assert guest.finish().ok
        else:
            vm.stop()
            assert guest.finish().reason == "stopped"


class HalfVmm:
    """Announces the interface and takes some of its MSRs, for a machine that has none of it."""

    def __init__(self, vm: VM, taken: set[int]) -> None:
        self.written: list[tuple[int, int]] = []
        self._taken = taken
        vm.on_msr(
            lib.MSR_SYMBIOTIC_VM_PAGE, lib.MSR_SYMBIOTIC_FS_BASE - lib.MSR_SYMBIOTIC_VM_PAGE + 1
        )(self._access)

    def _access(self, exit: Exit) -> None:
        if exit.address not in self._taken:
            raise GuestFault
        self.written.append((exit.address, exit.value))


#: What such a VMM takes, what the driver says, and whether the machine's page is left.
HALVES = [
    pytest.param(set(), "symbiotic: not used: error -5", True, id="nothing"),
    pytest.param(
        {lib.MSR_SYMBIOTIC_VM_PAGE},
        "symbiotic: CPU 0 is not registered: error -5",
        False,
        id="page",
    ),
    pytest.param(
        set(range(lib.MSR_SYMBIOTIC_VM_PAGE, lib.MSR_SYMBIOTIC_FS_BASE + 1))
        - {lib.MSR_SYMBIOTIC_RIP},
        "symbiotic: CPU 0 is not registered: error -5",
        False,
        id="entry",
    ),
]


@pytest.mark.parametrize(("taken", "said", "alone"), HALVES)
def test_vmm_that_supports_half_of_it(
    taken: set[int], said: str, alone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line in the log, and the guest works as under any VMM; what was registered is withdrawn."""
    table = cpuid.table

    def announcing(*words: Any, more: object, **options: Any) -> Any:
        return table(*words, **options, more=[symbiosis.leaf()])

    monkeypatch.setattr(cpuid, "table", announcing)
    with Guest(SCRIPT, cpus=CPUS, symbiotic=False) as guest:
        vmm = HalfVmm(guest.vm, taken)
        talk = Talk(guest)
        assert [line.partition("] ")[2] for line in talk.trouble()] == [said]
        assert talk.tell("nproc") == f"{CPUS}\n"
        assert (talk.tell(f"cat {STATS} | head -n 1") == "registered:\n") != alone
        last = dict(vmm.written)
        assert last.get(lib.MSR_SYMBIOTIC_VCPU_PAGE, 0) == 0
        assert bool(last.get(lib.MSR_SYMBIOTIC_VM_PAGE)) != alone
