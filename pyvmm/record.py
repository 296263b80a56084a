# SPDX-License-Identifier: Apache-2.0
"""`typing.NamedTuple` without `typing`, whose import costs a quarter of a launch.

For type checkers the real one is imported; at run time the class body's annotations become the
fields of a tuple, as `collections.namedtuple` would make it::

    TYPE_CHECKING = False
    if TYPE_CHECKING:
        from typing import NamedTuple
    else:
        from pyvmm.record import NamedTuple

A `namedtuple` compiles a constructor of its own for each class, which takes seven times as long as
all else here, 60 us. A launch defines some thirty records.
"""

from __future__ import annotations

# collections.namedtuple makes its fields of it.
from _collections import _tuplegetter  # type: ignore[import-not-found]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, Self


class _Record(tuple[Any, ...] if TYPE_CHECKING else tuple):  # type: ignore[misc]
    """The methods that all records have: those of a `collections.namedtuple`."""

    __slots__ = ()
    _fields: tuple[str, ...] = ()
    _field_defaults: dict[str, Any] = {}

    def __new__(cls, *args: Any, **named: Any) -> Self:
        if named or len(args) != len(cls._fields):
            args = cls._filled(args, named)
        return tuple.__new__(cls, args)

    @classmethod
    def _filled(cls, args: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, ...]:
        """All values in order. Raises TypeError for a field too many, one that is given twice, or not at all."""
        fields, values = cls._fields, dict(cls._field_defaults)
        rest = fields[len(args) :]
        if len(args) > len(fields) or not named.keys() <= set(rest):
            raise TypeError(f"{cls.__name__} has the fields {', '.join(fields)}, each once")
        values |= named
        missing = [name for name in rest if name not in values]
        if missing:
            raise TypeError(f"{cls.__name__} needs {', '.join(missing)}")
        return (*args, *(values[name] for name in rest))

    @classmethod
    def _make(cls, values: Iterable[Any]) -> Self:
        return cls(*values)

    def _asdict(self) -> dict[str, Any]:
        return dict(zip(self._fields, self, strict=True))

    def _replace(self, **named: Any) -> Self:
        return type(self)(**(self._asdict() | named))

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in self._asdict().items())
        return f"{type(self).__name__}({values})"

    def __getnewargs__(self) -> tuple[Any, ...]:
        return tuple(self)


class _Maker(type):
    """Makes the class of a record when its body has run."""

    def __new__(cls, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> type:
        if not bases:
            return super().__new__(cls, name, bases, body)
        fields = tuple(body.get("__annotations__", ()))
        body["_field_defaults"] = {field: body[field] for field in fields if field in body}
        body["_fields"] = body["__match_args__"] = fields
        for place, field in enumerate(fields):
            body[field] = _tuplegetter(place, f"Field {place}.")
        body.setdefault("__slots__", ())
        return type(name, (_Record,), body)


class NamedTuple(metaclass=_Maker):
    """Base of a record; never instantiated itself."""
