# SPDX-License-Identifier: Apache-2.0
"""Machines that others set up: the Vagrantfile, the provisioning script, the CI files; and that the README agrees."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.tree import ROOT

SCRIPTS = (
    ".ci/setup",
    ".ci/provision",
    ".ci/run",
    ".ci/nightly",
    ".ci/root",
    ".ci/pythons",
    ".ci/dkms",
)


def text(name: str) -> str:
    return (ROOT / name).read_text()


def strings(value: Any) -> list[str]:
    """All that is text in what YAML made."""
    if isinstance(value, dict):
        return [each for pair in value.items() for part in pair for each in strings(part)]
    if isinstance(value, list):
        return [each for part in value for each in strings(part)]
    return [value] if isinstance(value, str) else []


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_can_be_run(name: str) -> None:
    assert os.access(ROOT / name, os.X_OK)
    shell = "bash" if "bash" in text(name).splitlines()[0] else "sh"
    subprocess.run([shell, "-n", ROOT / name], check=True)


def is_to_be_had(package: str) -> bool:
    """Whether this release of Debian has it; of another system nothing is known, and it must be there."""
    if shutil.which("apt-cache") is None:
        return True
    said = subprocess.run(
        ["apt-cache", "policy", package], capture_output=True, text=True, check=True
    )
    return re.search(r"Candidate: [^(]", said.stdout) is not None


def test_vagrantfile_is_valid(tmp_path: Path) -> None:
    if shutil.which("vagrant") is None and not is_to_be_had("vagrant"):
        pytest.skip("this release of Debian has no vagrant")
    (tmp_path / ".ci").mkdir()
    for name in ("Vagrantfile", ".ci/provision"):
        shutil.copy(ROOT / name, tmp_path / name)
    done = subprocess.run(
        ["vagrant", "validate", "--ignore-provider"],
        cwd=tmp_path, env=os.environ | {"VAGRANT_HOME": str(tmp_path / "home")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_vagrant_provisions_by_the_script() -> None:
    found = re.search(
        r'config\.vm\.provision :shell, path: "([^"]+)", args: \[FOLDER, "vagrant"\]',
        text("Vagrantfile"),
    )
    assert found
    assert found[1] == ".ci/provision"


@pytest.mark.parametrize(
    "switch", ["machine.nested = true", '"--nested-hw-virt", "on"', '"vhv.enable"] = "TRUE"']
)
def test_every_provider_nests(switch: str) -> None:
    assert switch in text("Vagrantfile")


@pytest.mark.parametrize("name", [".github/workflows/ci.yml", ".gitlab-ci.yml"])
def test_ci_calls_the_scripts(name: str) -> None:
    said = strings(yaml.safe_load(text(name)))
    for command in (".ci/run", ".ci/run rest"):
        assert any(line == command or f'"{command}"' in line for line in said)
    assert any(".ci/nightly" in line for line in said)
    assert any("/dev/kvm" in line for line in said)
    assert any("PYVMM_ARTEFACTS" in line for line in said)


STEP = re.compile(r"^\s*step (?:\")?(\w+)", re.MULTILINE)


@pytest.mark.parametrize("name", [".github/workflows/ci.yml", ".gitlab-ci.yml"])
def test_ci_runs_every_step_of_the_night(name: str) -> None:
    said = strings(yaml.safe_load(text(name)))
    steps = set(STEP.findall(text(".ci/nightly")))
    assert {"release", "pythons", "dkms", "torture"} <= steps
    for step in steps:
        assert any(re.search(rf"\b{step}\b", line) for line in said), step


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("README.md", "On a fresh Debian 13 machine"),
        ("Vagrantfile", 'ENV.fetch("PYVMM_BOX", "debian/trixie64")'),
        (".github/workflows/ci.yml", "release: [trixie, bookworm]"),
        (".gitlab-ci.yml", "RELEASE: [trixie, bookworm]"),
        (".ci/nightly", "for release in trixie bookworm; do"),
    ],
)
def test_debian_13_comes_first(name: str, first: str) -> None:
    assert first in text(name)


def test_a_root_is_of_a_release() -> None:
    for words in (["trixie"], ["../x", "true"], []):
        done = subprocess.run(
            [ROOT / ".ci/root", *words], capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        assert "usage" in done.stderr or "no release of Debian" in done.stderr


def test_pythons_are_new_enough(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\n")
    old.chmod(0o755)
    done = subprocess.run([ROOT / ".ci/pythons", old], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, f"pythons: {old} is no Python 3.11 or newer\n")


def test_the_readme_agrees() -> None:
    """What it says to do on another machine is what the script does."""
    readme = text("README.md")
    for word in ("vagrant up", ".ci/provision", "PYVMM_BOX"):
        assert word in readme
    assert "PYVMM_BOX" in text("Vagrantfile")
    for what in ("packages", "modprobe", "kvm", "make"):
        assert what in text(".ci/provision")


def test_provisioning_says_what_it_wants() -> None:
    folder = subprocess.run(
        [ROOT / ".ci/provision", "/nowhere"], capture_output=True, text=True, check=False
    )
    assert folder.returncode == 1
    assert "not the source tree" in folder.stderr or "run it as root" in folder.stderr


def test_packages_are_sorted_out() -> None:
    names = [line for line in text(".ci/packages").splitlines() if not line.startswith("#")]
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9+.-]+", name) for name in names)
