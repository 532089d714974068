"""Bounds of parameters, stated with the field that they bound and checked wherever a value is made.

A frozen dataclass states the bounds of a field as `Annotated[float, Gt(0)]` and calls `check(self)`
in `__post_init__`. The configuration reads the same metadata, which is that of annotated-types. So
a value that config.yaml refuses is refused from Python, and the other way round.
"""

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from math import inf, isfinite
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt

from insa_anomaly.errors import ParameterError

Positive = Annotated[float, Gt(0), Lt(inf)]
Nonnegative = Annotated[float, Ge(0), Lt(inf)]
Share = Annotated[float, Ge(0), Le(1)]
Significance = Annotated[float, Gt(0), Le(0.1)]
Count = Annotated[int, Gt(0)]

_WORDS = {Gt: "greater than", Ge: "at least", Lt: "less than", Le: "at most"}


@dataclass(frozen=True)
class OrAuto:
    """Metadata of a number that may be the word auto instead."""

    kind: type[float]  # float or int
    least: float
    most: float

    def admits(self, value: object) -> bool:
        """Whether the value is auto, or a number within the bounds."""
        limits = (Ge(self.least), Le(self.most))
        return value == "auto" or NumberBounds(self.kind, limits, optional=False).admits(value)

    def parsed(self, value: Any) -> float | str:  # noqa: ANN401 - as it stands in the configuration
        """Return the number or auto that a text or a value stands for. Raises ValueError."""
        if value == "auto":
            return "auto"
        try:
            number = self.kind(value)
        except (TypeError, ValueError, OverflowError):
            raise ValueError(str(self)) from None
        if not self.admits(number) or (isinstance(value, float) and number != value):
            raise ValueError(str(self))
        return number

    def __get_pydantic_core_schema__(self, _source: object, _handler: object) -> dict[str, object]:
        """Tell pydantic to parse with `parsed`: a schema of pydantic is a dictionary."""
        function = {"type": "no-info", "function": self.parsed}
        return {"type": "function-plain", "function": function}

    def __str__(self) -> str:
        return f"'auto', or a number from {self.least} to {self.most}"


@dataclass(frozen=True)
class NumberBounds:
    """Bounds of a number."""

    kind: type[float]
    limits: tuple[Gt | Ge | Lt | Le, ...]
    optional: bool

    def admits(self, value: object) -> bool:
        """Whether the value is a number within the bounds, or None where that is allowed."""
        if value is None:
            return self.optional
        return _is_number(value, self.kind) and all(_within(value, limit) for limit in self.limits)

    def __str__(self) -> str:
        bounds = [(_WORDS[type(limit)], _bound(limit)) for limit in self.limits]
        words = [f"{word} {bound}" for word, bound in bounds if isfinite(bound)]
        number = "a whole number" if self.kind is int else "a number"
        return " ".join([number, " and ".join(words)]).strip()


def check(values: object) -> None:
    """Raise ParameterError for the first field of a dataclass whose value is out of its bounds."""
    kind: type = type(values)
    for name, allowed in bounds(kind).items():
        value = getattr(values, name)
        if not allowed.admits(value):
            raise ParameterError(name, value, str(allowed))


@cache
def bounds(kind: type) -> dict[str, OrAuto | NumberBounds]:
    """Return the bounds of every field of a dataclass that has any."""
    hints = get_type_hints(kind, include_extras=True)
    return {name: found for name, hint in hints.items() if (found := _of(hint)) is not None}


def _of(hint: Any) -> OrAuto | NumberBounds | None:  # noqa: ANN401 - any annotation
    for part in _alternatives(hint):
        if get_origin(part) is not Annotated:
            continue
        kind, *metadata = get_args(part)
        if own := [one for one in metadata if isinstance(one, OrAuto)]:
            return own[0]
        limits = tuple(one for one in metadata if isinstance(one, Gt | Ge | Lt | Le))
        if limits:
            return NumberBounds(kind, limits, NoneType in _alternatives(hint))
    return None


def _alternatives(hint: Any) -> Iterator[Any] | tuple[Any, ...]:  # noqa: ANN401 - any annotation
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _is_number(value: object, kind: type[float]) -> bool:
    return isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)


def _bound(limit: Gt | Ge | Lt | Le) -> Any:  # noqa: ANN401 - as annotated-types types it
    return getattr(limit, type(limit).__name__.lower())


def _within(value: Any, limit: Gt | Ge | Lt | Le) -> bool:  # noqa: ANN401 - a number
    admits = {Gt: operator.gt, Ge: operator.ge, Lt: operator.lt, Le: operator.le}[type(limit)]
    return bool(admits(value, _bound(limit)))
