# SPDX-License-Identifier: Apache-2.0
"""A Dask cluster on two machines that are network namespaces of this one, joined by a veth pair.

A namespace has no name: it lives as long as the process that sleeps in it, and its interfaces with it. Without
privileges it is made in a user namespace.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from tests.support.tree import ROOT

PATIENCE = 120
#: The address of each machine; the scheduler is on the first one.
HOSTS = ("10.77.0.1", "10.77.0.2")
SCHEDULER = f"tcp://{HOSTS[0]}:8786"
WORKERS = tuple(f"tcp://{host}:9001" for host in HOSTS)
WAIT = """
import sys, distributed
with distributed.Client(sys.argv[1], timeout=60) as client:
    client.wait_for_workers(int(sys.argv[2]), timeout=60)
"""


def wait_until(true: Any, what: str) -> None:
    """Looks again and again."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def ended(process: subprocess.Popen[Any]) -> None:
    """Ends one of ours."""
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def privileged() -> bool:
    """Whether a network namespace can be made without a user namespace."""
    return (
        subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False).returncode
        == 0
    )


class Space:
    """A network namespace."""

    def __init__(self, inside: Space | None = None) -> None:
        """`inside`: the user namespace of that one."""
        self._user = not privileged() if inside is None else inside._user
        new = ["--user", "--map-root-user"] if self._user and inside is None else []
        command = ["unshare", *new, "--net", "sleep", "infinity"]
        self._sleeper = subprocess.Popen(inside.command(command) if inside else command)
        wait_until(self._is_there, "no network namespace; as root, or with user namespaces allowed")

    def _is_there(self) -> bool:
        assert self._sleeper.poll() is None, (
            "unshare --net failed; it wants root, or user namespaces that are allowed"
        )
        return Path(f"/proc/{self.pid}/comm").read_text().strip() == "sleep"

    @property
    def pid(self) -> int:
        return self._sleeper.pid

    def command(self, words: list[str]) -> list[str]:
        """These words, to be run in the namespace; the process stays the one that was started."""
        user = ["--user", "--preserve-credentials"] if self._user else []
        return ["nsenter", "--target", str(self.pid), *user, "--net", *words]

    def run(self, *words: str) -> None:
        subprocess.run(self.command(list(words)), check=True)

    def close(self) -> None:
        ended(self._sleeper)


class Cluster:
    """The scheduler, and a worker on each of the two machines; a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spaces = [Space()]
        self.processes: dict[str, subprocess.Popen[Any]] = {}
        try:
            self.spaces.append(Space(self.spaces[0]))
            self._join()
            self.begin("scheduler", 0, "scheduler", "--host", HOSTS[0], "--port", "8786")
            for at, address in enumerate(WORKERS):
                self.worker(address, at)
            self.wait_for(len(WORKERS))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _join(self) -> None:
        left, right = self.spaces
        left.run(
            "ip",
            "link",
            "add",
            "cable",
            "type",
            "veth",
            "peer",
            "name",
            "cable",
            "netns",
            str(right.pid),
        )
        for space, host in zip(self.spaces, HOSTS, strict=True):
            space.run("ip", "address", "add", f"{host}/24", "dev", "cable")
            for device in ("lo", "cable"):
                space.run("ip", "link", "set", device, "up")

    def environment(self, tree: Path) -> dict[str, str]:
        """Of a process that uses a source tree, with a folder of its own for temporary files."""
        return {**os.environ, "PYTHONPATH": str(tree), "TMPDIR": str(self.folder)}

    def begin(self, name: str, at: int, program: str, *options: str, tree: Path = ROOT) -> None:
        """Starts one of Dask's programs on a machine."""
        command = [
            sys.executable,
            "-m",
            f"distributed.cli.dask_{program}",
            "--no-dashboard",
            *options,
        ]
        with (self.folder / f"{name.rpartition('/')[2]}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                self.spaces[at].command(command),
                cwd=tree, env=self.environment(tree), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def worker(self, address: str, at: int, tree: Path = ROOT) -> None:
        """Starts a worker at an address of a machine."""
        host, _, port = address.removeprefix("tcp://").partition(":")
        options = ["--host", host, "--worker-port", port, "--nthreads", "1", "--no-nanny"]
        self.begin(address, at, "worker", SCHEDULER, *options, tree=tree)

    def wait_for(self, workers: int) -> None:
        """Until so many are there."""
        self.spaces[0].run(sys.executable, "-c", WAIT, SCHEDULER, str(workers))

    def client(self, *words: str) -> subprocess.Popen[str]:
        """A `pyvmm bench` that uses the cluster; its output can be read."""
        command = [sys.executable, "-u", "-m", "pyvmm", "bench", *words, "--scheduler", SCHEDULER]
        return subprocess.Popen(
            self.spaces[0].command(command),
            cwd=ROOT, env=self.environment(ROOT), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def below(self, address: str) -> list[psutil.Process]:
        """The processes of the cells of a worker."""
        return psutil.Process(self.processes[address].pid).children(recursive=True)

    def measuring(self) -> str:
        """The worker below which a suite runs now, when one does."""
        found: list[str] = []

        def look() -> bool:
            for address in WORKERS:
                commands = [process.cmdline() for process in self.below(address)]
                found.extend([address] * any("exits" in command for command in commands))
            return bool(found)

        wait_until(look, "no suite runs on either machine")
        return found[0]

    def stop(self, name: str) -> None:
        """Ends a process of the cluster."""
        ended(self.processes.pop(name))

    def close(self) -> None:
        for name in reversed(list(self.processes)):
            self.stop(name)
        for space in reversed(self.spaces):
            space.close()
