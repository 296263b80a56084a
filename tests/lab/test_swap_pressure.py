# SPDX-License-Identifier: Apache-2.0
"""Two guests that swap while their host runs short of memory, which the policies must not make worse."""

from __future__ import annotations

import io
import json
import sys

import pytest

from pyvmm import lab
from tests.support import squeezed

pytestmark = pytest.mark.rest


@pytest.mark.parametrize("policy", ["pressure", "always"])
def test_nobody_is_killed(policy: str) -> None:
    """Not the guests, and not the program that needs the memory; not one page is wrong."""
    squeezed.program()
    output, errors = io.BytesIO(), io.BytesIO()
    command = [sys.executable, "-m", "tests.support.squeezed", policy]
    code = lab.run(
        command, memory="1536M", timeout=3 * squeezed.PATIENCE, stdout=output, stderr=errors
    )
    assert code == 0, errors.getvalue().decode()
    said = json.loads(output.getvalue().splitlines()[-1])
    told = f"{said}\n{errors.getvalue().decode()}"
    assert said["hog"] == 0, told
    for guest in said["guests"]:
        assert guest["status"] == 0, told
        assert guest["wrong"] == 0, told
        assert guest["touches"] > 0, told
