# SPDX-License-Identifier: Apache-2.0
"""An initial RAM disk for a kernel of the user's own that has its drivers as modules.

Distributions build virtio and file systems as modules. `initramfs_with` makes the project's
initramfs with those that a guest here needs, found by the folder's modules.dep; `switch_root` makes
it go on to the root file system that ``root=`` names.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pyvmm.boot.image import Image
from pyvmm.debian import kernelmodules
from pyvmm.errors import ConfigError, HostError, ImageError
from pyvmm.guest import cache, initramfs
from pyvmm.guest.overlay import overlay

if TYPE_CHECKING:
    from collections.abc import Iterable

#: The devices of the VMM, and a disk's usual file system.
NEEDED = (
    *("virtio_mmio", "virtio_pci", "virtio_console", "virtio_blk", "virtio_net", "virtio_rng"),
    *("virtio_balloon", "ext4", "pvpanic_mmio"),
)
#: Loads the modules of the initramfs, mounts what root= names, and starts the init of it.
SCRIPT = r"""#!/bin/busybox sh
export PATH=/bin:/sbin:/usr/bin:/usr/sbin

end() {
    echo "pyvmm: $*" > /dev/console
    printf '\175' | dd of=/dev/port bs=1 seek=244 2> /dev/null # status 125
    poweroff -f
}

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2> /dev/null

while read -r module; do
    insmod "$module"
done < /pyvmm/modules

init=/sbin/init mode=ro type= flags=
for word in $(cat /proc/cmdline); do
    case $word in
    root=*) root=${word#root=} ;;
    rootfstype=*) type=${word#rootfstype=} ;;
    rootflags=*) flags=,${word#rootflags=} ;;
    init=*) init=${word#init=} ;;
    ro | rw) mode=$word ;;
    esac
done

# UUID= and LABEL= are looked up; a disk may take a moment.
tries=100
while :; do
    case $root in
    *=*) device=$(findfs "$root" 2> /dev/null) ;;
    *) device=$root ;;
    esac
    [ -b "$device" ] && break
    tries=$((tries - 1))
    [ $tries -gt 0 ] || end "root=$root: there is no such disk; give it with --disk"
    sleep 0.1
done
mount ${type:+-t "$type"} -o "$mode$flags" "$device" /mnt ||
    end "root=$root: cannot mount it; name a module of its file system as in --modules DIR,xfs"
[ -x "/mnt$init" ] || [ -L "/mnt$init" ] || end "root=$root: there is no $init on it"
for place in proc sys dev; do
    mount --move /$place /mnt/$place || end "root=$root: there is no /$place on it"
done
exec switch_root /mnt "$init"
"""


def initramfs_with(folder: str, more: Iterable[str] = (), *, kernel: str = "") -> str:
    """Return the path of an initramfs with the modules of ``folder``, a lib/modules/RELEASE.

    Those in `NEEDED` that the kernel has not, it has built in or does without; each of ``more``
    must be there. ``kernel`` is the kernel's file, whose release must be that of the folder as far
    as the file says it. Raise ConfigError if they do not fit, HostError if modules.dep or a module
    of ``more`` is missing.
    """
    check_release(folder, kernel)
    wanted = kernelmodules.module_closure(folder, NEEDED, missing=lambda name: None)
    for path in kernelmodules.module_closure(folder, more):
        if path not in wanted:
            wanted.append(path)
    return os.path.join(cache.initramfs_dir(initramfs.build(wanted)), "initramfs")


def check_release(folder: str, kernel: str) -> None:
    """Raise ConfigError if a bzImage says that it is another release than the folder's."""
    release = release_of(kernel) if kernel else ""
    name = os.path.basename(os.path.realpath(folder))
    if release and name != release:
        raise ConfigError(
            f"kernel {kernel!r} is Linux {release}, and the modules in {folder} are of {name}: "
            "it would take none of them; give the folder of its own release"
        )


def release_of(kernel: str) -> str:
    """Return the release of a bzImage, as `uname -r` gives it; "" for any other file."""
    try:
        with Image(kernel, "kernel") as image:
            head = image.read(0, min(image.size, 1 << 16))
    except (HostError, ImageError):
        return ""
    if head[0x202:0x206] != b"HdrS":
        return ""
    # kernel_version of the setup header, counted from the end of the boot sector (boot.rst).
    at = int.from_bytes(head[0x20E:0x210], "little") + 0x200
    words = head[at : at + 256].split(b"\0", 1)[0].decode("utf-8", "replace").split()
    return words[0] if words and at != 0x200 else ""


def switch_root() -> bytes:
    """Return a part of an initrd with an /init that mounts the root file system and starts its
    init.
    """
    return overlay([], files={"/init": SCRIPT.encode()})
