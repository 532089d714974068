"""A board that is read while it is written: every look is whole.

No reader delays the writer.
"""

from collections.abc import Iterator
from dataclasses import replace
from threading import Event, Thread
from time import monotonic, sleep

import numpy as np
import pytest

from insa_anomaly.core.series import features
from insa_anomaly.errors import DaemonSilent
from insa_anomaly.runtime.fleet.shared_windows import SharedWindows
from insa_anomaly.testing.clock import SettableClock
from insa_anomaly.wiring.clock import SystemClock
from tests.runtime.streams import PARAMETERS, model

ROWS = 4


@pytest.fixture
def windows() -> SharedWindows:
    """Return a board of a few series."""
    return SharedWindows(ROWS, PARAMETERS.n_estimators)


@pytest.fixture
def written(windows: SharedWindows) -> Iterator[SharedWindows]:
    """Yield a board whose rows are written all the time, in parts.

    All numbers of a state are the same once it is whole.
    """
    stop = Event()

    def write() -> None:
        turn = 0
        numbers = np.array([1, 2])
        while not stop.is_set():
            turn += 1
            with windows.changing(numbers):
                for column in range(features.STATE.width):
                    windows.states[numbers, column] = turn
            sleep(0.0001)

    writer = Thread(target=write, daemon=True)
    writer.start()
    yield windows
    stop.set()
    writer.join(10.0)


def test_every_look_is_whole(written: SharedWindows) -> None:
    """Every look is whole, and later looks see later states."""
    seen = set()
    until = monotonic() + 2.0
    while monotonic() < until:
        state = written.read(2, SystemClock()).state
        assert (state == state[0]).all()
        seen.add(float(state[0]))
    assert len(seen) > 10


def test_a_row_that_nobody_goes_on_with_is_given_up(windows: SharedWindows) -> None:
    """A look at a row whose writer is frozen or gone gives up; other rows can be read."""
    with windows.changing(1):
        with pytest.raises(DaemonSilent):
            windows.read(1, SettableClock())
        assert windows.read(2, SettableClock()).model is None
    assert windows.read(1, SettableClock()).model is None


def test_a_change_that_failed_is_over(windows: SharedWindows) -> None:
    """A change that failed may leave its row half written, but not locked for ever."""
    with pytest.raises(ZeroDivisionError), windows.changing(1):
        windows.states[1, 0] = 1 / 0
    assert windows.read(1, SettableClock()).index == 1


def test_a_model_has_its_name_only_when_it_is_whole(
    windows: SharedWindows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A score from a forest that is replaced meanwhile is discarded."""
    first = model(0)
    second = replace(first, id="another", version=2)
    scaled = np.zeros((1, features.WIDTH), np.float32)
    with windows.changing(1):
        windows.put(1, first)
    assert windows.read(1, SettableClock()).model == (first.id, first.version)
    walked = windows.isolate(1, first.id, scaled)
    assert walked is not None
    assert walked[0] == first.forest.score_samples(scaled)[0]
    assert windows.isolate(1, "another", scaled) is None

    put, during = windows.models.put, []

    def putting(row: int, model: object) -> None:
        during.append(windows.isolate(1, first.id, scaled))
        put(row, second)

    monkeypatch.setattr(windows.models, "put", putting)
    with windows.changing(1):
        windows.put(1, second)
    assert during == [None]
    assert windows.isolate(1, first.id, scaled) is None
    assert windows.isolate(1, "another", scaled) is not None
    with windows.changing(1):
        windows.put(1, None)
    assert windows.read(1, SettableClock()).model is None
    assert windows.isolate(1, "another", scaled) is None
