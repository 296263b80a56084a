# SPDX-License-Identifier: Apache-2.0
"""Sweeps of a suite of bare guests: here, and on a Dask cluster of two machines that are network namespaces."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.cluster import PATIENCE, ROOT, WORKERS, Cluster, wait_until

pytestmark = pytest.mark.rest

CELLS = ["exits-exits=10000", "exits-exits=5000"]
SWEEP = ("exits", "--sweep", "exits=5000,10000", "--rounds", "2")
#: Work enough to be interrupted in.
LONG = ("exits", "--sweep", "exits=20000,5000", "--rounds", "3")
LONG_CELLS = ["exits-exits=20000", "exits-exits=5000"]

Row = tuple[str, str, str, int]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster")) as made:
        yield made


def here(out: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pyvmm", "bench", *words, "--out", str(out)]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False
    )


def records(folder: Path) -> dict[str, dict[str, Any]]:
    """By the cells' names."""
    found = [json.loads(path.read_text()) for path in folder.glob("exits*.json")]
    return {one["cell"]["name"]: one for one in found}


def rows(folder: Path) -> list[Row]:
    """Cell, subject, figure, and how many samples there are."""
    return sorted(
        (name, subject, figure, len(values))
        for name, one in records(folder).items()
        for subject, figures in one["samples"].items()
        for figure, values in figures.items()
    )


def test_a_cluster_gives_the_rows_that_one_machine_gives(cluster: Cluster, tmp_path: Path) -> None:
    alone = here(tmp_path / "here", *SWEEP)
    assert alone.returncode == 0, alone.stdout + alone.stderr
    with cluster.client(*SWEEP, "--out", str(tmp_path / "there")) as client:
        said, _ = client.communicate(timeout=600)
    assert client.returncode == 0, said
    assert sorted(records(tmp_path / "here")) == CELLS
    assert rows(tmp_path / "here") == rows(tmp_path / "there")
    assert {name for name, _, _, _ in rows(tmp_path / "there")} == set(CELLS)
    workers = {name: one["cell"]["worker"] for name, one in records(tmp_path / "there").items()}
    assert set(workers.values()) == set(WORKERS)
    text = (tmp_path / "there" / "summary.md").read_text()
    for name, worker in workers.items():
        assert text.count(f"| {name} |") == 1
        assert f"| {worker} | 1 |" in text
    for folder in ("here", "there"):
        names = {path.name for path in (tmp_path / folder).iterdir()}
        assert {"report.html", "summary.md", "sweep-exits-1.png", f"{CELLS[0]}.txt"} <= names


def test_a_worker_that_is_killed_costs_a_try(cluster: Cluster, tmp_path: Path) -> None:
    with cluster.client(*LONG, "--out", str(tmp_path)) as client:
        killed = cluster.measuring()
        processes = cluster.below(killed)
        cluster.processes[killed].kill()
        said, _ = client.communicate(timeout=600)
    wait_until(lambda: not any(map(alive, processes)), f"{processes} outlived their worker")
    cluster.stop(killed)
    cluster.worker(killed, WORKERS.index(killed))
    cluster.wait_for(len(WORKERS))
    assert client.returncode == 0, said
    assert said.count("lost its worker") == 1
    found = records(tmp_path)
    assert sorted(found) == LONG_CELLS
    assert {one["cell"]["worker"] for one in found.values()} == set(WORKERS) - {killed}
    assert sorted(one["cell"]["tries"] for one in found.values()) == [1, 2]
    assert not list(cluster.folder.glob("pyvmm-cell-*"))


def alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def test_ctrl_c_leaves_no_process(cluster: Cluster, tmp_path: Path) -> None:
    with cluster.client(*LONG, "--out", str(tmp_path)) as client:
        processes = cluster.below(cluster.measuring())
        assert processes
        client.send_signal(signal.SIGINT)
        said, _ = client.communicate(timeout=PATIENCE)
    assert client.returncode == 130, said
    assert not any(map(alive, processes))
    assert not [process for address in WORKERS for process in cluster.below(address)]
    assert not list(cluster.folder.glob("pyvmm-cell-*"))
    assert records(tmp_path) == {}


def test_a_worker_with_other_code_gets_nothing(cluster: Cluster, tmp_path: Path) -> None:
    tree, out = tmp_path / "tree", tmp_path / "out"
    for folder in ("pyvmm", "bench"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("out", "build"))
    with (tree / "bench" / "suites" / "exits.py").open("a") as file:
        file.write("# another one\n")
    other = WORKERS[0].replace(":9001", ":9000")  # it would come first
    cluster.worker(other, 0, tree)
    try:
        cluster.wait_for(len(WORKERS) + 1)
        with cluster.client("exits", "--rounds", "2", "--out", str(out)) as client:
            said, _ = client.communicate(timeout=600)
    finally:
        cluster.stop(other)
    assert client.returncode == 0, said
    assert said.count(f"worker {other} is refused: it") == 1
    (found,) = records(out).values()
    assert (found["cell"]["name"], found["cell"]["worker"]) == ("exits", WORKERS[0])


def test_a_cell_that_fails_is_named_and_the_others_are_there(tmp_path: Path) -> None:
    done = here(tmp_path, "exits", "--sweep", "exits=1,5000", "--rounds", "2")
    assert done.returncode == 1
    assert "bench: exits-exits=1 failed on" in done.stderr
    assert "ZeroDivisionError" in done.stderr
    assert list(records(tmp_path)) == ["exits-exits=5000"]
    assert "ZeroDivisionError" in (tmp_path / "exits-exits=1.txt").read_text()
    assert "| exits-exits=1 | failed on" in (tmp_path / "summary.md").read_text()


def test_a_cell_that_takes_too_long_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # in the words of every process of the cell
    words = ("exits", "--sweep", "exits=2000000", "--rounds", "50", "--cell-timeout", "1")
    done = here(tmp_path / "out", *words)
    assert done.returncode == 1
    assert "bench: exits-exits=2000000 did not end within 1 s" in done.stderr
    commands = [
        " ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])
    ]
    assert [command for command in commands if str(tmp_path) in command] == []
