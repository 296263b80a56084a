# SPDX-License-Identifier: Apache-2.0
"""Records of benchmarks, the page that is made of them, and the command that runs suites."""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pyvmm
from bench import command, run, suites
from bench.loads import build
from bench.report import page, record, results
from bench.report.aims import Aim, verdicts
from bench.suites import footprint, net
from pyvmm.cli import bench as bench_command
from pyvmm.cli import main as cli
from pyvmm.errors import ConfigError

SAMPLES = {
    "QEMU": {"read, a MiB": [2e-3, 2.1e-3, 2.2e-3, 1.9e-3, 2e-3], "trip": [5e-3]},
    "<ours>": {"read, a MiB": [1e-3, 1.1e-3, 1.2e-3, 0.9e-3, 1e-3]},
    "far": {"read, a MiB": [1.0]},
}


def written(folder: Path, name: str = "disk", **more: Any) -> Path:
    judged = verdicts([Aim("<ours>", "read, a MiB", "QEMU", 0.6)], SAMPLES)
    more = {"base": "QEMU", "scale": 1e3, "unit": "ms", "notes": "less is better & so on", **more}
    path = folder / f"{name}.json"
    record.write(str(path), name, SAMPLES, judged=judged, **more)
    return path


def test_a_record_is_read_back(tmp_path: Path) -> None:
    found = record.load(written(tmp_path, work=3))
    assert (found["suite"], found["schema"], found["work"]) == ("disk", record.SCHEMA, 3)
    assert found["samples"] == SAMPLES
    assert found["machine"]["cpus"] >= 1
    (aim,) = found["aims"]
    assert (aim["word"], aim["aim"]) == ("met", "read, a MiB: <ours> / QEMU")
    assert aim["ratio"] == pytest.approx(0.5)


def test_rows_compare_with_the_base(tmp_path: Path) -> None:
    rows = results.rows(record.load(written(tmp_path)))
    assert [(row.figure, row.subject) for row in rows] == [
        ("read, a MiB", "QEMU"),
        ("read, a MiB", "<ours>"),
        ("read, a MiB", "far"),
        ("trip", "QEMU"),
    ]
    base, ours = rows[:2]
    assert base.ratio is None
    assert base.chance is None
    assert (ours.n, ours.median, ours.chance) == (5, 1.0, 2 / 252)
    assert ours.ratio is not None
    assert ours.ratio[0] == 0.5
    assert results.chance_text(ours) == "0.008"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.00123, "0.00123"), (0.0512, "0.0512"), (0.5, "0.500"), (12.345, "12.35"), (123.4, "123.4"), (98765.4, "98765")],
)  # fmt: skip
def test_numbers_have_the_digits_that_count(value: float, text: str) -> None:
    assert results.number(value) == text


def test_the_page_needs_no_other_file(tmp_path: Path) -> None:
    written(tmp_path)
    written(tmp_path, "net")
    (tmp_path / "other.json").write_text('{"suite": "torture"}')
    (tmp_path / "broken.json").write_text("{")
    text = page.write(tmp_path).read_text()
    assert text.count("<h2>") == 2
    assert "&lt;ours&gt;" in text
    assert "<ours>" not in text
    assert "less is better &amp; so on" in text
    assert text.count("data:image/png;base64,") == 2
    assert "http" not in text
    assert '<td class="met">met</td>' in text
    text = (tmp_path / "summary.md").read_text()
    assert "| read, a MiB: <ours> / QEMU | 0.6 | 0.500 |" in text
    assert "| trip | QEMU | 5.00 |" in text


def test_a_curve_is_drawn(tmp_path: Path) -> None:
    written(tmp_path, "curve", x={"read, a MiB": 1.0, "trip": 2.0}, x_label="memory")
    page.write(tmp_path)
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no record"):
        page.write(tmp_path)


@pytest.mark.parametrize(
    ("machine", "words"),
    [
        ({"lab": "svm", "kvm": "kvm_amd"}, ["an emulator makes"]),
        ({"lab": "svm-icount", "kvm": "kvm_amd"}, ["an emulator makes", "counted in instructions"]),
        ({"lab": "", "kvm": "kvm_amd"}, []),
        ({"lab": "", "kvm": "kvm_other"}, ["in software"]),
    ],
)
def test_what_the_machine_can_tell_is_said(machine: dict[str, Any], words: list[str]) -> None:
    text = page.caution(machine)
    assert all(word in text for word in words)
    assert bool(text) == bool(words)


# The command


def test_suites_are_listed_and_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in suites.every())
    assert command.chosen(["swap", "exits"], list(suites.every())) == ["exits", "swap"]
    assert command.chosen(["all"], list(suites.every())) == list(suites.every())
    with pytest.raises(ConfigError, match="no suite disc; there are exits"):
        command.chosen(["disc"], list(suites.every()))


def test_every_suite_can_be_run_alone() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--help"], capture_output=True, text=True, check=True
    )
    assert all(name in done.stdout for name in suites.every())


def test_without_the_source_tree_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pyvmm, "__file__", str(tmp_path / "pyvmm" / "__init__.py"))
    with pytest.raises(ConfigError, match="source tree"):
        bench_command.enter_source_tree()


def options(**given: Any) -> argparse.Namespace:
    usual = {"quick": False, "rounds": None, "budget": None, "linux": "6.12"}
    return argparse.Namespace(**{**usual, **given})


def test_options_reach_the_suite(tmp_path: Path) -> None:
    words = run.command(options(quick=True, budget=2.5), "swap", tmp_path)[3:]
    assert words == [
        *("swap", "--json", str(tmp_path / "swap.json"), "--quick"),
        *("--budget", "2.5", "--linux", "6.12"),
    ]
    assert run.command(options(rounds=3), "exits", tmp_path)[-2:] == ["--rounds", "3"]


def test_two_runs_are_compared(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for folder in (old, new):
        folder.mkdir()
        written(folder)
    assert command.report(new, old) == 0
    slow = {name: dict(found) for name, found in SAMPLES.items()}
    slow["<ours>"]["read, a MiB"] = [value * 3 for value in SAMPLES["<ours>"]["read, a MiB"]]
    record.write(
        str(new / "disk.json"), "disk", slow, base="QEMU", scale=1e3, unit="ms", judged=None
    )
    assert command.report(new, old) == 1
    assert b"worse" in capfdbinary.readouterr().out
    with pytest.raises(ConfigError, match="no record of a suite"):
        command.report(new, tmp_path)


def test_output_is_shown_and_kept(tmp_path: Path, capfdbinary: Any) -> None:
    with (tmp_path / "text").open("wb") as file:
        run.Tee(file).write(b"a line\n")
    assert (tmp_path / "text").read_bytes() == b"a line\n"
    assert capfdbinary.readouterr().out == b"a line\n"


# What suites read


def test_memory_beyond_the_guests_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        "7f0000000000-7f0008000000 rw-p 00000000 00:00 0 \nSize: 131072 kB\nPss: 9000 kB\n"
        "7f0010000000-7f0018000000 r--p 00000000 08:01 7 /usr/lib/locale\nPss:  512 kB\nPss_Anon: 7 kB\n"
        "55d000000000-55d000001000 rw-p 00000000 00:00 0 [heap]\nPss: 1536 kB\n"
    )
    monkeypatch.setattr(Path, "read_text", lambda path: text)
    assert footprint.beyond_the_guests(1) == 2.0


def test_what_the_network_load_says() -> None:
    found = net.figures("boot\n@@to-host 2.0 2097152\n@@from-host 1.0 1048576\n@@trip 5.0 1000\n")
    assert found == {net.TO: 1.0, net.FROM: 1.0, net.TRIP: 0.005}
    with pytest.raises(RuntimeError, match="Killed"):
        net.figures("@@trip 5.0 1000\nKilled\n")


def test_the_network_load_over_loopback(tmp_path: Path) -> None:
    program = build.compiled(str(tmp_path), "netload", "-static")
    with socket.create_server(("127.0.0.1", 0)) as free:
        place = ["127.0.0.1", str(free.getsockname()[1])]
    host = subprocess.Popen([program, "-s", *place])
    try:
        done = subprocess.run(
            [program, *place],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert host.wait(10) == 0
    finally:
        host.kill()
    assert set(net.figures(done.stdout)) == {net.TO, net.FROM, net.TRIP}
