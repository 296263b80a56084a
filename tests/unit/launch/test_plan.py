# SPDX-License-Identifier: Apache-2.0
"""What a `pyvmm run` will start, made of its options without a KVM."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.boot import compression
from pyvmm.cli.main import main
from pyvmm.config import SWAP_SERIAL, SwapConfig
from pyvmm.errors import ConfigError
from pyvmm.guest import cache
from pyvmm.launch import status
from pyvmm.launch.options import OPTIONS, attribute
from pyvmm.launch.plan import Plan, parse_disk, parse_env, terminal_name
from pyvmm.swap.bypass import MODES
from pyvmm.swap.governor import POLICIES
from tests.support import images as support
from tests.support.run_options import arguments

plain = st.text(st.characters(exclude_characters=",", exclude_categories=("Cs",)), min_size=1)


@given(plain, st.booleans(), st.none() | plain, st.sampled_from([None, "raw"]))
def test_disk_round_trip(name: str, readonly: bool, serial: str | None, kind: str | None) -> None:
    text = name + (",ro" if readonly else "") + (f",serial={serial}" if serial else "")
    text += f",format={kind}" if kind else ""
    assert parse_disk(text) == (name, readonly, serial or "", kind)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,rw", "'rw' is none of"),
        ("a,format=qcow2", "'format=qcow2' is none of"),
        (",ro", "the file is missing"),
        ("", "the file is missing"),
    ],
)
def test_bad_disks(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_disk(text)


def test_variables_for_the_guest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "yes")
    monkeypatch.delenv("GONE", raising=False)
    assert parse_env(["A=1", "HERE", "GONE", "B=x=y", "C="]) == {
        "A": "1",
        "HERE": "yes",
        "B": "x=y",
        "C": "",
    }


def test_a_command_runs_in_our_guest_on_a_virtio_console(guest: cache.Guest) -> None:
    plan = Plan(arguments("--env", "A=1", "--", "ls", "-l"))
    assert plan.config.boot.kernel == guest.vmlinux
    assert plan.config.boot.initrd[0] == guest.initramfs
    assert b"ls\0-l\0" in plan.config.boot.initrd[1]  # type: ignore[operator]
    assert b"A=1" in plan.config.boot.initrd[1]  # type: ignore[operator]
    assert plan.console == "virtio"
    words = plan.config.boot.cmdline.split()
    assert {"quiet", "console=ttyS0", "pyvmm.console=hvc0", "pyvmm.raw=1"} <= set(words)


@pytest.mark.parametrize(
    ("term", "passed"),
    [
        ("xterm-256color", "xterm-256color"),
        ("rxvt+x.y_z", "rxvt+x.y_z"),
        ("xterm init=/bin/sh", "linux"),
        ("a\tb", "linux"),
        ('"', "linux"),
        ("", "linux"),
        ("x" * 64, "linux"),
        ("\u00e9", "linux"),
    ],
)
def test_the_kind_of_terminal_is_one_word(term: str, passed: str) -> None:
    assert terminal_name(term) == passed


def test_init_is_told_how_long_the_command_is(guest: cache.Guest) -> None:
    words = Plan(arguments("--", "sh", "-c", "caf\u00e9")).config.boot.cmdline.split()
    assert f"pyvmm.command={len(b'sh_-c_cafe__')}" in words
    assert "pyvmm.command" not in Plan(arguments()).config.boot.cmdline


PARTS = {
    "cpio": b"070701" + bytes(104),
    "padded": bytes(512) + b"070701" + bytes(104),
    "gzip": b"\x1f\x8b\x08" + bytes(20),
    "zstd": b"\x28\xb5\x2f\xfd" + bytes(20),
    "xz": b"\xfd7zXZ\0" + bytes(20),
    "bzip2": b"BZh9" + bytes(20),
    "lz4": b"\x02\x21\x4c\x18" + bytes(20),
    "lz4 without -l": b"\x04\x22\x4d\x18" + bytes(20),
    "text": b"this is no initrd",
    "zeros": bytes(10000),
    "empty": b"",
}


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        *((kind, "") for kind in ("cpio", "padded", "gzip", "zstd")),
        ("xz", "with xz, which this guest's kernel cannot unpack (CONFIG_RD_XZ)"),
        ("bzip2", "with bzip2, which"),
        ("lz4", "with lz4, which"),
        ("lz4 without -l", "make it with lz4 -l"),
        ("text", "neither a cpio archive nor a compressed one"),
        ("zeros", "neither a cpio archive nor a compressed one"),
        ("empty", "is empty"),
    ],
)
def test_an_initrd_that_the_guest_cannot_unpack_is_named(
    kind: str, said: str, guest: cache.Guest, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("config").write_text("\nCONFIG_RD_GZIP=y\nCONFIG_RD_ZSTD=y\n# CONFIG_RD_XZ is not set\n")
    Path("part").write_bytes(PARTS[kind])
    words = ["run", "--kvm", "/nowhere", "-i", "part", "--", "true"]
    assert main(words) == (status.USAGE if said else status.HOST)
    text = capsys.readouterr().err
    assert said in text
    assert ("--initrd part" in text) == bool(said)


@pytest.mark.parametrize("name", ["pipe", "/dev/zero"])
def test_an_initrd_without_an_end_is_refused(
    name: str, guest: cache.Guest, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo("pipe")
    assert main(["run", "--kvm", "/nowhere", "-i", name, "--", "true"]) == status.USAGE
    assert f"--initrd {name} is not a regular file" in capsys.readouterr().err


LZ4_BLOCK = b"\x05\0\0\0block"


@pytest.mark.parametrize(
    ("blocks", "whole"),
    [
        (LZ4_BLOCK, True),
        (LZ4_BLOCK * 2, True),
        (LZ4_BLOCK + compression.LZ4 + LZ4_BLOCK, True),
        (LZ4_BLOCK + b"\0\0", True),
        (LZ4_BLOCK + bytes(4) + b"070701", True),
        (b"", True),
        (LZ4_BLOCK[:-1], False),
        (LZ4_BLOCK + b"\x05\0", False),
        (LZ4_BLOCK + b"070701" + bytes(104), False),
        (b"\xff\xff\xff\xff", False),
    ],
)
def test_lz4_that_is_cut_off_is_refused(
    blocks: bytes, whole: bool, guest: cache.Guest, capsys: pytest.CaptureFixture[str]
) -> None:
    """The guest's kernel would read on behind the initrd."""
    Path("part").write_bytes(b"\0\0" + compression.LZ4 + blocks)
    words = ["run", "--kvm", "/nowhere", "-i", "part", "--", "true"]
    assert main(words) == (status.HOST if whole else status.USAGE)
    assert ("goes on behind the end of the file" in capsys.readouterr().err) != whole


def test_a_kernel_whose_configuration_is_not_known_may_unpack_all(guest: cache.Guest) -> None:
    Path("part").write_bytes(PARTS["xz"])
    assert main(["run", "--kvm", "/nowhere", "-i", "part", "--", "true"]) == status.HOST


def test_a_shell_runs_on_the_serial_port(guest: cache.Guest) -> None:
    plan = Plan(arguments())
    assert plan.console == "serial"
    assert "quiet" not in plan.config.boot.cmdline.split()
    assert "pyvmm.console" not in plan.config.boot.cmdline


def test_a_stock_guest_has_no_vmlinux(guest: cache.Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyvmm.guest.named.find_guest", lambda name: guest._replace(vmlinux=""))
    assert Plan(arguments()).config.boot.kernel == guest.kernel


def test_more_vcpus_than_the_kernel_uses(guest: cache.Guest, tmp_path: Path) -> None:
    """It would leave the others alone, without a word on the terminal."""
    config = tmp_path / "config"
    config.write_text("CONFIG_X86=y\nCONFIG_SMP=y\nCONFIG_NR_CPUS=64\nCONFIG_X=y\n")
    Plan(arguments("-c", "64"))
    Plan(arguments("-c", "65", "-k", "k"))
    with pytest.raises(ConfigError, match=r"uses at most 64; .* CONFIG_NR_CPUS=65"):
        Plan(arguments("-c", "65"))
    config.write_text("# CONFIG_SMP is not set\n")
    with pytest.raises(ConfigError, match="uses at most 1;"):
        Plan(arguments("-c", "2"))
    config.unlink()
    Plan(arguments("-c", "65"))


def test_other_kernels_get_no_words_of_ours() -> None:
    plan = Plan(arguments("-k", "k", "-i", "a", "-i", "b", "-p", "root=/dev/vda"))
    assert plan.config.boot[:2] == ("k", ("a", "b"))
    assert "pyvmm." not in plan.config.boot.cmdline
    assert plan.config.boot.cmdline.endswith("root=/dev/vda")


def test_a_kernel_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "-k", "nothing"]) in (status.USAGE, status.HOST)
    assert "nothing" in capsys.readouterr().err


def test_flat_binaries_get_no_words_at_all() -> None:
    assert Plan(arguments("-k", "k", "--flat", "real")).config.boot.cmdline == ""


def test_verbose_wins_over_quiet(guest: cache.Guest) -> None:
    words = Plan(arguments("-v", "--", "true")).config.boot.cmdline.split()
    assert "ignore_loglevel" in words
    assert "quiet" not in words


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["-k", "k", "--", "ls"], "leave -k away"),
        (["-k", "k", "--env", "A=1"], "--env is for the project's own guest"),
        (["-k", "k", "--linux", "6.1"], "--linux is for the project's own guest"),
        (["--flat", "long"], "--flat says how a binary of yours starts; add -k"),
        (["-k", "k", "--flat", "real", "-p", "quiet"], "has no kernel command line"),
        (["-k", "k", "--log", "-"], "standard output is /dev/stdout"),
        (["--", ""], "COMMAND's first word is empty"),
        (["-d", "x,y", "-k", "k"], "none of ro, serial=S"),
        (
            ["--linux", "5.4"],
            "no guest '5.4'; there are 6.12, 6.1, each also with -debug or",
        ),
    ],
)
def test_plans_that_cannot_work(words: list[str], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        Plan(arguments(*words))


def test_a_guest_that_is_not_built(guest_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--linux", "6.1"]) == status.USAGE
    assert "run: pyvmm guest build --linux 6.1" in capsys.readouterr().err


def test_dry_run_says_what_would_be_started(
    guest: cache.Guest, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", "--dry-run", "-m", "1G", "-c", "3", "-d", "d,ro,serial=S", "--net", "tap0"]
    assert main([*words, "--kvm", "/nowhere", "--", "true"]) == status.OK
    said = json.loads(capsys.readouterr().out)
    assert said["disks"] == [{"file": "d", "readonly": True, "serial": "S", "format": None}]
    assert (said["memory"], said["cpus"], said["net"]) == ("1G", 3, ["tap0"])
    assert (said["kernel"], said["command"]) == (guest.vmlinux, ["true"])


def test_no_swap_unless_asked_for(guest: cache.Guest) -> None:
    plan = Plan(arguments())
    assert plan.swap is None
    assert "pyvmm.swap" not in plan.config.boot.cmdline
    assert plan.as_dict()["swap"] is None


def test_the_guest_is_told_of_its_swap_disk(guest: cache.Guest) -> None:
    plan = Plan(arguments("--swap", "64M"))
    assert f"pyvmm.swap={SWAP_SERIAL}" in plan.config.boot.cmdline.split()
    assert plan.as_dict()["swap"] == {
        "size": "64M",
        "bypass": "off",
        "policy": "pressure",
        "quota": None,
        "backing": None,
        "serial": SWAP_SERIAL,
    }
    assert "pyvmm.swap" not in Plan(arguments("-k", "k", "--swap", "64M")).config.boot.cmdline


def test_every_word_about_swap_arrives(guest: cache.Guest) -> None:
    words = ["--swap=1G", "--swap-bypass=direct", "--swap-quota=512M", "--swap-file=f"]
    swap = Plan(arguments(*words)).swap
    assert swap is not None
    assert swap == SwapConfig(1 << 30, "direct", backing="f", policy="quota", quota=512 << 20)
    words = ["--swap=1G", "--swap-policy=never"]
    assert Plan(arguments(*words)).swap == SwapConfig(1 << 30, policy="never")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--swap-bypass", "off"], "--swap-bypass says how to swap; add --swap SIZE"),
        (["--swap-policy", "never"], "--swap-policy says"),
        (["--swap-quota", "1M"], "--swap-quota says"),
        (["--swap-file", "f"], "--swap-file says"),
        (["--swap", "8M", "--swap-policy", "quota"], "go together"),
        (["--swap", "8M", "--swap-policy", "always", "--swap-quota", "1M"], "go together"),
    ],
)
def test_swap_that_cannot_be(words: list[str], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        Plan(arguments("-k", "k", *words))


def test_modes_and_policies_are_those_of_the_machine() -> None:
    choices = {attribute(names): words.get("choices", ()) for names, words in OPTIONS}
    assert choices["swap_bypass"] == MODES
    assert sorted(choices["swap_policy"]) == sorted(POLICIES)


def test_a_kvm_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kernel = tmp_path / "k"
    kernel.touch()
    assert main(["run", "-k", str(kernel), "--kvm", str(tmp_path / "kvm")]) == status.HOST
    assert str(tmp_path / "kvm") in capsys.readouterr().err


def test_a_multiboot_kernel_gets_the_users_words_alone(tmp_path: Path) -> None:
    """Its first argument would be a parameter of Linux otherwise."""
    kernel, module = tmp_path / "k", tmp_path / "m"
    kernel.write_bytes(support.multiboot_header() + bytes(100))
    module.touch()
    words = ("-k", str(kernel), "-p", "cpuid 3", "-i")
    planned = Plan(arguments(*words, f"{module} with words"))
    assert planned.config.boot.cmdline == "cpuid 3"
    planned.check_files()
    with pytest.raises(ConfigError, match="no such file"):
        Plan(arguments(*words, f"{tmp_path}/absent with words")).check_files()
    assert "panic=-1" in Plan(arguments("-k", str(tmp_path / "absent"))).config.boot.cmdline


def test_named_files_that_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kernel, missing = tmp_path / "k", str(tmp_path / "missing")
    kernel.touch()
    for options in (["-k", missing], ["-k", str(kernel), "-i", missing], ["-d", missing]):
        assert main(["run", "--kvm", "/nowhere", "-k", str(kernel), *options]) == status.USAGE
        assert f"{missing}: there is no such file" in capsys.readouterr().err
