# SPDX-License-Identifier: Apache-2.0
"""Records are what typing.NamedTuple would have made of them."""

from __future__ import annotations

import copy
import pickle
import typing
from typing import Any

import pytest

from pyvmm.record import NamedTuple as Ours


class Real(typing.NamedTuple):
    """Two fields and a default."""

    first: int
    second: str
    third: float | None = 1.5

    @property
    def both(self) -> str:
        return f"{self.first}{self.second}"


class Made(Ours):  # type: ignore[misc]
    """Two fields and a default."""

    first: int
    second: str
    third: float | None = 1.5

    @property
    def both(self) -> str:
        return f"{self.first}{self.second}"


KINDS: list[Any] = [Real, Made]


@pytest.mark.parametrize("kind", KINDS)
def test_a_record(kind: Any) -> None:
    made = kind(1, second="b")
    assert made == (1, "b", 1.5) == kind(second="b", first=1) == kind._make([1, "b", 1.5])
    assert (made.first, made.second, made.third, made.both) == (1, "b", 1.5, "1b")
    assert made._asdict() == {"first": 1, "second": "b", "third": 1.5}
    assert made._replace(third=None) == (1, "b", None)
    assert kind._fields == kind.__match_args__ == ("first", "second", "third")
    assert kind._field_defaults == {"third": 1.5}
    assert repr(made) == f"{kind.__name__}(first=1, second='b', third=1.5)"
    assert kind.__doc__ == "Two fields and a default."
    assert isinstance(made, tuple)
    assert type(pickle.loads(pickle.dumps(made))) is type(copy.copy(made)) is kind
    assert hash(made) == hash((1, "b", 1.5))
    assert not hasattr(made, "__dict__")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("args", "named"),
    [
        ((), {}),
        ((1,), {}),
        ((1, 2, 3, 4), {}),
        ((1, 2), {"first": 3}),
        ((1, 2), {"fourth": 3}),
        ((1, 2, 3), {"third": 3}),
        ((), {"first": 1}),
    ],
)
def test_fields_that_cannot_be(kind: Any, args: tuple[Any, ...], named: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        kind(*args, **named)


@pytest.mark.parametrize("kind", KINDS)
def test_it_cannot_be_changed(kind: Any) -> None:
    made = kind(1, "b")
    for name in ("first", "other"):
        with pytest.raises(AttributeError):
            setattr(made, name, 2)
    with pytest.raises((TypeError, ValueError)):
        made._replace(fourth=1)
