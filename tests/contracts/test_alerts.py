"""The contract of every store of alerts, in memory and on disk."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from insa_anomaly.adapters.disk.alerts import AlertFile
from insa_anomaly.core.notification.alert import Severity
from insa_anomaly.core.notification.cadence import Cadence
from insa_anomaly.core.notification.routing import DailyBudget, Digest, Dispatch, KnownCause
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.ports.alerts import AlertStore, SilenceState
from insa_anomaly.testing.alerts import MemoryAlerts
from tests.core.alerts import DAY_ZERO, an_alert


@pytest.fixture(params=["memory", "disk"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AlertStore]:
    """Yield an empty store."""
    if request.param == "memory":
        yield MemoryAlerts()
        return
    with AlertFile(tmp_path / "alerts.db") as file:
        yield file


def put(store: AlertStore, *targets: str) -> None:
    """Queue an alert for each target, in order."""
    store.keep(
        Dispatch(sent=[(target, an_alert(number)) for number, target in enumerate(targets)]),
        [],
        DAY_ZERO,
    )


def test_alerts_wait_for_their_target_in_order(store: AlertStore) -> None:
    """Alerts wait for their target in order until they are done."""
    put(store, "mail", "github", "mail")
    first = store.next("mail", DAY_ZERO)
    assert first is not None
    assert (first.alert, first.target, first.decided_at, first.attempts) == (
        an_alert(0),
        "mail",
        DAY_ZERO,
        0,
    )
    assert store.backlog() == {"mail": 2, "github": 1}
    store.done(first)
    second = store.next("mail", DAY_ZERO)
    assert second is not None
    assert second.alert == an_alert(2)
    assert store.backlog() == {"mail": 1, "github": 1}
    assert store.next("webhook:scada", DAY_ZERO) is None


def test_what_is_postponed_lets_others_pass(store: AlertStore) -> None:
    """A postponed alert lets others pass, and is due at its time or when its target answers."""
    put(store, "mail", "mail")
    first = store.next("mail", DAY_ZERO)
    assert first is not None
    store.postpone(first, DAY_ZERO + 5)
    second = store.next("mail", DAY_ZERO)
    assert second is not None
    assert second.number != first.number
    store.done(second)
    assert store.next("mail", DAY_ZERO + 4) is None
    again = store.next("mail", DAY_ZERO + 5)
    assert again is not None
    assert (again.number, again.attempts) == (first.number, 1)
    store.postpone(again, DAY_ZERO + 500)
    store.hasten("github")
    assert store.next("mail", DAY_ZERO) is None
    store.hasten("mail")
    assert store.next("mail", DAY_ZERO) is not None


def test_what_is_of_one_cause_keeps_its_order(store: AlertStore) -> None:
    """Alerts of the same cause keep their order, even if the first is postponed."""
    opened, closed, other = an_alert(1, "a"), an_alert(2, "a", "closed"), an_alert(3, "b")
    store.keep(Dispatch(sent=[("mail", one) for one in (opened, closed, other)]), [], DAY_ZERO)
    first = store.next("mail", DAY_ZERO)
    assert first is not None
    store.postpone(first, DAY_ZERO + 5)
    told = []
    while (one := store.next("mail", DAY_ZERO)) is not None:
        told.append(one.alert)
        store.done(one)
    while (one := store.next("mail", DAY_ZERO + 5)) is not None:
        told.append(one.alert)
        store.done(one)
    assert told == [other, opened, closed]


def test_what_is_given_up_waits_no_longer(store: AlertStore) -> None:
    """An alert that is given up leaves the backlog as a dead letter."""
    put(store, "mail")
    one = store.next("mail", DAY_ZERO)
    assert one is not None
    store.give_up(one, "too old", DAY_ZERO)
    assert store.backlog() == {}
    store.forget(DAY_ZERO)


def test_a_decision_is_kept_whole(store: AlertStore) -> None:
    """A decision is stored whole: known causes, accounts and the recent events behind it.

    A cause set to None is forgotten.
    """
    known = {
        ("mail", "a"): KnownCause(Severity.WARNING, held=False),
        ("github", "b"): KnownCause(Severity.CRITICAL, held=True),
    }
    account = DailyBudget(5, 2, Digest(DAY_ZERO, 1, {"opened": 1}, {"press-1": 1}, ["x"]))
    store.keep(Dispatch(known={**known}, accounts={"mail": account}), ["e1", "e2"], DAY_ZERO)
    store.keep(Dispatch(known={("mail", "a"): None}), [], DAY_ZERO)
    assert store.known(["a", "b", "c"] * 400) == {("github", "b"): known["github", "b"]}
    assert store.known(["a"]) == {}
    assert store.accounts() == {"mail": account}
    assert store.recent() == {"e1", "e2"}
    store.keep(Dispatch(), ["e3"], DAY_ZERO)
    assert store.recent() == {"e3"}


def test_habits_and_silences_are_kept(store: AlertStore) -> None:
    """The newest cadence of each series and the current silences are stored."""
    assert (store.cadences()[0], store.silences()) == ([], SilenceState())
    store.keep_cadences(
        [SeriesKey("a", "x"), SeriesKey("b", "y")],
        Cadence(np.array([1.0, 2.0]), np.array([3.0, 4.0]), np.array([5.0, 6.0])),
    )
    store.keep_cadences(
        [SeriesKey("b", "y")], Cadence(np.array([9.0]), np.array([4.0]), np.array([6.0]))
    )
    keys, cadence = store.cadences()
    found = dict(
        zip(
            keys,
            zip(
                cadence.longest.tolist(),
                cadence.pauses.tolist(),
                cadence.span.tolist(),
                strict=True,
            ),
            strict=True,
        )
    )
    assert found == {("a", "x"): (1.0, 3.0, 5.0), ("b", "y"): (9.0, 4.0, 6.0)}
    store.keep_silences(SilenceState({None: 5, "press-1": 6}))
    store.keep_silences(SilenceState({None: 7}))
    assert store.silences() == SilenceState({None: 7})
