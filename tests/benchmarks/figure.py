"""A figure of the benchmark: a measured value beside its baseline."""

import msgspec


class Figure(msgspec.Struct, frozen=True):
    """A value and its baseline; `ratio` states how many times better the value is."""

    figure: str
    value: float
    unit: str
    baseline: float
    ratio: float

    @classmethod
    def less_is_better(cls, name: str, value: float, unit: str, baseline: float) -> "Figure":
        """Return a figure of a time or a size."""
        return cls(name, _short(value), unit, _short(baseline), _short(baseline / value))

    @classmethod
    def more_is_better(cls, name: str, value: float, unit: str, baseline: float) -> "Figure":
        """Return a figure of a rate."""
        return cls(name, _short(value), unit, _short(baseline), _short(value / baseline))

    def line(self) -> str:
        """Return the figure as a line of JSON."""
        return msgspec.json.encode(self).decode()


def _short(value: float) -> float:
    """Round to four digits, which is more than a measurement on a shared machine holds."""
    return float(f"{value:.4g}")
