# SPDX-License-Identifier: Apache-2.0
"""Orders for a QEMU that runs (QEMU Machine Protocol): what an operator would change about its
guest's memory.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from pathlib import Path
from typing import Any

PATIENCE = 60.0


def options(door: str) -> list[str]:
    """Return QEMU's, for orders at that path."""
    return ["-qmp", f"unix:{door},server=on,wait=off"]


def soon(door: str, command: str, **arguments: Any) -> None:
    """Give an order from a thread, to a QEMU that may not be there yet."""
    Path(door).unlink(missing_ok=True)
    threading.Thread(target=order, args=(door, command, arguments), daemon=True).start()


def order(door: str, command: str, arguments: dict[str, Any]) -> None:
    """Give it, and wait until QEMU has taken it. RuntimeError if it refuses."""
    deadline = time.monotonic() + PATIENCE
    while not Path(door).exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    orders = ({"execute": "qmp_capabilities"}, {"execute": command, "arguments": arguments})
    with socket.socket(socket.AF_UNIX) as qmp:
        qmp.settimeout(PATIENCE)
        qmp.connect(door)
        with qmp.makefile("rb") as answers:
            answers.readline()
            for each in orders:
                qmp.sendall(json.dumps(each).encode())
                answer = json.loads(answers.readline())
                if "error" in answer:
                    raise RuntimeError(f"QEMU: {command}: {answer['error']['desc']}")
