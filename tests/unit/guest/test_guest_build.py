# SPDX-License-Identifier: Apache-2.0
"""Builds of a make-believe kernel: keys, the cache, patches, configuration, failures."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from threading import Thread

import pytest

from pyvmm.cachefolder import cache_root
from pyvmm.cli.main import main
from pyvmm.debian import packages, tools
from pyvmm.errors import ConfigError, HostError
from pyvmm.guest import cache, inventory, kconfig, series, source
from pyvmm.guest.build import build, forecast
from pyvmm.guest.stock import stock
from pyvmm.launch import status
from tests.support.archive import walk
from tests.support.fake_apt import GOOD_PATCH, FakeApt, add_file, add_patch, kernel_tree, patch_tree
from tests.support.tree import ROOT
from tests.support.waiting import until

VERSIONS = cache.versions(str(ROOT / "guest-linux-patch"))


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, guest_cache: Path) -> Path:
    monkeypatch.setenv("PYVMM_GUEST_PATCH", str(patch_tree(tmp_path / "patches")))
    return kernel_tree(tmp_path / "linux")


def test_a_configuration_without_end_is_refused(tree: Path) -> None:
    with pytest.raises(ConfigError, match="is no kernel configuration"):
        build(source_path=tree, config="/dev/zero")


@pytest.mark.parametrize("name", ["two words", "a:b", "a#b", "tab\tbed", "it's"])
def test_a_cache_that_make_cannot_work_in_is_refused_at_once(
    name: str, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYVMM_CACHE", str(tmp_path / name))
    with pytest.raises(ConfigError, match=r"nothing can be compiled in .*set PYVMM_CACHE"):
        build(source_path=tree)
    assert not (tmp_path / name).exists()


def test_without_a_home_there_is_no_folder_named_like_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nobody(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.chdir(tmp_path)
    for name in ("HOME", "PYVMM_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    for words in (["guest", "build"], ["guest", "list"], ["run", "--", "true"]):
        assert main(words) == status.HOST
        said = capsys.readouterr().err
        assert "has no home (neither HOME nor an entry in passwd); set PYVMM_CACHE to" in said
    monkeypatch.setenv("PYVMM_CACHE", "~nobody-of-that-name/cache")
    assert main(["guest", "list"]) == status.HOST
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("PYVMM_CACHE")
    assert cache_root() == str(tmp_path / ".cache" / "pyvmm")
    assert os.listdir() == []


def patches() -> Path:
    return Path(cache.patch_tree())


def test_build_then_find(tree: Path) -> None:
    assert cache.find() is None
    guest = build(source_path=tree)
    assert cache.find("6.12") == guest
    assert guest.version == "6.12.7"
    assert Path(guest.kernel).read_text() == "hello\n"
    folder = Path(guest.kernel).parent
    made = {path.name for path in folder.iterdir()}
    assert made >= {"bzImage", "vmlinux", "vmlinux.debug", "config", "Module.symvers", "build.log"}
    assert json.loads((folder / "info.json").read_text())["linux"] == "6.12"
    assert not list((Path(cache_root()) / "guest").glob("work-*"))


def test_second_build_is_from_the_cache(tree: Path) -> None:
    first = build(source_path=tree)
    before = os.stat(first.kernel)
    assert build(source_path=tree) == first
    assert os.stat(first.kernel).st_ino == before.st_ino
    build(source_path=tree, force=True)
    assert os.stat(first.kernel).st_ino != before.st_ino


def test_touching_is_no_change_but_editing_is(tree: Path) -> None:
    build(source_path=tree)
    config = patches() / "config" / "base.config"
    os.utime(config, ns=(1, 1))
    assert cache.find() is not None
    config.write_text("# BASE\nCONFIG_ONE=y\n")
    assert cache.find() is None


def test_changed_init_and_new_patch_are_changes(tree: Path) -> None:
    build(source_path=tree)
    add_patch(patches(), "a", GOOD_PATCH)
    assert cache.find() is None
    build(source_path=tree)
    assert cache.find() is not None
    with (patches() / "init" / "init.c").open("a") as file:
        file.write("\n")
    assert cache.find() is None
    build(source_path=tree)
    (patches() / "init" / "more.h").touch()
    assert cache.find() is None
    (patches() / "init" / "more.h").unlink()
    assert cache.find() is not None
    (patches() / "init" / "init.c").unlink()
    assert cache.find() is None


def test_without_a_tree_nothing_is_stale(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guest = build(source_path=tree)
    monkeypatch.setenv("PYVMM_GUEST_PATCH", "no/such/place")
    assert cache.find() == guest


def test_missing_file_is_no_guest(tree: Path) -> None:
    guest = build(source_path=tree)
    Path(guest.vmlinux).unlink()
    assert cache.find() is None
    assert [entry.state for entry in inventory.entries()] == ["current"]
    Path(guest.kernel).unlink()
    assert [entry.state for entry in inventory.entries()] == ["broken"]


@pytest.mark.parametrize(
    "text", ["", "other 9\na\nb\nc\n", "pyvmm guest 1\n6\nk\n", "pyvmm guest 1\n6\nk\ni\nx y z\n"]
)
def test_damaged_pointer_is_no_guest(tree: Path, text: str) -> None:
    build(source_path=tree)
    Path(cache.pointer_path("6.12")).write_text(text)
    assert cache.find() is None


def test_patches_are_applied_and_the_original_stays(tree: Path) -> None:
    add_patch(patches(), "a", GOOD_PATCH)
    guest = build(source_path=tree)
    assert Path(guest.kernel).read_text() == "hello, patched\n"
    assert (tree / "greeting").read_text() == "hello\n"
    (pristine,) = (Path(cache_root()) / "source").glob("linux-*/")
    assert (pristine / "greeting").read_text() == "hello\n"


def test_patch_that_does_not_apply_is_named(tree: Path) -> None:
    add_patch(patches(), "good", GOOD_PATCH)
    add_patch(patches(), "bad", GOOD_PATCH)
    with pytest.raises(HostError, match=r"patch 0002-test-The-patch-bad\.patch does not apply"):
        build(source_path=tree)
    left = {path.name for path in (Path(cache_root()) / "guest").iterdir()}
    assert left == {"kernel-6.12.lock"}


def test_patch_that_is_missing_is_named(tree: Path) -> None:
    add_patch(patches(), "a", GOOD_PATCH)
    add_file(patches(), "drivers/some.c", "int some;\n")
    for path, name in (("messages/a.txt", r"a\.txt"), ("driver/drivers/some.c", r"some\.c")):
        text = (patches() / path).read_text()
        (patches() / path).unlink()
        with pytest.raises(ConfigError, match=f"{name}: No such file"):
            build(source_path=tree)
        (patches() / path).write_text(text)
    build(source_path=tree)


def test_option_that_is_dropped_is_named(tree: Path, tmp_path: Path) -> None:
    extra = tmp_path / "extra"
    extra.write_text("CONFIG_FINE=m\nCONFIG_GONE=y\n")
    with pytest.raises(ConfigError, match=r"CONFIG_GONE=y \(is n\)"):
        build(source_path=tree, config=extra)


def test_extra_configuration_makes_another_kernel(tree: Path, tmp_path: Path) -> None:
    extra = tmp_path / "extra"
    extra.write_text("CONFIG_TWO=8\n")
    plain, other = build(source_path=tree), build(source_path=tree, config=extra)
    assert plain.kernel != other.kernel
    assert "CONFIG_TWO=8\n" in (Path(other.kernel).parent / "config").read_text()
    assert cache.find() == other


def test_failed_compilation_shows_the_log(tree: Path) -> None:
    (tree / "broken").write_text("")
    with pytest.raises(HostError, match="this is broken") as caught:
        build(source_path=tree)
    assert "build-6.12.log" in str(caught.value)
    assert cache.find() is None


def test_archive_as_source(tree: Path, tmp_path: Path) -> None:
    archive = tmp_path / "linux-source-6.12.tar.xz"
    subprocess.run(["tar", "-cJf", archive, "-C", tmp_path, "linux"], check=True)
    guest = build("6.12", source_path=archive)
    assert Path(guest.kernel).read_text() == "hello\n"


def test_wrong_version(tree: Path) -> None:
    shutil.copytree(patches() / "hooks-6.12", patches() / "hooks-6.1")
    with pytest.raises(ConfigError, match=r"is Linux 6\.12\.7, not 6\.1"):
        build("6.1", source_path=tree)


def test_unknown_version(tree: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"no configuration for Linux 6\.6; there is one for 6\.12"
    ):
        build("6.6")


def test_not_a_source_tree(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a Linux source tree"):
        build(source_path=tmp_path)
    with pytest.raises(ConfigError, match="no such kernel source"):
        build(source_path=tmp_path / "nothing")


def test_source_package_from_apt(
    tree: Path, apt: FakeApt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "INSTALLED", tmp_path / "nowhere")
    package = tmp_path / "package"
    (package / "usr" / "src").mkdir(parents=True)
    archive = package / "usr" / "src" / "linux-source-6.12.tar.xz"
    subprocess.run(["tar", "-cJf", archive, "-C", tmp_path, "linux"], check=True)
    apt.package("linux-source-6.12", package)
    assert Path(build().kernel).read_text() == "hello\n"


def test_edit_of_a_source_directory_changes_its_identity(tree: Path) -> None:
    before = source.directory_identity(tree)
    assert source.directory_identity(tree) == before
    (tree / "greeting").write_text("hullo\n")
    assert source.directory_identity(tree) != before


def test_stock_guest(tree: Path, apt: FakeApt) -> None:
    apt.kernel("linux-image-6.12.5-amd64", "6.12.5-amd64", ["virtio_mmio", "unrelated"])
    apt.meta("linux-image-amd64", "linux-image-6.12.5-amd64")
    assert cache.find_stock("6.12") is None
    guest = stock("6.12")
    assert cache.find_stock("6.12") == guest
    assert (guest.version, guest.vmlinux) == ("6.12.5-amd64", "")
    assert Path(guest.kernel).read_text() == "kernel"
    found = walk(Path(guest.initramfs).read_bytes())
    assert found[b"pyvmm/modules"][1] == b"/lib/modules/virtio_mmio.ko\n"
    assert [entry.name for entry in inventory.entries()] == ["stock-6.12"]


def test_clean_keeps_what_is_current(tree: Path, tmp_path: Path) -> None:
    extra = tmp_path / "extra"
    extra.write_text("CONFIG_FOUR=y\n")
    old, new = build(source_path=tree), build(source_path=tree, config=extra)
    left_over = Path(cache_root()) / "source" / "x.new.123"
    left_over.mkdir()
    assert inventory.clean() > 0
    assert not Path(old.kernel).exists()
    assert not left_over.exists()
    assert cache.find() == new
    inventory.clean(everything=True)
    rest = [path for path in Path(cache_root()).rglob("*") if path.is_file()]
    assert all(path.suffix == ".lock" for path in rest)
    assert cache.find() is None


def test_missing_program_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(tools, "SYSTEM_PATH", ())
    with pytest.raises(HostError, match="'kmod'"):
        tools.tool("depmod")


def test_who_waits_for_a_lock_says_so_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYVMM_CACHE", str(tmp_path))
    monkeypatch.setattr(tools, "QUIET_SECONDS", 0.3)
    said: list[str] = []

    def heard(words: str) -> int:
        said.append(capfd.readouterr().err)
        return "".join(said).count(words)

    other = Thread(target=take, args=["guest/x"])
    with tools.lock("guest/x"):
        other.start()
        until(lambda: heard("waiting for guest/x, ") >= 2)
        assert other.is_alive()
    other.join(60)
    assert not other.is_alive()
    assert heard("another process is at work on guest/x, waiting for it") == 1


def take(name: str) -> None:
    """Waits for the lock and gives it back."""
    with tools.lock(name):
        pass


def test_publish_replaces_all_or_nothing(tmp_path: Path) -> None:
    final = tmp_path / "final"

    def succeed(fresh: Path) -> None:
        (fresh / "a").write_text("1")

    tools.publish(final, succeed)

    def fail(fresh: Path) -> None:
        (fresh / "a").write_text("2")
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError):
        tools.publish(final, fail)
    assert (final / "a").read_text() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["final"]


def test_fragment_lines() -> None:
    text = '# note\nCONFIG_A=y\nCONFIG_B="x y"\n# CONFIG_A is not set\n\n'
    assert kconfig.parse(text, "it") == {"CONFIG_A": "n", "CONFIG_B": '"x y"'}
    with pytest.raises(ConfigError, match="it, line 2 is not a kernel option"):
        kconfig.parse("CONFIG_A=y\nFOO=1\n", "it")


def test_debug_guest_is_another_one_of_the_same_sources(tree: Path) -> None:
    add_patch(patches(), "a", GOOD_PATCH)
    plain = build(source_path=tree)
    (patches() / "config" / "debug.config").write_text("CONFIG_TWO=8\nCONFIG_SLOW=y\n")
    debug = build("6.12-debug", source_path=tree)
    assert cache.find() == plain  # an option for debugging is none of its concern
    assert cache.find("6.12-debug") == debug
    assert debug.version == plain.version == "6.12.7"
    assert Path(debug.kernel).read_text() == "hello, patched\n"
    config = (Path(debug.kernel).parent / "config").read_text()
    assert "CONFIG_ONE=y\n" in config
    assert "CONFIG_TWO=8\n" in config
    assert [entry.name for entry in inventory.entries()] == ["6.12", "6.12-debug"]
    assert {entry.state for entry in inventory.entries()} == {"current"}
    (patches() / "config" / "debug.config").write_text("CONFIG_SLOW=y\n")
    assert cache.find("6.12-debug") is None
    assert cache.find() == plain


def test_the_versions_are_the_folders_that_are_there(tmp_path: Path) -> None:
    """By number, not by letter; and a folder without options, or of another name, is none."""
    assert cache.versions(str(tmp_path / "none")) == []
    for name in ("hooks-6.1", "hooks-6.12", "hooks-6.6", "hooks-7.0", "hooks-next", "config"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config").touch()
    (tmp_path / "hooks-6.18").mkdir()
    assert cache.versions(str(tmp_path)) == ["7.0", "6.12", "6.6", "6.1"]
    assert cache.DEFAULT_LINUX in VERSIONS


def test_a_version_is_one_folder(tree: Path, tmp_path: Path) -> None:
    """No other file of the project has to name it."""
    makefile = tree / "Makefile"
    makefile.write_text(makefile.read_text().replace("PATCHLEVEL = 12", "PATCHLEVEL = 18"))
    shutil.copytree(patches() / "hooks-6.12", patches() / "hooks-6.18")
    guest = build("6.18", source_path=tree)
    assert guest.version == "6.18.7"
    assert cache.find("6.18") == guest


def test_variants_of_a_version() -> None:
    assert [cache.base_version(name) for name in ("6.12", "6.1-debug", "6.12-kasan")] == [
        "6.12",
        "6.1",
        "6.12",
    ]
    assert cache.config_files("6.12-kasan")[-1] == "config/kasan.config"
    assert cache.base_version("6.12-fast") == "6.12-fast"


def test_the_plain_variant_has_no_patches() -> None:
    tree = cache.patch_tree()
    assert cache.guest_series(tree, "6.12-debug") == cache.series(tree) != []
    assert cache.guest_series(tree, "6.12-plain") == series.read("6.12-plain") == []
    files = cache.recipe_files(tree, "6.12-plain")
    assert {name.partition("/")[0] for name in files} == {"config", "hooks-6.12", "init"}


def test_debug_of_an_unknown_version_is_refused(tree: Path) -> None:
    with pytest.raises(ConfigError, match=r"no configuration for Linux 5\.10-debug; there is one"):
        build("5.10-debug", source_path=tree)


@pytest.mark.parametrize("name", [v + kind for v in VERSIONS for kind in ("", *cache.VARIANTS)])
def test_the_real_fragments_are_well_formed(name: str, guest_cache: Path) -> None:
    wanted = kconfig.parse(kconfig.fragment(name), name)
    assert wanted["CONFIG_PVH"] == "y"
    assert wanted["CONFIG_VIRTIO_MMIO"] == "y"
    assert ("CONFIG_PROVE_LOCKING" in wanted) == name.endswith("-debug")
    assert len(wanted) > 100


# Before a build.


def test_forecast_is_what_is_built_then(tree: Path) -> None:
    add_patch(patches(), "a", GOOD_PATCH)
    said = forecast(source_path=tree)
    assert (said.linux, said.patches, said.built) == (
        "6.12",
        ("0001-test-The-patch-a.patch",),
        False,
    )
    assert not Path(cache_root()).exists()
    guest = build(source_path=tree)
    assert guest.key.startswith(f"{said.key}-")
    assert forecast(source_path=tree) == said._replace(built=True)


def test_forecast_fetches_nothing(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "INSTALLED", tree / "none")
    monkeypatch.setattr(packages, "candidate_version", lambda package: "6.12.7-1")
    said = forecast()
    assert (said.source, said.key) == ("linux-source-6.12 6.12.7-1, to be fetched", "")
    assert not Path(cache_root()).exists()


def test_files_of_a_guest(tree: Path) -> None:
    guest = build(source_path=tree)
    assert inventory.path_of("6.12", "bzImage") == guest.kernel
    assert inventory.path_of("6.12", "initramfs") == guest.initramfs
    assert "CONFIG_ONE=y\n" in Path(inventory.path_of("6.12", "config")).read_text()
    with pytest.raises(ConfigError, match="this guest has no System"):
        inventory.path_of("6.12", "System")
    for linux, how, action in (
        ("6.1", {}, "build"),
        ("6.12", {"stock": True}, "stock"),
        ("6.12", {"symbiotic": True}, "stock --symbiotic"),
    ):
        with pytest.raises(ConfigError, match=f"run 'pyvmm guest {action} --linux {linux}'"):
            inventory.path_of(linux, "bzImage", **how)


def test_dry_run_builds_nothing(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["guest", "build", "--dry-run", "--source", str(tree)]) == 0
    assert re.search(r"^kernel +to be built$", capsys.readouterr().out, re.MULTILINE)
    assert cache.find() is None
