# SPDX-License-Identifier: Apache-2.0
"""The plan of a `pyvmm run`, made from its options before anything is set up."""

from __future__ import annotations

import os

from pyvmm.config import (
    SWAP_SERIAL,
    BootConfig,
    ConsoleConfig,
    DiskConfig,
    KvmUnitTestsConfig,
    MachineConfig,
    NetConfig,
    RngConfig,
    SerialConfig,
    SwapConfig,
    VMConfig,
    to_plain,
)
from pyvmm.control.runtime_dir import refuse_taken
from pyvmm.errors import ConfigError, HostError, ImageError
from pyvmm.quantity import parse_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from pyvmm.config import DeviceConfig

#: Of the name of a terminal: guest-linux-patch/init/command.c has room for so many.
TERM_BYTES = 64
TERM_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-._")


class Plan:
    """The plan of a `pyvmm run`, all resolved.

    `config` is the record of the VM; one that another process made of the same options is taken as
    it is. What else there is in `args` is about the run: names, outputs, its time.

    Raise ConfigError for options that cannot work, HostError for files that cannot be read.
    """

    def __init__(self, args: Any, config: VMConfig | None = None) -> None:
        self.args = args
        #: The project's init runs, in its initramfs: with its kernel, or with one that has modules.
        self.own_guest = args.kernel is None or (args.modules is not None and not self._root())
        self.console = args.console or ("virtio" if args.command else "serial")
        #: A person sits at both ends: the terminal goes raw and the guest's own terminal does the rest.
        self.interactive = self.console != "none" and self._has_terminal(0, 1)
        #: Otherwise bytes pass unchanged both ways, and the end of the input is passed on.
        self.framed = self.own_guest and self.console == "virtio" and not self.interactive
        self.config = config or self._config()

    @property
    def kernel(self) -> str:
        """The kernel's file."""
        kernel = self.config.boot.kernel
        assert kernel is not None
        return kernel

    @property
    def disks(self) -> list[DiskConfig]:
        """The disks, in order."""
        return [each for each in self.config.devices if isinstance(each, DiskConfig)]

    @property
    def swap(self) -> SwapConfig | None:
        """The swap disk, None without one."""
        found = (each for each in self.config.devices if isinstance(each, SwapConfig))
        return next(found, None)

    def _config(self) -> VMConfig:
        """Make the record of the VM."""
        args = self.args
        if args.command and not args.command[0]:
            raise ConfigError("the COMMAND's first word is empty; name a program of the guest")
        if args.command and not self.own_guest:
            raise ConfigError(
                "a COMMAND needs the project's own initramfs; leave root= away, or drop the COMMAND"
                if args.modules is not None
                else "a COMMAND needs the project's own initramfs; leave -k away, drop the COMMAND, or give "
                "the kernel's modules (--modules /lib/modules/RELEASE)"
            )
        refuse_without_effect(args, own_guest=self.own_guest)
        if args.name is not None:
            refuse_taken(args.name)
        disks = [parse_disk(text) for text in args.disk or []]
        swap = self._swap()
        machine = self._machine()
        kernel, initrd = self._images()
        parts = (*initrd, self._overlay()) if self.own_guest else tuple(initrd)
        boot = BootConfig(kernel, parts, self._cmdline(kernel), args.flat)
        return VMConfig(machine, boot, tuple(self._devices(disks, swap)))

    def _has_terminal(self, *descriptors: int) -> bool:
        """Return whether each is a terminal; whoever detaches leaves his own."""
        return not self.args.detach and all(map(os.isatty, descriptors))

    def check_files(self) -> None:
        """Check the files' names: a mistyped one is the user's error, and shows before anything is
        set up.
        """
        named = [("--kernel", self.args.kernel)] if self.args.kernel else []
        named += [("--initrd", name) for name in self.args.initrd or []]
        named += [("--disk", disk.file) for disk in self.disks]
        for option, name in named:
            # A module of a Multiboot kernel may have a string after its name.
            file = name.partition(" ")[0] if option == "--initrd" else name
            if not (os.path.exists(name) or os.path.exists(file)):
                raise ConfigError(f"{option} {name}: there is no such file")
        if self.own_guest and self.args.initrd:
            from pyvmm.guest import initrdpart

            for name in self.args.initrd:
                initrdpart.check(name, self.kernel)

    def _images(self) -> tuple[str, Sequence[str | bytes]]:
        args = self.args
        if args.modules is not None:
            return args.kernel, [*self._modular(), *(args.initrd or [])]
        if not self.own_guest:
            return args.kernel, args.initrd or []
        from pyvmm.guest import named

        if args.linux:
            linux, guest = args.linux, named.find_guest(args.linux)
        else:
            linux, guest = named.find_default()
        self._check_cpus(guest, linux)
        return guest.vmlinux or guest.kernel, args.initrd or [guest.initramfs]

    def _root(self) -> bool:
        """Return whether the parameters name a root file system to go on to."""
        return any(word.startswith("root=") for word in self.args.params.split())

    def _modular(self) -> list[str | bytes]:
        """Return the initramfs with the modules of the user's own kernel, and what goes on to its
        root.
        """
        from pyvmm.guest import modular

        folder, *more = self.args.modules.split(",")
        if not os.path.isdir(folder):
            raise ConfigError(f"--modules {folder}: there is no such folder")
        parts: list[str | bytes] = [modular.initramfs_with(folder, more, kernel=self.args.kernel)]
        return parts if self.own_guest else [*parts, modular.switch_root()]

    def _check_cpus(self, guest: Any, linux: str) -> None:
        """Refuse vCPUs beyond the kernel's own limit: it leaves them alone, and says so in its log
        at most.
        """
        if self.args.cpus <= 1:
            return
        from pyvmm.guest.cache import most_cpus

        most = most_cpus(guest.kernel)
        if most is not None and self.args.cpus > most:
            raise ConfigError(
                f"--cpus {self.args.cpus}: the kernel of the {linux} guest uses at most {most}; "
                "give fewer, or build one for more: pyvmm guest build --config FILE, with "
                f"CONFIG_NR_CPUS={self.args.cpus} in FILE"
            )

    def _machine(self) -> MachineConfig:
        args = self.args
        return MachineConfig(
            parse_size(args.memory, "memory"),
            args.cpus,
            shared=args.shared,
            hugepages=args.hugepages,
            nested=args.nested,
            symbiotic=False if args.no_symbiotic else None,
            end_at_status=args.debug_exit,
            kvm_path=args.kvm,
        )

    def _devices(self, disks: list[DiskConfig], swap: SwapConfig | None) -> Iterator[DeviceConfig]:
        """Yield the devices in the order in which the guest gets them."""
        yield SerialConfig()
        if self.console == "virtio":
            yield ConsoleConfig(framed=self.framed)
        yield from disks
        for tap in self.args.net or []:
            yield NetConfig(tap)
        if not self.args.no_rng:
            yield RngConfig()
        if swap is not None:
            yield swap
        if self.args.testdev:
            yield KvmUnitTestsConfig()

    def _swap(self) -> SwapConfig | None:
        args = self.args
        if args.swap is None:
            for name in ("bypass", "policy", "quota", "file"):
                if getattr(args, f"swap_{name}") is not None:
                    raise ConfigError(f"--swap-{name} says how to swap; add --swap SIZE")
            return None
        policy = args.swap_policy or ("pressure" if args.swap_quota is None else "quota")
        if (policy == "quota") != (args.swap_quota is not None):
            raise ConfigError("--swap-policy quota and --swap-quota SIZE go together")
        return SwapConfig(
            parse_size(args.swap, "swap size"),
            args.swap_bypass or "off",
            backing=args.swap_file,
            policy=policy,
            quota=None if args.swap_quota is None else parse_size(args.swap_quota, "swap quota"),
        )

    def _overlay(self) -> bytes:
        from pyvmm.guest.overlay import overlay

        return overlay(self.args.command, parse_env(self.args.env or []))

    def _cmdline(self, kernel: str) -> str:
        args = self.args
        if args.flat or (not self.own_guest and is_multiboot(kernel)):
            return str(args.params)  # nobody there to read ours
        from pyvmm.guest.named import BASE_CMDLINE, QUIET, VERBOSE

        parts = [BASE_CMDLINE]
        # The command's output must be alone on the terminal, so the kernel's goes to the log.
        quiet = bool(args.command) and not args.verbose
        if self.console == "virtio" and not self.own_guest:
            parts.append("console=ttyS0 console=hvc0")
        else:
            parts.append("console=ttyS0")
        if args.verbose:
            parts.append(VERBOSE)
        elif quiet:
            parts.append(QUIET)
        if self.own_guest:
            parts.append(self._init_params())
        if args.params:
            parts.append(args.params)
        return " ".join(part for part in parts if part)

    def _init_params(self) -> str:
        """Return the parameters for the guest's init (guest-linux-patch/init)."""
        parts = ["pyvmm.mark=1"]
        if self.args.command:
            # The command lies in the initrd's last part: init must see that this was unpacked.
            from pyvmm.guest.overlay import join_zero

            parts.append(f"pyvmm.command={len(join_zero(self.args.command, 'argument'))}")
        if self.console == "virtio":
            parts.append("pyvmm.console=hvc0")
        if self.args.swap is not None:
            parts.append(f"pyvmm.swap={SWAP_SERIAL}")
        if self.framed:
            parts.append("pyvmm.raw=1 pyvmm.stdin=framed")
        elif self._has_terminal(1):
            size = os.get_terminal_size(1)
            parts.append(f"pyvmm.size={size.columns}x{size.lines}")
            parts.append(f"pyvmm.term={terminal_name(os.environ.get('TERM', ''))}")
        return " ".join(parts)

    def as_dict(self) -> dict[str, Any]:
        """Write the plan as --dry-run and --json show it.

        Sizes are as they were given; bytes of an initrd are only counted.
        """
        args, (machine, boot, devices) = self.args, self.config
        swap = None if self.swap is None else self.swap._asdict()
        if swap is not None:
            swap |= {"size": args.swap, "quota": args.swap_quota}
        return {
            "kernel": boot.kernel,
            "initrd": [p if isinstance(p, str) else f"<{len(p)} bytes>" for p in boot.initrd],
            "cmdline": boot.cmdline,
            "memory": args.memory,
            "cpus": machine.cpus,
            "disks": [disk._asdict() for disk in self.disks],
            "net": args.net or [],
            "swap": swap,
            "console": self.console,
            "command": args.command,
            "flat": boot.flat,
            "machine": to_plain(machine),
            "devices": to_plain(devices),
        }


def is_multiboot(kernel: str) -> bool:
    """Tell a kernel with a Multiboot header, to which the parameters of Linux mean nothing.

    False for a file that is no kernel or cannot be read: loading it says what is wrong.
    """
    from pyvmm.boot.image import Image
    from pyvmm.boot.load import kind_of

    try:
        with Image(kernel, "kernel") as image:
            return kind_of(image) == "multiboot"
    except (HostError, ImageError):
        return False


def refuse_without_effect(args: Any, *, own_guest: bool) -> None:
    """Raise ConfigError for an option that would be left aside without a word."""
    if args.kernel is None and args.modules is not None:
        raise ConfigError("--modules is for a kernel of your own; give it with -k")
    if args.kernel is None and args.flat:
        raise ConfigError("--flat says how a binary of yours starts; add -k FILE")
    if args.kernel is not None and args.linux:
        raise ConfigError("--linux is for the project's own guest; leave it away, or -k")
    if args.env and not own_guest:
        raise ConfigError("--env is for the project's own guest; leave it away, or -k")
    if args.flat and args.params:
        raise ConfigError("--params: a flat binary has no kernel command line; leave them away")
    if args.log == "-":
        raise ConfigError("--log -: name a file; standard output is /dev/stdout")


def parse_disk(text: str) -> DiskConfig:
    """Return the disk of FILE[,ro][,serial=S][,format=raw]."""
    name, *options = text.split(",")
    readonly, serial, format = False, "", None
    for option in options:
        if option == "ro":
            readonly = True
        elif option.startswith("serial="):
            serial = option.removeprefix("serial=")
        elif option == "format=raw":
            format = "raw"
        else:
            raise ConfigError(f"--disk {text}: {option!r} is none of ro, serial=S, format=raw")
    if not name:
        raise ConfigError(f"--disk {text}: the file is missing")
    return DiskConfig(name, readonly, serial, format)


def terminal_name(text: str) -> str:
    """Return the kind of terminal, as it can stand on a kernel's command line; Linux's own where it
    cannot.
    """
    fits = 0 < len(text) < TERM_BYTES and all(letter in TERM_LETTERS for letter in text)
    return text if fits else "linux"


def parse_env(entries: list[str]) -> dict[str, str]:
    """Read an environment from NAME=VALUE and NAME (taken from our own environment, if it is there)."""
    result = {}
    for entry in entries:
        name, equals, value = entry.partition("=")
        if equals:
            result[name] = value
        elif name in os.environ:
            result[name] = os.environ[name]
    return result
