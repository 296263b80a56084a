# SPDX-License-Identifier: Apache-2.0
"""The driver as a module: out of its files, against headers packages, into the initramfs; with made-up packages."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from pyvmm.cachefolder import cache_root
from pyvmm.debian import kernels, tools
from pyvmm.errors import ConfigError, HostError
from pyvmm.guest import cache, headers, inventory, module
from pyvmm.guest.named import find_default, find_guest
from pyvmm.guest.stock import stock
from tests.support.archive import walk
from tests.support.fake_apt import GOOD_PATCH, FakeApt, add_file, add_patch, patch_tree
from tests.support.tree import ROOT

REAL = ROOT / "guest-linux-patch" / "module"
REAL_COMPILER = headers.compiler
RELEASE = "6.12.5-amd64"
IMAGE = f"linux-image-{RELEASE}"
CORE = "drivers/virt/symbiotic/core.c"
#: What the makefiles of the headers package do, as far as our own needs it.
KBUILD = """\
modules:
\t@echo "for $(CONFIG_SYMBIOTIC) with $(KCFLAGS)" > said
\t@cat said
\t@grep -q "made of what the kernel exports" $(M)/reach.h
\t@test ! -e broken || { echo "core.c:1: error: this is broken"; exit 2; }
\tgcc -c -o $(M)/symbiotic.ko $(M)/core.c
"""


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, guest_cache: Path) -> Path:
    folder = patch_tree(tmp_path / "patches")
    shutil.copytree(REAL, folder / "module", ignore=shutil.ignore_patterns("build"))
    add_patch(folder, "first", GOOD_PATCH)
    add_file(folder, CORE, "int one;\n")
    add_file(folder, "drivers/virt/symbiotic/reach.h", "#error for a kernel\n")
    add_file(folder, cache.HEADER, "nobody reads this\n")
    (folder / cache.HEADER_HERE).parent.mkdir()
    (folder / cache.HEADER_HERE).write_text("#define ONE 1\n")
    add_patch(folder, "second", GOOD_PATCH)
    add_file(folder, "include/linux/symbiotic.h", "extern int one;\n")
    add_file(folder, "mm/swap.c", "#error of no module\n")
    monkeypatch.setenv("PYVMM_GUEST_PATCH", str(folder))
    return folder


@pytest.fixture
def kernel(apt: FakeApt, tmp_path: Path) -> kernels.KernelFiles:
    """A kernel, and the three packages of its headers."""
    apt.kernel(IMAGE, RELEASE, ["virtio_mmio"])
    apt.meta("linux-image-amd64", IMAGE)
    own = tmp_path / "own" / "usr" / "src" / f"linux-headers-{RELEASE}"
    (own / "include" / "generated").mkdir(parents=True)
    (own / "include" / "generated" / "utsrelease.h").write_text(
        f'#define UTS_RELEASE "{RELEASE}"\n'
    )
    (own / "Makefile").write_text("include /usr/src/linux-headers-6.12.5-common/Makefile\n")
    (own / ".kernelvariables").write_text("CC = $(CROSS_COMPILE)gcc-12\n")
    (own / "scripts").symlink_to("../../lib/linux-kbuild-6.12.5/scripts")
    apt.package(f"linux-headers-{RELEASE}", tmp_path / "own")
    common = tmp_path / "common" / "usr" / "src" / "linux-headers-6.12.5-common"
    common.mkdir(parents=True)
    (common / "Makefile").write_text(KBUILD)
    apt.package("linux-headers-6.12.5-common", tmp_path / "common")
    programs = tmp_path / "programs" / "usr" / "lib" / "linux-kbuild-6.12.5" / "scripts"
    programs.mkdir(parents=True)
    (programs / "program").write_text("")
    apt.package("linux-kbuild-6.12.5", tmp_path / "programs")
    return kernels.kernel_package("6.12")


@pytest.fixture(autouse=True)
def any_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever gcc this machine has is good enough for a package that does not exist."""
    monkeypatch.setattr(headers, "compiler", lambda folder: "gcc")


def test_module_is_made_of_the_drivers_files(tree: Path, kernel: kernels.KernelFiles) -> None:
    """Whatever is there of an earlier one makes no difference; what is no part of a module is left out."""
    work = tree.parent / "work"
    for text in ("int three;\n", "int four;\n"):
        (tree / "driver" / CORE).write_text(text)
        words = [f"KDIR={headers.headers(kernel).folder}", f"BUILD={work}"]
        subprocess.run(["make", "-C", tree / "module", *words], check=True, capture_output=True)
        assert sources_below(work / "tree") == {
            CORE: text,
            "drivers/virt/symbiotic/reach.h": (REAL / "reach.h").read_text(),
            "include/linux/symbiotic.h": "extern int one;\n",
            cache.HEADER: "#define ONE 1\n",
        }


def sources_below(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.suffix in (".c", ".h")]
    return {str(path.relative_to(folder)): path.read_text() for path in files}


def test_headers_are_put_together_once(kernel: kernels.KernelFiles, apt: FakeApt) -> None:
    folder = headers.headers(kernel).folder
    assert (folder / "scripts" / "program").exists()
    done = subprocess.run(["make", "-n"], cwd=folder, capture_output=True, text=True, check=True)
    assert f"M={folder}" not in done.stdout
    assert "for  with" in done.stdout
    package = Path(cache_root(), "debian", f"linux-headers-{RELEASE}_1%3a2.0-1")
    original = package / "usr" / "src" / f"linux-headers-{RELEASE}" / "Makefile"
    assert original.read_text().startswith("include /usr/src/")
    before = apt.downloads()
    apt.forget()
    assert headers.headers(kernel).folder == folder
    assert apt.downloads() == before


def test_headers_that_are_gone(kernel: kernels.KernelFiles, apt: FakeApt) -> None:
    apt.forget()
    with pytest.raises(HostError, match=rf"'linux-headers-{RELEASE}'.*--force"):
        headers.headers(kernel)


def test_the_kernels_own_compiler(kernel: kernels.KernelFiles, tmp_path: Path) -> None:
    assert REAL_COMPILER(headers.headers(kernel).folder) == "gcc-12"
    assert REAL_COMPILER(tmp_path / "nothing") == "gcc"


def lack_compilers(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on this machine has none of a certain version."""
    monkeypatch.setattr(headers, "compiler", REAL_COMPILER)
    real = tools.found
    monkeypatch.setattr(tools, "found", lambda name: None if "gcc-" in name else real(name))


def test_compiler_that_this_machine_lacks(
    kernel: kernels.KernelFiles, apt: FakeApt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its packages become part of the tree, those that there are."""
    lack_compilers(monkeypatch)
    for package in ("gcc-12", "cpp-12"):
        programs = tmp_path / package / "usr" / "bin"
        programs.mkdir(parents=True)
        (programs / package).write_text("#!/bin/sh\n")
        apt.package(package, tmp_path / package)
    found = headers.headers(kernel)
    assert {path.name for path in found.programs.iterdir()} == {"gcc-12", "cpp-12"}


def test_compiler_that_nobody_has(
    kernel: kernels.KernelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    lack_compilers(monkeypatch)
    with pytest.raises(HostError, match="'gcc-12'"):
        headers.headers(kernel)


def test_module_is_built_once(tree: Path, kernel: kernels.KernelFiles) -> None:
    path = Path(module.build(kernel, "6.12"))
    assert path.read_bytes().startswith(b"\x7fELF")
    assert {entry.name for entry in path.parent.iterdir()} == {"symbiotic.ko", "info.json"}
    before = path.stat().st_ino
    assert module.build(kernel, "6.12") == str(path)
    assert path.stat().st_ino == before
    module.build(kernel, "6.12", force=True)
    assert path.stat().st_ino != before
    said = (headers.headers(kernel).folder / "said").read_text()
    assert said.startswith("for m with ")
    assert "-DCONFIG_SYMBIOTIC=1" in said


def test_what_the_key_depends_on(tree: Path, kernel: kernels.KernelFiles) -> None:
    keys = {module.make_key(kernel)}
    (tree / "config" / "base.config").write_text("# of the other guests\n")
    (tree / "hooks-6.12" / "second.patch").write_text("what changes in Linux\n")
    (tree / "driver" / "mm" / "swap.c").write_text("what cannot be in a module\n")
    assert module.make_key(kernel) in keys
    for path in (tree / "driver" / CORE, tree / "module" / "reach.h", tree / cache.HEADER_HERE):
        with path.open("a") as file:
            file.write("\n")
        keys.add(module.make_key(kernel))
    newer = kernel._replace(vmlinuz=kernel.vmlinuz.replace("2.0-1", "2.0-2"))
    keys.add(module.make_key(newer))
    assert len(keys) == 5


def test_failed_build_shows_the_log(tree: Path, kernel: kernels.KernelFiles) -> None:
    (headers.headers(kernel).folder / "broken").write_text("")
    with pytest.raises(HostError, match="this is broken") as caught:
        module.build(kernel, "6.12")
    assert "module-6.12.log" in str(caught.value)
    assert not list((Path(cache_root()) / "guest").glob("module-*/"))


def test_recipe_that_is_incomplete(tree: Path, kernel: kernels.KernelFiles) -> None:
    for name in (cache.HEADER_HERE, "module/reach.h"):
        (tree / name).unlink()
        with pytest.raises(HostError, match=f"part of the module's recipe: .*{Path(name).name}"):
            module.build(kernel, "6.12")


def test_stock_guest_with_the_module(tree: Path, kernel: kernels.KernelFiles) -> None:
    plain = stock("6.12")
    guest = stock("6.12", symbiotic=True)
    assert (guest.kernel, guest.initramfs == plain.initramfs) == (plain.kernel, False)
    found = walk(Path(guest.initramfs).read_bytes())
    listed = b"/lib/modules/symbiotic.ko\n/lib/modules/virtio_mmio.ko\n"
    assert found[b"pyvmm/modules"][1] == listed
    assert cache.find_stock("6.12") == plain
    assert cache.find_stock("6.12", symbiotic=True) == guest
    assert [entry.name for entry in inventory.entries()] == ["stock-6.12", "stock-6.12-symbiotic"]


def test_stock_guest_is_found_by_name(
    tree: Path, kernel: kernels.KernelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made where there is none; then found, with nothing but the files that it is started by."""
    assert inventory.guest_files("stock-6.12-symbiotic") == []
    guest = find_guest("stock-6.12-symbiotic")
    assert guest == cache.find_stock("6.12", symbiotic=True)
    monkeypatch.setattr(kernels, "kernel_package", None)
    assert find_guest("stock-6.12-symbiotic") == guest
    note = str(Path(guest.initramfs).with_name("info.json"))
    wanted = {cache.pointer_path("stock-6.12-symbiotic"), guest.kernel, guest.initramfs, note}
    assert set(inventory.guest_files("stock-6.12-symbiotic")) == wanted
    with (tree / "driver" / CORE).open("a") as file:
        file.write("\n")
    assert inventory.guest_files("stock-6.12-symbiotic") == []


def test_guest_where_nobody_names_one(
    tree: Path, kernel: kernels.KernelFiles, capsys: pytest.CaptureFixture[str]
) -> None:
    """Debian's, which is said; the project's as soon as there was one."""
    assert find_default() == ("stock-6.12-symbiotic", cache.find_stock("6.12", symbiotic=True))
    said = capsys.readouterr().err.splitlines()[-1]
    for part in (RELEASE, "module", "symcalls", "a tier", "pyvmm guest build"):
        assert part in said
    Path(cache.pointer_path("6.12")).write_text(f"{cache.POINTER_HEAD}\n6.12.1\nk\ni\n")
    with pytest.raises(ConfigError, match="its sources changed"):
        find_default()


def test_no_guest_and_no_network(tree: Path, apt: FakeApt) -> None:
    apt.forget()
    with pytest.raises(
        HostError, match=r"run: pyvmm guest build \(no Debian kernel of version 6.12"
    ):
        find_default()


def test_edited_driver_is_a_change_for_one_guest_only(
    tree: Path, kernel: kernels.KernelFiles
) -> None:
    stock("6.12")
    stock("6.12", symbiotic=True)
    with (tree / "driver" / CORE).open("a") as file:
        file.write("\n")
    states = {entry.name: entry.state for entry in inventory.entries()}
    assert states == {"stock-6.12": "current", "stock-6.12-symbiotic": "stale"}
    assert cache.find_stock("6.12") is not None
    assert cache.find_stock("6.12", symbiotic=True) is None


def test_clean_keeps_the_module_in_use(tree: Path, kernel: kernels.KernelFiles) -> None:
    old = Path(module.build(kernel, "6.12"))
    with (tree / "driver" / CORE).open("a") as file:
        file.write("\n")
    stock("6.12", symbiotic=True)
    new = Path(module.build(kernel, "6.12"))
    inventory.clean()
    assert (old.exists(), new.exists()) == (False, True)
