# SPDX-License-Identifier: Apache-2.0
"""Lines of the control protocol: one JSON object each, a request one way, its answer the other."""

from __future__ import annotations

import json
from itertools import islice

from pyvmm import errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Changes when an operation or an answer changes its meaning; what is only added leaves it.
VERSION = 1
#: Of a request, bytes. The longest is a symcall with a full data area in base64, a tenth of it.
MAX_REQUEST = 64 << 10
#: Lists and objects in a request: more than one that is meant has, and no depth that a parser minds.
MAX_NESTED = 100
#: Of an answer, bytes: what a VM still sends and a client still reads. 65,536 tasks and 16 MiB in base64 fit.
MAX_ANSWER = 64 << 20
#: Parts of a list in it.
MAX_PARTS = 1 << 17


_PLAIN = (bool, int, float, str, type(None))


class ProtocolError(errors.Error, ValueError):
    """A line or message that breaks the protocol."""


def encode(message: dict[str, Any]) -> bytes:
    """Return a message as a line."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def decode_request(line: bytes) -> dict[str, Any]:
    """Do the same for a request, from a client that may send anything. Raise ProtocolError."""
    if line.count(b"[") + line.count(b"{") > MAX_NESTED:
        raise ProtocolError(f"the request has more than {MAX_NESTED} lists and objects")
    return decode(line)


def decode(line: bytes) -> dict[str, Any]:
    """Return the object of a line. Raise ProtocolError."""
    try:
        message = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"the line is no JSON: {error}") from error
    if not isinstance(message, dict):
        raise ProtocolError(f"the line is no JSON object but a {type(message).__name__}")
    return message


def plain(value: Any) -> Any:
    """Return the same in what JSON has: records and their parts become objects, bytes an object
    with `base64`.
    """
    if hasattr(value, "_asdict"):
        parts = value._asdict()
        for name, part in parts.items():
            if not isinstance(part, _PLAIN):
                parts[name] = plain(part)
        return parts
    if isinstance(value, dict):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"base64": to_base64(bytes(value))}
    if isinstance(value, _PLAIN):
        return value
    if not hasattr(value, "__iter__"):
        return str(value)
    found = [plain(part) for part in islice(value, MAX_PARTS + 1)]
    if len(found) > MAX_PARTS:
        raise errors.LimitError(f"the answer has more than {MAX_PARTS} parts")
    return found


def to_base64(data: bytes) -> str:
    """Encode bytes as text, in base64."""
    import base64

    return base64.b64encode(data).decode("ascii")


def from_base64(text: str) -> bytes:
    """Raise ProtocolError if the text is none."""
    import base64

    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise ProtocolError(f"data is no base64: {error}") from error


def error_record(error: BaseException) -> dict[str, Any]:
    """Return an exception as the `error` of an answer: its kind, message, and reason and code where
    it has them.
    """
    known = isinstance(error, errors.Error)
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    record: dict[str, Any] = {
        "kind": type(error).__name__ if known else "InternalError",
        "message": text if known else f"{type(error).__name__}: {text}",
        "reason": getattr(error, "reason", None) if known else None,
    }
    code = error.errno if isinstance(error, OSError) else getattr(error, "code", None)
    if isinstance(code, int):
        record["code"] = code
    return record


def error_of(record: Any) -> errors.Error:
    """Make the exception again, for a client to raise; kinds that it does not know become `Error`."""
    if not isinstance(record, dict):
        return ProtocolError(f"an answer without a reason: {record!r}")
    kind, message = str(record.get("kind")), str(record.get("message"))
    code = record.get("code")
    code = code if isinstance(code, int) else 0
    if kind == "SymcallError":
        return errors.SymcallError(message, str(record.get("reason")), code)
    if kind == "ProtocolError":
        return ProtocolError(message)
    known = getattr(errors, kind, None)
    if not (isinstance(known, type) and issubclass(known, errors.Error)):
        return errors.Error(f"{kind}: {message}" if kind == "InternalError" else message)
    if issubclass(known, errors.HostError):
        return known(code, message)
    return known(message)
