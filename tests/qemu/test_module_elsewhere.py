# SPDX-License-Identifier: Apache-2.0
"""The guest driver as a module where nobody offers the interface, on an emulated CPU: it stays out and says nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pyvmm.guest.stock import stock
from tests.support import kernels
from tests.support.qemu import boot

if TYPE_CHECKING:
    from pathlib import Path

SCRIPT = """
echo loaded=$(grep -c symbiotic /proc/modules)
insmod /lib/modules/symbiotic.ko
dmesg | grep -iE 'symbiotic|warning:|bug:|call trace' | grep -vE 'out-of-tree|module verification'
echo end of log; exit 45
"""


@pytest.mark.parametrize("linux", [kernels.one(linux) for linux in kernels.DEBIAN])
def test_module_does_not_load_and_harms_nothing(linux: str, tmp_path: Path) -> None:
    run = boot(stock(linux, symbiotic=True), tmp_path, ["sh", "-c", SCRIPT])
    said = run.output.replace("\r", "")
    assert "loaded=0\n" in said
    refused = "insmod: can't insert '/lib/modules/symbiotic.ko': No such device\n"
    assert f"{refused}end of log\n" in said
    assert run.ended_with(45)
