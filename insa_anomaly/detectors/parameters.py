"""Parameters given by name, sorted into those of learning and those of the verdict."""

from collections.abc import Mapping
from dataclasses import Field, fields
from typing import Any, ClassVar, Protocol, TypeVar

import msgspec

from insa_anomaly.core.scoring.episodes import Policy


class Learning(Protocol):
    """A dataclass of parameters of learning."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


L = TypeVar("L", bound=Learning)


def parameters(given: Mapping[str, float | str], learning: type[L]) -> tuple[L, Policy]:
    """The parameters as these two know them. Raises TypeError for one that neither takes, or of the wrong kind."""
    known = [{field.name for field in fields(kind)} for kind in (learning, Policy)]
    if unknown := set(given) - known[0] - known[1]:
        raise TypeError(
            f"unknown parameter {', '.join(sorted(unknown))}; known: {', '.join(sorted(known[0] | known[1]))}"
        )
    own, verdict = (
        {name: value for name, value in given.items() if name in names} for names in known
    )
    try:
        return msgspec.convert(own, learning), msgspec.convert(verdict, Policy)
    except msgspec.ValidationError as error:
        raise TypeError(f"a parameter is not what it should be: {error}") from error
