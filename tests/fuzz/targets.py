# SPDX-License-Identifier: Apache-2.0
"""What is fuzzed: targets of C, which are compiled for it, and of Python, which run as they are."""

from __future__ import annotations

from typing import NamedTuple


class Target(NamedTuple):
    """A name and what is under it.

    `parts` are files of csrc/ with their wing, `harness` files from this folder, both without their
    ending. `wrap` are functions of the engine that the harness stands before. `smaller` are texts
    of the engine's files, and what takes their place for a target that would take too long to fill
    something. Without parts the target is the module tests.fuzz.NAME_target.
    """

    name: str
    what: str
    parts: tuple[str, ...] = ()
    harness: tuple[str, ...] = ()
    wrap: tuple[str, ...] = ()
    max_length: int = 512
    smaller: tuple[tuple[str, str, str], ...] = ()

    @property
    def is_c(self) -> bool:
        return bool(self.parts)


#: What stands for the host under a target: system calls, and the I/O thread.
HOST = ("host", "moment", "transfer", "turn")

VIRTIO = Target(
    "virtio",
    "every virtio device behind its registers, over a host that refuses and cuts short",
    parts=(
        *("machine/memory", "host/iovec", "host/stream", "host/terminal", "host/framing"),
        *("host/thread", "virtio/blockfile", "virtio/blockmemory", "virtio/queue"),
        *("virtio/device", "virtio/serve", "virtio/mmio", "virtio/blk", "virtio/rng"),
        *("virtio/console", "virtio/net"),
    ),
    harness=("virtio_target", "virtio_driver", *HOST),
    wrap=(
        *("guest_memory_at", "guest_memory_at_writable"),
        *("guest_memory_steady_at", "guest_memory_ram_at"),
    ),
)
LOOP = Target(
    "loop",
    "the vCPU loop with symcalls, replay and the swap map, under a scripted KVM",
    parts=(
        *("machine/memory", "machine/bus", "machine/exit", "machine/vcpu"),
        *("symbiotic/symspy", "symbiotic/context", "symbiotic/hold", "symbiotic/replay"),
        *("symbiotic/frame", "symbiotic/symcall", "symbiotic/begin", "symbiotic/end"),
        *("symbiotic/local", "symbiotic/queue", "symbiotic/overlay", "symbiotic/entry"),
        *("symbiotic/doorbell", "symbiotic/probe"),
        *("swap/bypass", "host/thread"),
    ),
    harness=("loop_target", "kvm", "../support/fake_kvm"),
)
SERIAL = Target(
    "serial",
    "the serial port, its input and its output",
    parts=("serial/serial", "serial/line", "host/terminal", "host/thread"),
    harness=("serial_target", *HOST),
    max_length=256,
    smaller=(
        ("serial/line.h", "SERIAL_RING = 65536", "SERIAL_RING = 256"),
        ("serial/line.h", "SERIAL_BACKLOG = 65536", "SERIAL_BACKLOG = 256"),
    ),
)
BOOT = Target("boot", "kernel images and initrds", max_length=4096)
CONTROL = Target("control", "requests to the control socket, and a client's reading of answers")
ANSWERS = Target("answers", "what a guest's kernel answers to symcalls", max_length=4096)

TARGETS = {each.name: each for each in (VIRTIO, LOOP, SERIAL, BOOT, CONTROL, ANSWERS)}
