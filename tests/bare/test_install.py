# SPDX-License-Identifier: Apache-2.0
"""Builds an sdist and a wheel, installs each in an empty environment, and uses it in an empty folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import bare
from tests.support.tree import PROJECT, ROOT, clone

pytestmark = pytest.mark.rest
#: Of no user of the package: variables by which this environment would be found in the new one.
FOREIGN = ("PYTHONPATH", "VIRTUAL_ENV", "PYVMM_GUEST_PATCH")


def run(*words: str | Path, cwd: Path, status: int = 0) -> str:
    """Runs a command without anything of this environment; its output."""
    env = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    done = subprocess.run(
        words, cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module", params=["sdist", "wheel"])
def installed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that has that and what it requires."""
    folder = tmp_path_factory.mktemp(request.param)
    tree, made, environment = clone(folder / "tree"), folder / "made", folder / "environment"
    run(sys.executable, "setup.py", "-q", "sdist", "-d", made, cwd=tree)
    (package,) = made.iterdir()
    if request.param == "wheel":
        run(
            sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", made, package, cwd=folder
        )
        (package,) = made.glob("*.whl")
    run(sys.executable, "-m", "venv", environment, cwd=folder)
    run(environment / "bin/pip", "install", "-q", package, cwd=folder)
    (folder / "empty").mkdir()
    return environment / "bin"


def test_it_is_what_was_installed(installed: Path) -> None:
    empty = installed.parents[1] / "empty"
    code = "import pyvmm, importlib.metadata as m; print(pyvmm.__file__, m.version({!r}))"
    path, version = run(installed / "python", "-c", code.format(PROJECT["name"]), cwd=empty).split()
    assert Path(path).is_relative_to(installed.parent)
    assert not Path(path).is_relative_to(ROOT)
    assert version == PROJECT["version"]


def test_a_bare_guest_runs(installed: Path, tmp_path: Path) -> None:
    """It reports 7, and powers off by ACPI."""
    code = "mov al, 7; out 0xf4, al; mov dx, 0x604; mov ax, 0x3400; out dx, ax; hlt"
    (tmp_path / "flat").write_bytes(bare.assemble(code))
    words = ["run", "-k", "flat", "--flat", "protected", "-m", "2M"]
    run(installed / "pyvmm", *words, cwd=tmp_path, status=7)


def test_it_can_build_guests(installed: Path, tmp_path: Path) -> None:
    said = run(installed / "pyvmm", "guest", "build", "--dry-run", "--linux", "6.1", cwd=tmp_path)
    assert "patches" in said
    programs = "from pyvmm.demo import swapload; print(swapload.program())"
    assert Path(run(installed / "python", "-c", programs, cwd=tmp_path).strip()).exists()


def test_guests_are_those_of_the_source_tree(installed: Path, tmp_path: Path) -> None:
    """The same files have the same key, so that nothing is built a second time."""
    words = ["-m", "pyvmm", "guest", "build", "--dry-run", "--json"]
    here = run(sys.executable, *words, cwd=ROOT)
    assert run(installed / "python", *words, cwd=tmp_path) == here


def test_a_lab_runs(installed: Path) -> None:
    empty = installed.parents[1] / "empty"
    assert run(installed / "pyvmm", "lab", "--", "echo", "hello", cwd=empty) == "hello\n"
