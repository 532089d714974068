"""One figure of the benchmark: what was measured, beside its baseline."""

import msgspec


class Figure(msgspec.Struct, frozen=True):
    """`ratio` says how many times better than the baseline the value is, whichever way better lies."""

    figure: str
    value: float
    unit: str
    baseline: float
    ratio: float

    @classmethod
    def less_is_better(cls, name: str, value: float, unit: str, baseline: float) -> "Figure":
        """A time or a size."""
        return cls(name, _short(value), unit, _short(baseline), _short(baseline / value))

    @classmethod
    def more_is_better(cls, name: str, value: float, unit: str, baseline: float) -> "Figure":
        """A rate."""
        return cls(name, _short(value), unit, _short(baseline), _short(value / baseline))

    def line(self) -> str:
        """One line of JSON."""
        return msgspec.json.encode(self).decode()


def _short(value: float) -> float:
    """Four digits are more than a measurement on a shared machine holds."""
    return float(f"{value:.4g}")
