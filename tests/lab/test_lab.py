# SPDX-License-Identifier: Apache-2.0
"""The lab as its user sees it. Most tests share one outer machine.

Times are limits against hanging, not expectations: the machine is emulated, and others may use the host.
"""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import sysconfig
import time
import venv
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pyvmm._core import lib
from pyvmm.lab import Lab
from tests.support.emulators import QEMU, is_gone, wait_for_emulator
from tests.support.lab_program import LIMIT, STARTED, Output, expect, finished, program
from tests.support.tree import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

# A real-mode guest: writes a byte to a port, then halts. Needs the built package.
SMOKE = """
import mmap
from pyvmm import kvm
memory = mmap.mmap(-1, 0x10000)
memory[0x1000:0x1006] = bytes.fromhex("b041 e610 f4 90")
hva = int(kvm.ffi.cast("uintptr_t", kvm.ffi.from_buffer(memory)))
with kvm.Kvm() as host, host.create_vm() as vm:
    vm.set_memory_region(slot=0, gpa=0, size=0x10000, hva=hva)
    with vm.create_vcpu(0) as vcpu:
        sregs = vcpu.get_sregs()
        sregs.cs.base = sregs.cs.selector = 0
        vcpu.set_sregs(sregs)
        regs = vcpu.get_regs()
        regs.rip, regs.rflags = 0x1000, 2
        vcpu.set_regs(regs)
        while vcpu.enter() or vcpu.run.exit_reason != kvm.KVM_EXIT_HLT:
            if vcpu.run.exit_reason == kvm.KVM_EXIT_IO:
                print(hex(vcpu.run.io.port), bytes(vcpu.io_data()))
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as machine:
        yield machine
        # The fixture's own promise: whatever the tests did, the machine still serves.
        assert machine.run(["true"], stdin=subprocess.DEVNULL, timeout=LIMIT) == 0


def shell(lab: Lab, text: str, **more: object) -> Output:
    return Output(lab, ["sh", "-c", text], **more)


# -- the machine


def test_the_devices_are_there(lab: Lab) -> None:
    done = shell(lab, "test -c /dev/kvm && test -c /dev/net/tun && test -w /dev/kvm; echo $?")
    assert done.out == b"0\n"


def test_kvm_runs_a_guest(lab: Lab) -> None:
    done = Output(lab, [sys.executable, "-c", SMOKE])
    assert (done.status, done.out) == (0, b"0x10 b'A'\n"), done.err


def test_its_own_file_systems(lab: Lab) -> None:
    done = shell(lab, "stat -f -c %T / /proc /sys /tmp /run /dev/shm /sys/fs/cgroup /dev/hugepages")
    kinds = b"overlayfs proc sysfs tmpfs tmpfs tmpfs cgroup2fs hugetlbfs"
    assert done.out.split() == kinds.split()


def test_name_cpus_and_paging(lab: Lab) -> None:
    done = shell(lab, "hostname; nproc; cat /sys/module/kvm_amd/parameters/npt; echo $PYVMM_LAB")
    assert done.out.decode().split() == ["lab", "2", "Y", "svm"]


def test_the_threads_it_has_are_told(lab: Lab) -> None:
    """What the environment says is what QEMU was started with; tests run twice by it."""
    told = shell(lab, "echo $PYVMM_LAB_THREADS").out.decode().strip()
    words = Path(f"/proc/{lab.pid}/cmdline").read_text().split("\0")
    assert f"tcg,thread={told}" in words


def test_the_time_comes_from_the_processor(lab: Lab) -> None:
    """Any other clock costs an exit of the emulator for each look at it."""
    place = "/sys/devices/system/clocksource/clocksource0/current_clocksource"
    assert shell(lab, f"cat {place}").out == b"tsc\n"


def test_the_rate_of_the_processors_clock_is_told(lab: Lab) -> None:
    """What Linux finds by itself on a busy machine is wrong, and timers in guests come late."""
    # One line is about the processor's rate. The TSC's comes after it, if it is another.
    lines = shell(lab, "dmesg | grep -o 'tsc: Detected [0-9.]* MHz'").out.decode().splitlines()
    found = lines[-1].split()[2]
    told = shell(lab, "sed -n 's/.*tsc_early_khz=\\([0-9]*\\).*/\\1/p' /proc/cmdline").out
    assert round(float(found) * 1000) == int(told)
    assert int(told) == pytest.approx(lib.tsc_khz(50), rel=100e-6)


def test_loopback_is_up(lab: Lab) -> None:
    assert shell(lab, "ping -c 1 -W 60 127.0.0.1 >/dev/null").status == 0


def test_any_module_can_be_loaded(lab: Lab) -> None:
    assert (
        shell(lab, "PATH=$PATH:/usr/sbin:/sbin; modprobe loop && test -c /dev/loop-control").status
        == 0
    )


def test_taps_can_be_made(lab: Lab) -> None:
    text = "PATH=$PATH:/usr/sbin:/sbin; ip tuntap add lab0 mode tap && ip link show lab0 >/dev/null"
    assert shell(lab, text).status == 0


def test_the_clock_is_the_hosts(lab: Lab) -> None:
    assert abs(int(shell(lab, "date +%s").out) - time.time()) < LIMIT


def test_shadow_paging_and_one_cpu() -> None:
    text = "cat /sys/module/kvm_amd/parameters/npt; nproc; echo $PYVMM_LAB; free -m | awk '/Mem/{print $2}'"
    status, out, err = finished(
        program("--no-npt", "--cpus", "1", "--memory", "1G", "--", "sh", "-c", text)
    )
    words = out.decode().split()
    assert (status, words[:3]) == (0, ["N", "1", "svm-shadow"]), err
    assert 512 < int(words[3]) <= 1024


#: Starts no program, which would be read from this machine: that takes real time where no CPU of the lab works.
LOOP = """
for round in 1 2 3 4 5 6; do
    start=${EPOCHREALTIME/./}; i=0
    while [ $i -lt 20000 ]; do i=$((i + 1)); done
    echo $((${EPOCHREALTIME/./} - start))
done
echo $PYVMM_LAB
"""


@pytest.mark.rest
def test_time_can_be_what_was_executed() -> None:
    """The same work takes the same time, whatever else this machine does."""
    status, out, err = finished(program("--icount", "--", "bash", "-c", LOOP))
    *times, kind = out.split()
    assert (status, kind) == (0, b"svm-icount"), err
    took = sorted(map(int, times[1:]))
    assert took[-1] < 1.01 * took[0], took


# -- the command


def test_exit_status_through_the_command_line() -> None:
    status, out, err = finished(program("--", "sh", "-c", "ls -l /dev/kvm; echo x >&2; exit 7"))
    assert status == 7, err
    assert out.startswith(b"crw")
    assert err == b"x\n"


@pytest.mark.parametrize(
    ("text", "status"),
    [("exit 0", 0), ("exit 255", 255), ("kill -9 $$", 137), ("kill -15 $$", 143)],
)
def test_exit_status(lab: Lab, text: str, status: int) -> None:
    assert shell(lab, text).status == status


def test_a_command_that_does_not_exist(lab: Lab) -> None:
    done = Output(lab, ["no-such-command"])
    assert done.status == 127
    assert b"no-such-command: command not found" in done.err


def test_a_file_that_is_no_program(lab: Lab) -> None:
    assert Output(lab, ["/etc/passwd"]).status == 126


def test_arguments_arrive_as_they_are(lab: Lab) -> None:
    words = ["", " ", "a b", "*", "$HOME", "'\"\\", "\n", "\u00e9", "x" * 100_000]
    done = Output(lab, ["sh", "-c", 'for a; do printf "%s|" "$a"; done', "sh", *words])
    assert done.out == "".join(f"{word}|" for word in words).encode()


def test_same_folder_and_chosen_environment(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYVMM_PROBE", "passed")
    monkeypatch.setenv("UNRELATED", "secret")
    monkeypatch.setenv("LANG", "C.UTF-8")
    done = shell(lab, 'echo "$PWD|$PYVMM_PROBE|$UNRELATED|$LANG|$GIVEN"', env={"GIVEN": "a b"})
    assert done.out.decode() == f"{os.getcwd()}|passed||C.UTF-8|a b\n"


def test_a_python_below_tmp_is_there(tmp_path: Path) -> None:
    """The lab has a /tmp of its own, in which a virtual environment of this machine's is shown."""
    assert tmp_path.is_relative_to("/tmp")
    home = tmp_path / "env"
    venv.create(home, symlinks=True)
    [packages] = home.glob("lib/python*/site-packages")
    (packages / "here.pth").write_text(f"{ROOT}\n{sysconfig.get_path('purelib')}\n")
    program = home / "bin" / "pyvmm"
    program.write_text(f"#!{home}/bin/python\nfrom pyvmm.cli.main import entry\nentry()\n")
    program.chmod(0o755)
    done = subprocess.run(
        [program, "lab", "--", "pyvmm", "--version"],
        env=os.environ | {"PATH": f"{home}/bin:{os.environ['PATH']}"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert (done.returncode, done.stdout.split()[:1]) == (0, ["pyvmm"]), done.stderr


def test_variables_on_the_command_line() -> None:
    words = ["--env", "A=b=c", "--env", "FROM_HERE", "--env", "NOT_SET"]
    text = 'echo "$A|$FROM_HERE|${NOT_SET-unset}"'
    surroundings = {**os.environ, "FROM_HERE": "here"}
    surroundings.pop("NOT_SET", None)
    status, out, err = finished(program(*words, "--", "sh", "-c", text, env=surroundings))
    assert (status, out) == (0, b"b=c|here|unset\n"), err


def test_python_and_the_project_are_the_hosts(lab: Lab) -> None:
    code = "import sys, pyvmm; print(sys.executable, pyvmm.__file__)"
    done = Output(lab, [sys.executable, "-c", code])
    assert done.out.decode().split() == [sys.executable, str(ROOT / "pyvmm" / "__init__.py")]


def test_what_a_command_leaves_running_is_ended(lab: Lab) -> None:
    start = time.monotonic()
    done = shell(lab, "sleep 1000 & setsid sleep 1000 & echo on")
    assert (done.status, done.out) == (0, b"on\n")
    assert time.monotonic() - start < 900
    assert shell(lab, "pidof sleep").status == 1


# -- streams


def test_streams_are_separate_and_exact(lab: Lab) -> None:
    every = "bytes(range(256))"
    code = f"import os; [(os.write(1, {every}), os.write(2, {every}[::-1])) for _ in range(64)]"
    done = Output(lab, [sys.executable, "-c", code])
    assert done.out == bytes(range(256)) * 64
    assert done.err == bytes(range(256))[::-1] * 64


def test_much_output(lab: Lab) -> None:
    done = shell(lab, "head -c 5000000 /dev/urandom | tee /tmp/data; sha256sum </tmp/data >&2")
    assert len(done.out) == 5_000_000
    assert hashlib.sha256(done.out).hexdigest() == done.err.split()[0].decode()


def test_output_comes_while_the_command_runs() -> None:
    process = program("--", "sh", "-c", "echo early; read word; echo $word", stdin=subprocess.PIPE)
    assert process.stdin is not None
    expect(process, b"early\n")
    assert process.poll() is None
    process.stdin.write(b"late\n")
    process.stdin.flush()
    status, out, err = finished(process)
    assert (status, out) == (0, b"late\n"), err


def test_input_is_exact(lab: Lab, tmp_path: Path) -> None:
    data = random.Random(1).randbytes(3_000_000)
    path = tmp_path / "input"
    path.write_bytes(data)
    with path.open("rb") as file:
        done = Output(lab, ["sha256sum"], stdin=file)
    assert done.out.split()[0].decode() == hashlib.sha256(data).hexdigest()


def test_input_that_nobody_reads(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "input"
    path.write_bytes(bytes(1_000_000))
    for text, expected in (
        ("exit 3", 3),
        ("exec <&-; sleep 1; exit 4", 4),
        ("head -c 1 >/dev/null", 0),
    ):
        with path.open("rb") as file:
            assert shell(lab, text, stdin=file).status == expected


def test_no_input_is_the_end_of_it(lab: Lab) -> None:
    assert shell(lab, "wc -c").out.strip() == b"0"


def test_standard_streams_can_be_opened_again(lab: Lab) -> None:
    done = shell(lab, "echo o >/dev/stdout; echo e >/dev/stderr")
    assert (done.out, done.err) == (b"o\n", b"e\n")


def test_a_slow_reader_holds_the_command_back(lab: Lab) -> None:
    reading, writing = os.pipe()
    script = f"import os, time; time.sleep(3); n = 0\nwhile (d := os.read({reading}, 65536)): n += len(d)\nprint(n)"
    reader = subprocess.Popen(
        [sys.executable, "-c", script], pass_fds=[reading], stdout=subprocess.PIPE
    )
    STARTED.append(reader)
    os.close(reading)
    with os.fdopen(writing, "wb") as out:
        command = ["head", "-c", "2000000", "/dev/zero"]
        assert lab.run(command, stdin=subprocess.DEVNULL, stdout=out, timeout=LIMIT) == 0
    assert reader.communicate(timeout=LIMIT)[0] == b"2000000\n"


@pytest.mark.rest
def test_a_reader_that_goes_away() -> None:
    process = program("--", "yes")
    emulator = wait_for_emulator(process, QEMU)
    expect(process, b"y\ny\n")
    assert process.stdout is not None
    process.stdout.close()
    status, _, err = finished(process)
    assert status == 141, err
    assert is_gone(emulator)


# -- files


def test_the_project_is_writable(lab: Lab) -> None:
    path = ROOT / "tests" / "out" / f"lab-{os.getpid()}"
    try:
        done = shell(lab, f"mkdir -p {path.parent} && echo one >{path} && echo two >>{path}")
        assert done.status == 0, done.err
        assert path.read_text() == "one\ntwo\n"
    finally:
        path.unlink(missing_ok=True)


def test_a_large_file_comes_back_whole(lab: Lab) -> None:
    path = ROOT / "tests" / "out" / f"large-{os.getpid()}"
    try:
        done = shell(
            lab, f"mkdir -p {path.parent}; head -c 20000000 /dev/urandom >{path}; sha256sum <{path}"
        )
        assert hashlib.sha256(path.read_bytes()).hexdigest() == done.out.split()[0].decode()
    finally:
        path.unlink(missing_ok=True)


def test_everything_else_is_not(lab: Lab) -> None:
    name = f"/etc/pyvmm-lab-{os.getpid()}"
    assert shell(lab, f"echo x >{name} && cat {name}").out == b"x\n"
    assert not Path(name).exists()


def test_a_share_under_tmp(tmp_path: Path) -> None:
    share = tmp_path / "with a blank, and a comma"
    share.mkdir()
    (share / "in").write_text("given")
    with Lab(share=str(share)) as machine:
        done = Output(machine, ["sh", "-c", "tr a-z A-Z <in >out; ls /tmp"], cwd=str(share))
    assert (share / "out").read_text() == "GIVEN"
    assert done.status == 0
