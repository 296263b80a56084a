# SPDX-License-Identifier: Apache-2.0
"""Exceptions for a lab that has failed itself, rather than the command in it."""

from __future__ import annotations

from pyvmm.errors import HostError


class LabError(HostError):
    """The outer machine could not be started, or ended before the command did.

    The message has the end of what its console and QEMU said. The exit status for it is 125.
    """


class LabTimeout(LabError, TimeoutError):
    """The command took longer than it was allowed to; it and the machine are gone."""
