"""Parameters given by name, sorted into those of learning and those of the verdict."""

from collections.abc import Mapping
from dataclasses import Field, fields
from typing import Any, ClassVar, Protocol, TypeVar

from insa_anomaly.core.scoring.episodes import Policy


class Learning(Protocol):
    """A dataclass of parameters of learning."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


L = TypeVar("L", bound=Learning)


def parameters(given: Mapping[str, Any], learning: type[L]) -> tuple[L, Policy]:
    """Return the given parameters, sorted into those of learning and those of the episodes.

    Raises TypeError for an unknown parameter and ParameterError for a value out of bounds.
    """
    known = [{field.name for field in fields(kind)} for kind in (learning, Policy)]
    if unknown := set(given) - known[0] - known[1]:
        raise TypeError(
            f"unknown parameter {', '.join(sorted(unknown))}; known: {', '.join(sorted(known[0] | known[1]))}"
        )
    own, policy = (
        {name: value for name, value in given.items() if name in names} for names in known
    )
    return learning(**own), Policy(**policy)
