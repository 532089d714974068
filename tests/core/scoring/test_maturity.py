"""Maturity of a model, and the quarantine of readings that alarmed."""

from dataclasses import replace

import numpy as np

from insa_anomaly.core.scoring.maturity import Maturity, grown, quarantined
from insa_anomaly.core.units import DAY, Floats
from tests.core.streams import MINUTE, SMALL, START

PARAMETERS = replace(SMALL, mature_days=1.0, mature_readings=2000)
OLD = Maturity(
    known=5000, first=START - 10 * DAY, through=START - 1, released=START - 1, mature=True
)


def minutes(n: int) -> Floats:
    """Return times of `n` readings."""
    return np.asarray(START + np.arange(n) * MINUTE, np.float64)


def test_a_model_grows_older_with_all_that_was_ever_learnt() -> None:
    """A model matures by time and by readings together, and stays mature.

    Readings known before count once.
    """
    assert not grown(None, minutes(1999), MINUTE, PARAMETERS).mature
    assert grown(None, minutes(2000), MINUTE, PARAMETERS).mature
    assert not grown(None, minutes(2000) / 2, MINUTE, replace(PARAMETERS, mature_days=10.0)).mature
    young = grown(None, minutes(1500), MINUTE, PARAMETERS)
    older = grown(young, minutes(2000)[400:], MINUTE, PARAMETERS)
    assert (older.known, older.first, older.through, older.mature) == (
        2000,
        START,
        minutes(2000)[-1],
        True,
    )
    assert grown(OLD, minutes(100), MINUTE, PARAMETERS).mature


def told(*rows: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return the times of some readings, given by row."""
    return np.array([START + row * MINUTE for row in rows], np.int64)


def test_while_it_is_young_everything_is_learnt_for_good() -> None:
    """A young model learns readings that alarmed, and releases them up to the newest reading."""
    for before in (None, replace(OLD, mature=False)):
        alarmed, released = quarantined(before, minutes(250), told(10, 11), 20)
        assert not alarmed.any()
        assert released == minutes(250)[-1]


def test_a_mature_one_leaves_out_what_alarmed_until_it_is_how_it_is_now() -> None:
    """A mature model leaves out readings that alarmed until they become a new level.

    A new level is more than half of the last four steps. Released readings are always learnt.
    """
    alarmed, released = quarantined(OLD, minutes(250), told(10, 11), 20)
    assert np.flatnonzero(alarmed).tolist() == [10, 11]
    assert released == OLD.released
    assert quarantined(OLD, minutes(250), told(*range(170, 209)), 20)[0].sum() == 39
    alarmed, released = quarantined(OLD, minutes(250), told(10, *range(170, 210)), 20)
    assert not alarmed.any()
    assert released == minutes(250)[-1]
    assert not quarantined(
        replace(OLD, released=START + 20 * MINUTE), minutes(250), told(10, 11), 20
    )[0].any()


def test_too_little_is_never_left() -> None:
    """All readings are learnt where fewer than a hundred would remain."""
    assert not quarantined(OLD, minutes(150), told(*range(60)), 10)[0].any()
