# SPDX-License-Identifier: Apache-2.0
"""How a command ends that failed: a line on stderr and an exit status that is never taken for the
guest's.
"""

from __future__ import annotations

import errno
import os
import sys

from pyvmm.errors import Error
from pyvmm.launch import status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

#: Out of descriptors: the process, the host.
SHORT = (errno.EMFILE, errno.ENFILE)
#: How far causes are followed.
DEPTH = 20


def told(error: Exception, *, verbose: bool = False) -> int:
    """Say what went wrong, with `verbose` where as well; the exit status for it
    (`pyvmm.launch.status`).
    """
    text, code = judge(error)
    print(f"pyvmm: {text}", file=sys.stderr)
    if verbose and not isinstance(error, Error):
        import traceback

        traceback.print_exception(error)
    return code


def judge(error: Exception) -> tuple[str, int]:
    """Return a sentence about it, and the exit status."""
    if any(isinstance(one, OSError) and one.errno in SHORT for one in causes(error)):
        limit = os.sysconf("SC_OPEN_MAX")
        return (
            f"too many open files: this process may have {limit}; raise ulimit -n, or take fewer vCPUs and devices",
            status.HOST,
        )
    if isinstance(error, Error):
        return str(error), status.of_error(error)
    if isinstance(error, MemoryError):
        return "the host gives pyvmm no more memory", status.HOST
    text = " ".join(str(error).split())
    return (
        f"an error of pyvmm itself: {type(error).__name__}: {text}; with --verbose it says where",
        status.VMM,
    )


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the exception, and those that it came of."""
    for _ in range(DEPTH):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__
