"""Bounds stand once with the parameter, and hold for Python as for the configuration."""

from collections.abc import Callable
from dataclasses import fields
from math import inf, nan
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from insa_anomaly.core.bounds import NumberBounds, OrAuto, bounds
from insa_anomaly.core.learning.parameters import Parameters
from insa_anomaly.core.notification.cadence import Patience
from insa_anomaly.core.operations.model_health import Limits
from insa_anomaly.core.reading.topics import Acceptance
from insa_anomaly.core.scoring.episodes import Policy
from insa_anomaly.errors import ConfigError, ParameterError
from insa_anomaly.settings.load import Settings

SECTIONS: dict[str, Any] = {
    "detection": Parameters,
    "verdict": Policy,
    "silence": Patience,
    "health": Limits,
    "readings": Acceptance,
}
CASES = [(section, name) for section, kind in SECTIONS.items() for name in bounds(kind)]
NUMBERS = st.one_of(
    st.sampled_from([0, 1, -1, 0.5, 2, 1e-9, nan, inf, -inf, 100, 256, 1 << 32]),
    st.integers(-(1 << 33), 1 << 33),
    st.floats(-1e15, 1e15),
)


def taken(build: Callable[..., object], **values: object) -> bool:
    """Return whether the values are accepted."""
    try:
        build(**values)
    except (ValueError, ConfigError):
        return False
    return True


def test_every_number_among_the_parameters_has_bounds() -> None:
    """No number is left without bounds, so the comparison below covers every number."""
    numbers = {
        kind: [field.name for field in fields(kind) if isinstance(field.default, (int, float))]
        for kind in SECTIONS.values()
    }
    assert {kind: set(names) - set(bounds(kind)) for kind, names in numbers.items()} == {
        kind: set() for kind in SECTIONS.values()
    }


@pytest.mark.parametrize(("section", "name"), CASES)
@given(value=NUMBERS)
@settings(max_examples=12, deadline=None)
def test_python_and_the_configuration_take_the_same_values(
    section: str, name: str, value: float
) -> None:
    """A value is accepted by the class exactly if it is accepted in its section."""
    whole = isinstance(value, float) and value.is_integer()  # YAML has no other word for 3.0
    by_class = taken(SECTIONS[section], **{name: int(value) if whole else value})
    assert taken(Settings, **{section: {name: value}}) == by_class


@pytest.mark.parametrize(("section", "name"), CASES)
def test_the_error_names_the_parameter_and_its_bounds(section: str, name: str) -> None:
    """The message has the name, the value and the allowed values."""
    allowed = bounds(SECTIONS[section])[name]
    assert isinstance(allowed, NumberBounds | OrAuto)
    with pytest.raises(ParameterError) as refused:
        SECTIONS[section](**{name: -1e300})
    assert str(refused.value) == f"{name} is -1e+300; it must be {allowed}"
