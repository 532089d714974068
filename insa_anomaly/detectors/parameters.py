"""Parameters given by name, sorted into parameters of learning and of episodes."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from insa_anomaly.core.learning.parameters import Parameters
from insa_anomaly.core.scoring.episodes import Policy

L = TypeVar("L", bound=Parameters)


def parameters(given: Mapping[str, Any], learning: type[L]) -> tuple[L, Policy]:
    """Return the given parameters, sorted into parameters of learning and of episodes.

    Raises TypeError for an unknown parameter and ParameterError for a value out of bounds.
    """
    known = [{field.name for field in fields(kind)} for kind in (learning, Policy)]
    if unknown := set(given) - known[0] - known[1]:
        names = ", ".join(sorted(known[0] | known[1]))
        raise TypeError(f"unknown parameter {', '.join(sorted(unknown))}; known: {names}")
    own, policy = ({name: given[name] for name in given if name in names} for names in known)
    return learning(**own), Policy(**policy)
