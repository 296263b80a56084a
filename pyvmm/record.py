# SPDX-License-Identifier: Apache-2.0
"""`typing.NamedTuple` without `typing`, whose import costs a quarter of a launch.

For type checkers the real one is imported; at run time the class body's annotations become the fields of a
`collections.namedtuple`::

    TYPE_CHECKING = False
    if TYPE_CHECKING:
        from typing import NamedTuple
    else:
        from pyvmm.record import NamedTuple
"""

from __future__ import annotations

from collections import namedtuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class _Maker(type):
    """Makes the class of a record when its body has run."""

    def __new__(cls, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> type:
        if not bases:
            return super().__new__(cls, name, bases, body)
        fields = tuple(body.get("__annotations__", ()))
        defaults = [body.pop(field) for field in fields if field in body]
        record = namedtuple(name, fields, defaults=defaults, module=body["__module__"])  # type: ignore[misc]
        body.setdefault("__slots__", ())
        return type(name, (record,), body)


class NamedTuple(metaclass=_Maker):
    """Base of a record; never instantiated itself."""
