# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for apt and for a kernel source tree, for the tests of guest building."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.tree import ROOT

if TYPE_CHECKING:
    from collections.abc import Sequence

# Options such as "-o name=value" and "-q" may come first.
SKIP = """#!/bin/sh
all="$*"
state={state}
case $all in *suite-*/lists*)
  suite=${{all#*suite-}}
  [ ! -d "{state}/${{suite%%/*}}" ] || state={state}/${{suite%%/*}};;
esac
while :; do
  case $1 in
    -o|--format) shift 2;;
    -q) shift;;
    *) break;;
  esac
done
"""
CACHE_SCRIPT = """
[ "$1" = policy ] && cat "$state/$2.policy" 2>/dev/null
[ "$1" = pkgnames ] && ls "$state" | sed -n "s/^\\($2.*\\)[.]policy$/\\1/p"
[ "$1" = depends ] && shift && for package; do cat "$state/$package.depends" 2>/dev/null; done
exit 0
"""
GET_SCRIPT = """
case $1 in
  indextargets)
    cat "{state}/targets"
    exit;;
  update)
    echo "$all" >> "{state}/updates"
    [ ! -e "{state}/fail" ]
    exit $(($? * 100));;
esac
for last; do :; done
echo "$last" >> "{state}/downloads"
cp "$state/${{last%%=*}}.deb" . || exit 100
"""


class FakeApt:
    """`apt-cache` and `apt-get` on the path, answering from a folder."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.state = folder / "state"
        self.bin = folder / "bin"
        self.cache = cache
        self.state.mkdir(parents=True)
        self.bin.mkdir()
        for name, script in (("apt-cache", CACHE_SCRIPT), ("apt-get", GET_SCRIPT)):
            (self.bin / name).write_text((SKIP + script).format(state=self.state))
            (self.bin / name).chmod(0o755)

    def meta(self, package: str, depends: str) -> None:
        """A package that is known and depends on another."""
        (self.state / f"{package}.policy").write_text(f"{package}:\n  Candidate: 1:2.0-1\n")
        (self.state / f"{package}.depends").write_text(f"{package}\n  Depends: {depends}\n")

    def package(self, package: str, tree: Path) -> None:
        """A package that can be downloaded, with what is in ``tree``."""
        self.meta(package, "nothing")
        control = tree / "DEBIAN"
        control.mkdir(parents=True)
        (control / "control").write_text(
            f"Package: {package}\nVersion: 2.0-1\nArchitecture: amd64\n"
            "Maintainer: Nobody <nobody@localhost>\nDescription: test\n"
        )
        output = self.state / f"{package}.deb"
        command = ["dpkg-deb", "--root-owner-group", "-Znone", "-b", str(tree), str(output)]
        subprocess.run(command, check=True, capture_output=True)
        shutil.rmtree(tree)

    def split_kernel(self, release: str) -> None:
        """A kernel whose files are in packages of their own, as those of Linux 7.3 are."""
        modules = f"usr/lib/modules/{release}"
        parts = {
            "base": (f"{modules}/modules.builtin", f"{modules}/config"),
            "binary": (f"{modules}/vmlinuz",),
            "modules": (f"{modules}/kernel/some.ko",),
        }
        for part, paths in parts.items():
            tree = self.state / "tree"
            for path in paths:
                (tree / path).parent.mkdir(parents=True, exist_ok=True)
                (tree / path).write_text("")
            if part == "modules":
                object_file = tree / modules / "kernel" / "some.ko"
                subprocess.run(["gcc", "-c", "-x", "c", "/dev/null", "-o", object_file], check=True)
            self.package(f"linux-{part}-{release}", tree)
        image = f"linux-image-{release}"
        self.package(image, self.state / "tree")
        needed = "".join(f"  Depends: linux-{part}-{release}\n" for part in parts)
        (self.state / f"{image}.depends").write_text(f"{image}\n{needed}  Depends: dracut\n")

    def kernel(self, package: str, release: str, names: Sequence[str] = ("some",)) -> None:
        """A kernel package with a few empty modules."""
        tree = self.state / "tree"
        (tree / "boot").mkdir(parents=True)
        (tree / "boot" / f"vmlinuz-{release}").write_text("kernel")
        modules = tree / "lib" / "modules" / release
        (modules / "kernel").mkdir(parents=True)
        for name in names:
            module = modules / "kernel" / f"{name}.ko"
            subprocess.run(["gcc", "-c", "-x", "c", "/dev/null", "-o", module], check=True)
        (modules / "modules.order").write_text("")
        (modules / "modules.builtin").write_text("")
        self.package(package, tree)

    def older_release(self) -> Path:
        """From now on apt's packages are those of Debian bookworm, which runs no more here."""
        return self.move_to("bookworm")

    def move_to(self, suite: str) -> Path:
        """From now on apt's packages are those of a suite that is not among its sources."""
        folder = self.state / suite
        folder.mkdir()
        for path in [*self.state.glob("*.policy"), *self.state.glob("*.de*")]:
            path.rename(folder / path.name)
        return folder

    def forget(self) -> None:
        """From now on apt knows nothing."""
        for path in self.state.glob("*.policy"):
            path.unlink()

    def targets(self, text: str) -> None:
        """What `apt-get indextargets` says."""
        (self.state / "targets").write_text(text)

    def fail_updates(self) -> None:
        """From now on there is no network."""
        (self.state / "fail").touch()

    def updates(self) -> list[str]:
        """The arguments of each `apt-get update`."""
        path = self.state / "updates"
        return path.read_text().splitlines() if path.exists() else []

    def downloads(self) -> int:
        """How many downloads there were."""
        return len((self.state / "downloads").read_text().splitlines())


# Enough of a kernel's makefile: configuration keeps what Kconfig names, compilation writes the files.
MAKEFILE = """\
VERSION = 6
PATCHLEVEL = 12
SUBLEVEL = 7
EXTRAVERSION =

allnoconfig:
\t@grep -E '^CONFIG_' $(KCONFIG_ALLCONFIG) | grep -vxF -f no-such-option > $(O)/.config; true
olddefconfig:
\t@true
bzImage:
\t@echo "  CC      thing.o"
\t@test ! -e broken || {{ echo "thing.c:1: error: this is broken"; exit 2; }}
\tmkdir -p $(O)/arch/x86/boot
\tcat greeting > $(O)/arch/x86/boot/bzImage
\tcp {elf} $(O)/vmlinux
\ttouch $(O)/System.map $(O)/vmlinux.symvers
"""


def kernel_tree(folder: Path) -> Path:
    """A source tree that builds in an instant."""
    folder.mkdir(parents=True)
    elf = shutil.which("true")
    (folder / "Makefile").write_text(MAKEFILE.format(elf=elf))
    (folder / "Kconfig").write_text("")
    (folder / "no-such-option").write_text("CONFIG_GONE=y\n")
    (folder / "greeting").write_text("hello\n")
    return folder


def patch_tree(folder: Path) -> Path:
    """A guest-linux-patch directory: a short configuration, no patches, the real init."""
    (folder / "config").mkdir(parents=True)
    (folder / "config" / "base.config").write_text("# base\nCONFIG_ONE=y\n")
    (folder / "hooks-6.12").mkdir()
    (folder / "hooks-6.12" / "config").write_text("CONFIG_TWO=64\n# CONFIG_THREE is not set\n")
    real = ROOT / "guest-linux-patch" / "init"
    shutil.copytree(real, folder / "init")
    return folder


def add_patch(tree: Path, name: str, text: str) -> None:
    """Appends a patch that changes Linux 6.12 and creates nothing."""
    for folder, file, content in (
        ("messages", f"{name}.txt", MESSAGE.format(name=name)),
        ("hooks-6.12", f"{name}.patch", text),
    ):
        (tree / folder).mkdir(exist_ok=True)
        (tree / folder / file).write_text(content)
    with (tree / "series").open("a") as series:
        series.write(f"{name}  # why\n")


def add_file(tree: Path, path: str, text: str) -> None:
    """Has the last patch of the series create a file of the driver."""
    place = tree / "driver" / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text)
    with (tree / "series").open("a") as series:
        series.write(f"\t{path}\n")


MESSAGE = """\
From: Some One <some.one@localhost>
Date: Mon, 23 Nov 2026 02:00:00 +0000
Subject: test: The patch {name}

Why.

Signed-off-by: Some One <some.one@localhost>
"""

GOOD_PATCH = """\
diff --git a/greeting b/greeting
--- a/greeting
+++ b/greeting
@@ -1 +1 @@
-hello
+hello, patched
"""
