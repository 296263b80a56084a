# SPDX-License-Identifier: Apache-2.0
"""`pyvmm run` and what it reads and writes: readers that go, files that are full, logs; bare guests that use COM1."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pyvmm.launch import status
from tests.support import bare
from tests.support.waiting import SECONDS, until

PUT = "mov dx, 0x3f8; mov al, {}; out dx, al;"
#: Says a word and powers off (ACPI, S5), with a status or without.
WORD = PUT.format(0x68) + PUT.format(0x69) + PUT.format(0x0A)
OFF = "mov dx, 0x604; mov ax, 0x3400; out dx, ax; 1: hlt; jmp 1b"
SAY = WORD + OFF
FAIL = WORD + "mov al, 7; out 0xf4, al;" + OFF
#: Never ends.
YES = "2:" + PUT.format(0x79) + PUT.format(0x0A) + "jmp 2b"
SILENT = "3: hlt; jmp 3b"
#: Restarts by the keyboard controller, after a word of a kernel's.
RESET = "mov al, 0xfe; out 0x64, al; 4: jmp 4b"
PANIC = "".join(map(PUT.format, b"[ 1.0] Kernel panic - not syncing: no root\n")) + RESET
#: The same after many letters without the end of a line.
FLOOD = "mov ecx, 20000; 5:" + PUT.format(0x78) + "dec ecx; jnz 5b;" + PUT.format(0x0A) + PANIC


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name, code in {
        "say": SAY,
        "fail": FAIL,
        "yes": YES,
        "silent": SILENT,
        "panic": PANIC,
        "reset": RESET,
        "flood": FLOOD,
    }.items():
        Path(name).write_bytes(bare.assemble(code))


def words(kernel: str, *options: str) -> list[str]:
    start = [sys.executable, "-m", "pyvmm", "run", "-k", kernel, "--flat", "protected", "-m", "2M"]
    return [*start, *options]


def run(kernel: str, *options: str, **how: Any) -> subprocess.CompletedProcess[str]:
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.run(
        words(kernel, *options), **(streams | how), text=True, timeout=SECONDS, check=False
    )


def test_the_end_of_the_reader_ends_the_guest() -> None:
    script = f"set -o pipefail; {' '.join(words('yes', '--json', 'record'))} | head -1"
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert (done.stdout, done.stderr, done.returncode) == ("y\n", "", status.BROKEN_PIPE)
    record = json.loads(Path("record").read_text())
    assert (record["reason"], record["detail"]) == ("stopped", "standard output: Broken pipe")


def test_a_full_disk_ends_the_guest_and_is_told() -> None:
    with open("/dev/full", "w") as full:
        done = run("yes", stdout=full)
        assert done.returncode == status.HOST
        assert "standard output: No space left on device" in done.stderr
        assert run("say", stdout=full).returncode == status.HOST
        # The lost output may be noticed before the guest comes to its end.
        ends = [run("fail", stdout=full).returncode for _ in range(10)]
        assert 7 in ends
        assert set(ends) <= {7, status.HOST}


def test_standard_output_that_is_closed() -> None:
    def close() -> None:
        os.close(1)

    done = run("say", stdout=None, preexec_fn=close)
    assert done.returncode == status.HOST
    assert "standard output: Bad file descriptor" in done.stderr
    assert run("silent", "--timeout", "0.2", stdout=None, preexec_fn=close).returncode == 124


def test_the_log_has_what_the_terminal_has() -> None:
    done = run("say", "--log", "log")
    assert (done.returncode, done.stdout, Path("log").read_text()) == (0, "hi\n", "hi\n")
    done = run("say", "--log", "log", "--console", "none")
    assert (done.returncode, done.stdout, Path("log").read_text()) == (0, "", "hi\n")
    done = run("say", "--log", "log", "--console", "none", "-v")
    assert (done.stdout, done.stderr, Path("log").read_text()) == ("", "hi\n", "hi\n")


def test_the_log_may_be_a_pipe() -> None:
    os.mkfifo("pipe")
    done = run("say", "--log", "pipe")
    assert done.returncode == status.USAGE
    assert "nobody reads from that pipe" in done.stderr
    for console in ("serial", "none"):
        reader = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)
        assert run("say", "--log", "pipe", "--console", console).returncode == 0
        assert os.read(reader, 100) == b"hi\n"
        os.close(reader)


@pytest.mark.parametrize("console", ["serial", "none"])
def test_a_log_that_is_full_is_told(console: str) -> None:
    done = run("say", "--log", "/dev/full", "--console", console)
    assert done.returncode == status.HOST
    assert "--log /dev/full: No space left on device" in done.stderr
    assert done.stdout == ("hi\n" if console == "serial" else "")
    assert run("fail", "--log", "/dev/full", "--console", console).returncode == 7


@pytest.mark.parametrize(("kernel", "code"), [("say", status.HOST), ("fail", 7)])
def test_a_record_that_is_lost_is_told(kernel: str, code: int) -> None:
    done = run(kernel, "--json", "/dev/full")
    assert (done.returncode, done.stdout) == (code, "hi\n")
    assert "the record was not written" in done.stderr
    assert "No space left on device" in done.stderr


def test_the_record_and_the_output_may_share_a_pipe() -> None:
    done = run("say", "--json", "-")
    assert done.stdout.startswith("hi\n{")
    assert json.loads(done.stdout[3:])["reason"] == "poweroff"
    done = run("say", "--json", "/dev/stdout")
    assert json.loads(done.stdout[3:])["reason"] == "poweroff"


def test_the_log_may_be_standard_output() -> None:
    with open("out", "w+") as out:
        out.write("before\n")
        out.flush()
        assert run("say", "--log", "/dev/stdout", "--console", "none", stdout=out).returncode == 0
    assert Path("out").read_text() == "before\nhi\n"


def test_a_restart_after_a_panic_is_no_success() -> None:
    """As a kernel without a driver for pvpanic ends, by panic=-1."""
    done = run("panic", "--json", "record")
    assert done.returncode == status.GUEST_PANIC
    assert "the guest ended by panic. Kernel panic - not syncing: no root" in done.stderr
    record = json.loads(Path("record").read_text())
    assert (record["reason"], record["ok"]) == ("panic", False)
    assert record["detail"] == "Kernel panic - not syncing: no root"
    assert run("panic", "--console", "none").returncode == status.GUEST_PANIC
    done = run("flood", "--console", "none")
    assert done.returncode == status.GUEST_PANIC
    assert max(map(len, done.stderr.splitlines())) < 1100
    assert "letters] xxxx" in done.stderr
    assert run("reset").returncode == status.OK


#: The status of a run that a signal ended.
ENDED = {
    signal.SIGTERM: status.STOPPED,
    signal.SIGHUP: status.HUNG_UP,
    signal.SIGINT: status.INTERRUPTED,
}


@pytest.mark.parametrize("number", ENDED)
def test_signals_end_the_guest_in_order(number: signal.Signals) -> None:
    with subprocess.Popen(words("yes", "--json", "record"), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(2)
        process.send_signal(number)
        process.stdout.read()
        assert process.wait(SECONDS) == ENDED[number]
    record = json.loads(Path("record").read_text())
    assert record["reason"] == "stopped"
    assert (record["detail"] == "ctrl-c") == (number == signal.SIGINT)


def test_a_terminal_that_hangs_up_ends_the_guest() -> None:
    """With no SIGHUP: it is not the controlling terminal."""
    ours, theirs = os.openpty()
    with subprocess.Popen(
        words("yes", "--json", "record"), stdin=theirs, stdout=theirs, stderr=subprocess.PIPE
    ) as process:
        os.close(theirs)
        assert os.read(ours, 1) == b"y"
        os.close(ours)
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert process.wait(SECONDS) == status.HUNG_UP
    assert json.loads(Path("record").read_text())["reason"] == "stopped"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_before_the_start_leaves_no_file(number: signal.Signals) -> None:
    """It comes while the kernel is loaded, when the log is open already."""
    code = (
        "import os, signal, sys; from pyvmm.vm import VM; from pyvmm.cli import main\n"
        "VM.load = lambda vm: (os.path.exists('new') and os.kill(os.getpid(), int(sys.argv[1])), 1 / 0)\n"
        "sys.argv[1:] = ['run', '-k', 'say', '--flat', 'protected', '-m', '2M', '--log', 'new']\n"
        "main.entry()"
    )
    code = code.replace("int(sys.argv[1])", str(int(number)))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (ENDED[number], "")
    assert not Path("new").exists()


def test_a_run_that_is_stopped_and_continued_goes_on() -> None:
    # A group of its own: SIGTSTP stops none whose parents are of another session, as on a build machine.
    with subprocess.Popen(words("yes"), stdout=subprocess.PIPE, process_group=0) as process:
        assert process.stdout is not None
        process.stdout.read(2)
        process.send_signal(signal.SIGTSTP)
        until(lambda: Path(f"/proc/{process.pid}/stat").read_text().split(") ")[1][0] == "T")
        process.send_signal(signal.SIGCONT)
        assert len(process.stdout.read(200_000)) == 200_000
        process.terminate()
        process.stdout.read()
        assert process.wait(SECONDS) == status.STOPPED
