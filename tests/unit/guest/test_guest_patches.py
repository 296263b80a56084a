# SPDX-License-Identifier: Apache-2.0
"""The guest driver's patches by their text: all files listed, numbered, signed, in the form of git's own."""

from __future__ import annotations

import hashlib
import re
import subprocess
from pathlib import Path

import pytest

from pyvmm.cli.main import main
from pyvmm.errors import ConfigError
from pyvmm.guest import cache, series
from pyvmm.launch import status
from tests.support.fake_apt import GOOD_PATCH, add_file, add_patch, patch_tree
from tests.support.tree import ROOT

TREE = ROOT / "guest-linux-patch"
NUMBERED = re.compile(r"(\d{4})-[\w.-]+\.patch")


def patches(linux: str) -> dict[str, str]:
    """The series of a version: names and texts, in order."""
    return {patch.name: patch.text.decode() for patch in series.read(linux)}


@pytest.fixture(params=cache.versions(str(TREE)))
def linux(request: pytest.FixtureRequest) -> str:
    version: str = request.param
    return version


def test_every_file_is_part_of_a_patch() -> None:
    parts = cache.series(str(TREE))
    assert {part.name for part in parts} == {path.stem for path in TREE.glob("messages/*")}
    assert {part.name for part in parts} >= {path.stem for path in TREE.glob("hooks-*/*.patch")}
    there = {str(path.relative_to(TREE)) for path in TREE.glob("driver/**/*") if path.is_file()}
    listed = [cache.driver_file(path) for part in parts for path in part.files]
    assert sorted(listed) == sorted([*there, cache.HEADER_HERE])
    assert {path.name for path in TREE.glob("hooks-*")} == {
        cache.hook_folder(version) for version in cache.versions(str(TREE))
    }


def test_every_patch_is_numbered(linux: str) -> None:
    names = list(patches(linux))
    matches = [NUMBERED.fullmatch(name) for name in names]
    assert [int(match[1]) for match in matches if match] == list(range(1, len(names) + 1))


def test_every_patch_has_a_message_and_a_signature(linux: str) -> None:
    texts = patches(linux)
    for number, text in enumerate(texts.values(), 1):
        head, _, _ = text.partition("\n---\n")
        place = f"{number:0{len(str(len(texts)))}}/{len(texts)}"
        assert re.search(rf"^Subject: \[PATCH {place}\] \w[\w/]*: ", head, re.M)
        author = re.search(r"^From: (.*(?:\n .*)*)", head.partition("\n")[2], re.M)
        assert author
        signed = " ".join(author[1].split())
        assert head.rstrip().endswith(f"\nSigned-off-by: {signed}")
        message = head.partition("\n\n")[2]
        assert len(message.splitlines()) > 3
        assert max(map(len, message.splitlines()[:-1])) <= 75


def test_hooks_change_what_is_there(linux: str) -> None:
    """What is new is the driver's, and the same for each version."""
    for path in (TREE / cache.hook_folder(linux)).glob("*.patch"):
        text = path.read_text()
        assert "/dev/null" not in text, path
        assert text.count("\ndiff --git ") + 1 == text.count("\nindex ")


def test_a_file_is_created_as_git_says_it(tmp_path: Path) -> None:
    """With the hash that git gives its content, and a diffstat."""
    path = "drivers/virt/symbiotic/core.c"
    (text,) = (text for text in patches("6.12").values() if f"+++ b/{path}\n" in text)
    data = (TREE / "driver" / path).read_bytes()
    blob = subprocess.check_output(["git", "hash-object", "--stdin"], input=data, text=False)
    count = data.count(b"\n")
    assert f"\nindex 000000000000..{blob.decode()[:12]}\n--- /dev/null\n+++ b/{path}\n" in text
    assert f"+++ b/{path}\n@@ -0,0 +1,{count} @@\n+// SPDX" in text
    assert re.search(rf"^ {path} +\| +{count} \++$", text, re.M)
    assert f"\n create mode 100644 {path}\n" in text
    total = re.search(r"^ (\d+) files changed, (\d+) insertions\(\+\)$", text, re.M)
    assert total
    assert int(total[1]) == text.count("\ndiff --git ")
    assert int(total[2]) == len(re.findall(r"^\+(?!\+\+ )", text, re.M))


def test_debug_guest_has_the_driver_too() -> None:
    text = (TREE / "config" / "base.config").read_text()
    assert "\nCONFIG_SYMBIOTIC=y\n" in text


# Patches of other trees.


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = patch_tree(tmp_path / "patches")
    monkeypatch.setenv("PYVMM_GUEST_PATCH", str(folder))
    return folder


def test_a_patch_in_full(tree: Path) -> None:
    add_patch(tree, "first", GOOD_PATCH)
    add_file(tree, "drivers/some.c", "int some;\n")
    blob = hashlib.sha1(b"blob 10\0int some;\n").hexdigest()[:12]
    (patch,) = series.read("6.12")
    assert patch.name == "0001-test-The-patch-first.patch"
    assert patch.text.decode() == (
        "From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001\n"
        "From: Some One <some.one@localhost>\n"
        "Date: Mon, 23 Nov 2026 02:00:00 +0000\n"
        "Subject: [PATCH 1/1] test: The patch first\n"
        "\n"
        "Why.\n"
        "\n"
        "Signed-off-by: Some One <some.one@localhost>\n"
        "---\n"
        " drivers/some.c | 1 +\n"
        " greeting       | 2 +-\n"
        " 2 files changed, 2 insertions(+), 1 deletion(-)\n"
        " create mode 100644 drivers/some.c\n"
        "\n"
        "diff --git a/drivers/some.c b/drivers/some.c\n"
        "new file mode 100644\n"
        f"index 000000000000..{blob}\n"
        "--- /dev/null\n"
        "+++ b/drivers/some.c\n"
        "@@ -0,0 +1 @@\n"
        "+int some;\n"
        f"{GOOD_PATCH}"
    )


def test_a_version_without_hooks_has_no_patches(tree: Path) -> None:
    add_patch(tree, "first", GOOD_PATCH)
    assert series.read("6.1") == []
    assert cache.series_files(str(tree), "6.1") == []


def test_what_is_no_patch_is_named(tree: Path) -> None:
    add_patch(tree, "first", "--- a/greeting\n+++ b/greeting\n")
    with pytest.raises(ConfigError, match=r"hooks-6\.12/first\.patch is no patch"):
        series.read("6.12")
    (tree / "messages" / "first.txt").write_text("From: me\nSubject: none\n\nWhy.\n")
    with pytest.raises(ConfigError, match=r"messages/first\.txt has no line 'Date'"):
        series.read("6.12")


def test_the_command_writes_them(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_patch(tree, "first", GOOD_PATCH)
    add_patch(tree, "second", GOOD_PATCH)
    target = tmp_path / "some" / "where"
    for _ in range(2):  # its own files may be there
        assert main(["guest", "series", "--linux", "6.12", str(target)]) == 0
        written = capsys.readouterr().out.splitlines()
        assert written == [str(path) for path in sorted(target.iterdir())]
        assert [Path(path).read_bytes() for path in written] == [
            patch.text for patch in series.read("6.12")
        ]
    (target / "0001-other.patch").touch()
    assert main(["guest", "series", str(target)]) == status.USAGE
    assert "0001-other.patch in it; name a folder that is empty" in capsys.readouterr().err
    assert main(["guest", "series", "--linux", "5.10", str(target)]) == status.USAGE
    assert "no patches for Linux 5.10; there are some for 6.12" in capsys.readouterr().err
