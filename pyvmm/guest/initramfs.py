# SPDX-License-Identifier: Apache-2.0
"""The guest's initramfs: busybox, our init, and the directories they expect.

It is not compressed. Memory is cheap for the VMM to fill, while every byte that the guest
decompresses costs guest instructions, which are slow where the CPU is emulated.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from pyvmm.debian import kernelmodules, packages, tools
from pyvmm.errors import HostError, ImageError
from pyvmm.guest import cache, cpio

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

# Part of every key: raise it when a change here makes another initramfs from the same inputs.
RECIPE = 1
FOLDERS = (
    *("bin", "dev", "etc", "home", "lib", "lib64", "mnt", "opt", "proc", "pyvmm", "root", "run"),
    *("sbin", "srv", "sys", "tmp", "usr", "usr/bin", "usr/lib", "usr/local", "usr/local/bin"),
    *("usr/local/sbin", "usr/sbin", "var", "var/log", "var/tmp"),
)
STICKY = ("tmp", "var/tmp")
TEXTS = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n",
    "etc/hosts": "127.0.0.1 localhost\n::1 localhost\n127.0.1.1 pyvmm\n",
    "etc/profile": "export PS1='\\u@\\h:\\w\\$ '\n",
    "etc/shells": "/bin/sh\n/bin/ash\n",
}
# Ours takes their place.
NOT_LINKED = ("linuxrc", "sbin/init")
CFLAGS = ("-std=gnu11", "-Os", "-static", "-s", "-Wall", "-Wextra", "-fno-stack-protector")
PT_INTERP = 3
BLOCK = 512


def build(modules: Sequence[str] = (), *, force: bool = False) -> str:
    """Make the initramfs unless the cache has it, and return its key.

    ``modules`` are kernel module files, in load order, that init is to load. Raise HostError if
    busybox or the compiler cannot be had.
    """
    busybox = find_busybox()
    init = init_sources()
    key = make_key(init, busybox.read_bytes(), modules)
    final = Path(cache.initramfs_dir(key))
    with tools.lock("guest/initramfs"):
        if force or not (final / "info.json").is_file():
            tools.publish(final, lambda fresh: make_all(fresh, key, init, busybox, modules))
    return key


def init_sources() -> dict[Path, bytes]:
    """Return the C files of init and what is in them. Raise HostError if they are not there."""
    tree = cache.patch_tree()
    try:
        found = {
            path: path.read_bytes()
            for path in (Path(tree, name) for name in cache.init_files(tree))
        }
    except OSError as error:
        raise HostError(f"cannot read {error.filename}: {error.strerror}") from error
    if not found:
        raise HostError(f"no {cache.INIT}/*.c in {tree}; it is in the source checkout")
    return found


def make_key(init: Mapping[Path, bytes], busybox: bytes, modules: Sequence[str]) -> str:
    """Return the name of the result in the cache.

    Path, size and time stand for what is in a module.
    """
    parts = [*(path.name.encode() + b"\0" + text for path, text in init.items()), busybox]
    digests = [hashlib.sha256(part).hexdigest() for part in parts]
    stamps = [stamp(path) for path in modules]
    text = json.dumps([RECIPE, CFLAGS, digests, stamps])
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def stamp(path: str) -> tuple[str, int, int]:
    """Return the path of a module, its size and its time. Raise HostError if it cannot be read."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise HostError(error.errno, f"module {path}: {error.strerror}; run depmod") from error
    return path, status.st_size, status.st_mtime_ns


def make_all(
    target: Path, key: str, init: Iterable[Path], busybox: Path, modules: Sequence[str]
) -> None:
    """Compile init and write the archive."""
    tools.say("making the initramfs")
    compile_init(init, target / "init")
    loaded = {
        f"lib/modules/{plain_name(path)}": kernelmodules.module_bytes(path) for path in modules
    }
    data = archive((target / "init").read_bytes(), busybox.read_bytes(), applets(busybox), loaded)
    (target / "initramfs").write_bytes(data)
    info = {"key": key, "busybox": str(busybox), "bytes": len(data), "modules": list(modules)}
    (target / "info.json").write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")


def plain_name(path: str) -> str:
    """Return the file name of a module without its compression."""
    return os.path.basename(path).split(".ko", 1)[0] + ".ko"


def compile_init(init: Iterable[Path], target: Path) -> None:
    """Compile the C files of init into one static program."""
    sources = [path for path in init if path.suffix == ".c"]
    prefix = f"-ffile-prefix-map={sources[0].parent}=."
    command = ["gcc", *CFLAGS, prefix, "-o", target, *sources]
    tools.run(command, what="compiling the guest's init (static, so it needs libc6-dev)")


def archive(
    init: bytes, busybox: bytes, links: Sequence[str], modules: Mapping[str, bytes]
) -> bytes:
    """Return the cpio archive. A multiple of 512 bytes, so that whatever follows is aligned."""
    made = cpio.Archive()
    for folder in FOLDERS:
        made.directory(folder, 0o1777 if folder in STICKY else 0o755)
    # The kernel opens this one for init, before there is a devtmpfs.
    made.character_device("dev/console", 5, 1, 0o600)
    made.character_device("dev/null", 1, 3, 0o666)
    made.file("init", init, 0o755)
    made.file("bin/busybox", busybox, 0o755)
    for link in links:
        if link not in NOT_LINKED and link not in made:
            made.parents(link)
            made.symlink(link, "/bin/busybox")
    for name, text in TEXTS.items():
        made.file(name, text.encode())
    for name, data in modules.items():
        made.parents(name)
        made.file(name, data)
    if modules:
        made.file("pyvmm/modules", "".join(f"/{name}\n" for name in modules).encode())
    return made.finish(BLOCK)


def find_busybox() -> Path:
    """Return a static busybox: the installed one, else Debian's busybox-static fetched into the
    cache.
    """
    found = shutil.which("busybox")
    if found is not None and is_static(Path(found)):
        return Path(found)
    tree = packages.unpacked("busybox-static", keep=["bin", "usr/bin"])
    for name in ("bin/busybox", "usr/bin/busybox"):
        if (tree / name).is_file():
            return tree / name
    raise HostError(f"no busybox in {tree}: remove that directory and try again")


def is_static(path: Path) -> bool:
    """Return whether an ELF program names no interpreter, so that it needs nothing else in the
    guest.
    """
    data = path.read_bytes()
    if data[:5] != b"\x7fELF\x02":
        return False
    try:
        (offset,) = struct.unpack_from("<Q", data, 32)
        size, count = struct.unpack_from("<HH", data, 54)
        kinds = [struct.unpack_from("<I", data, offset + size * index)[0] for index in range(count)]
    except struct.error as error:
        raise ImageError(f"{path} is a truncated ELF file") from error
    return PT_INTERP not in kinds


def applets(busybox: Path) -> list[str]:
    """Return where busybox wants its links, relative to the root."""
    done = subprocess.run([busybox, "--list-full"], capture_output=True, text=True, check=False)
    if done.returncode != 0 or not done.stdout:
        raise HostError(f"{busybox} --list-full failed: {done.stderr.strip()}")
    return done.stdout.split()
