"""The readable lists: models, their performance, anomalies and episodes.

Pages join to the whole, and no row appears twice.
"""

from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import redis

from insa_anomaly.core.notification.event import rfc3339
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.instrumentation.metrics import PortMetrics
from insa_anomaly.ports.anomalies import Feedback
from insa_anomaly.workbench.demo.plant import Plant
from tests.api.office import HOUR, KEY, SECOND, Office, anomaly, episode, now, opened, problem

OTHER = SeriesKey("FAN-7", "current")
API = "/api/v1/ml"


# -------------------------------------------------------------------------------- models
def test_there_is_nothing_at_first(office: Office) -> None:
    """An empty database returns empty lists with totals, not errors."""
    assert office.get(f"{API}/models") == {
        "models": [],
        "total": 0,
        "active_count": 0,
        "next": None,
    }
    assert office.get(f"{API}/anomalies") == {"anomalies": [], "total": 0, "next": None}
    assert office.get(f"{API}/episodes") == {"episodes": [], "total": 0, "next": None}


def test_models_are_listed_newest_first(office: Office) -> None:
    """Models can be filtered by device, metric and status, with totals and the active count."""
    rows = [office.train(key, now() + i) for i, key in enumerate((KEY, OTHER, KEY))]
    said = office.get(f"{API}/models")
    assert [one["id"] for one in said["models"]] == [row.id for row in reversed(rows)]
    assert (said["total"], said["active_count"]) == (3, 2)
    assert said["models"][0]["trained_at"] == rfc3339(rows[2].trained_at)
    for query, expected in (
        ({"device_id": KEY.device_id}, (2, 1)),
        ({"metric_name": OTHER.metric_name}, (1, 1)),
        ({"status": "archived"}, (1, 0)),
        ({"device_id": "nobody"}, (0, 0)),
    ):
        said = office.get(f"{API}/models", **query)
        assert (said["total"], said["active_count"]) == expected


def test_models_can_be_read_while_the_database_is_away(office: Office) -> None:
    """Models can be read without the database, because the index is on disk."""
    row = office.train()
    office.pool.close()
    assert office.get(f"{API}/models")["total"] == 1
    assert office.get(f"{API}/models/{row.id}")["status"] == "active"


def test_a_model_says_what_it_is_and_how_its_series_stands(office: Office) -> None:
    """A model shows info, metrics, status, and the state of its series in the stream.

    A series is unseen, collecting, warming or serving.
    """
    row = office.train()
    said = office.get(f"{API}/models/{row.id}")
    assert (said["info"]["id"], said["status"], said["live"]) == (row.id, "active", None)
    assert said["metrics"] == row.figures
    office.stream([1.0] * 10, since=now() - HOUR)
    assert office.get(f"{API}/models/{row.id}")["live"]["state"] == "collecting"
    office.serve(row)
    assert office.get(f"{API}/models/{row.id}")["live"]["state"] == "warming"
    newest = now()
    # the long pause before these readings began the window anew
    office.stream([1.0] * 60, since=newest - 59 * SECOND)
    live = office.get(f"{API}/models/{row.id}")["live"]
    assert live == {
        "state": "serving",
        "readings": 70,
        "newest": rfc3339(newest),
        "serving": True,
        "in_episode": live["in_episode"],
    }
    assert office.get(f"{API}/models/{office.train().id}")["live"]["serving"] is False


def test_performance_says_what_is_known(office: Office) -> None:
    """Performance shows training figures where there are any, the last week and the feedback.

    It also lists every version.
    """
    first = office.train(trained_at=now() - 48 * HOUR, basis="not assessed")
    second = office.train(
        accuracy=0.93,
        true_positive_rate=0.9,
        false_positive_rate=0.04,
        basis="faults injected into the holdout",
    )
    began = [now() - hours * HOUR for hours in (1, 2, 3, 24 * 8)]
    office.record(
        [anomaly(first, at, started_at=at) for at in began], [episode(first, at) for at in began]
    )
    for at, verdict in zip(began[1:], ("confirmed", "dismissed", "dismissed"), strict=True):
        office.query(
            "INSERT INTO feedback (episode_id, verdict, given_by) VALUES (%s, %s, 'a')",
            episode(first, at).id,
            verdict,
        )
    said = office.get(f"{API}/models/{first.id}/performance")
    assert (said["accuracy"], said["false_positive_rate"], said["basis"]) == (
        None,
        None,
        "not assessed",
    )
    assert said["reason"] == "not assessed"
    assert said["last_trained"] == rfc3339(first.trained_at)
    assert (said["live"]["anomalies"], said["live"]["episodes"], said["live"]["days"]) == (
        3,
        3,
        pytest.approx(2, abs=0.01),
    )
    assert said["live"]["alarms_per_day"] == pytest.approx(1.5, abs=0.01)
    assert said["feedback"] == {"confirmed": 1, "dismissed": 2, "precision": pytest.approx(1 / 3)}
    assert [(one["id"], one["status"]) for one in said["versions"]] == [
        (second.id, "active"),
        (first.id, "archived"),
    ]
    said = office.get(f"{API}/models/{second.id}/performance")
    assert (
        said["accuracy"],
        said["true_positive_rate"],
        said["false_positive_rate"],
        said["reason"],
    ) == (0.93, 0.9, 0.04, "")
    assert said["feedback"]["precision"] is None


def test_the_anomalies_of_a_device_are_counted_once_in_a_while(
    database: str, tmp_path: Path, redis_url: str
) -> None:
    """The anomalies of the last 24 hours are cached in Redis for a quarter of an hour."""
    with opened(database, tmp_path, redis_url=redis_url) as office:
        row = office.train()
        office.record([anomaly(row, now() - hours * HOUR) for hours in (1, 2, 25)], [])

        def counted() -> object:
            return office.get(f"{API}/models/{row.id}/performance")["live"]["device_anomalies_24h"]

        assert counted() == 2
        office.record([anomaly(row, now() - HOUR // 2)], [])
        assert counted() == 2
        with redis.Redis.from_url(redis_url, decode_responses=True) as client:
            name = f"ml:anomalies:{KEY.device_id}:count:24h"
            assert client.get(name) == "2"
            assert 890 <= int(str(client.ttl(name))) <= 900


def test_who_looks_on_finds_nearly_all_of_it_counted(
    database: str, tmp_path: Path, redis_url: str
) -> None:
    """More than 95 % of the counts are cached for a screen that refreshes every ten seconds.

    The screen shows every model of the demonstration's plant for a minute.
    """
    with opened(database, tmp_path, redis_url=redis_url) as office:
        rows = [office.train(key) for key in Plant().series]
        before = _looked_up()
        for _ in range(6):
            for row in rows:
                office.get(f"{API}/models/{row.id}/performance")
        hits, misses = (after - then for after, then in zip(_looked_up(), before, strict=True))
    assert hits + misses == 6 * len(rows)
    assert hits / (hits + misses) > 0.95


def _looked_up() -> tuple[float, float]:
    """Return hits and misses, as they are counted for Prometheus."""
    hits, misses = (
        metric.labels("anomaly_count")._value.get()
        for metric in (PortMetrics.cache_hits, PortMetrics.cache_misses)
    )
    return float(hits), float(misses)


@pytest.mark.parametrize("path", ["{}", "{}/performance"])
def test_a_model_there_is_not(office: Office, path: str) -> None:
    """A well-formed unknown id is 404, and a malformed id is 422."""
    problem(office.ask("read", "GET", f"{API}/models/" + path.format(uuid4())), 404)
    for hostile in ("1", "..", "%00", "x" * 5000, "%2e%2e%5c", "'; DROP TABLE ml_models; --"):
        assert office.ask("read", "GET", f"{API}/models/" + path.format(hostile)).status_code in {
            404,
            422,
        }


# ----------------------------------------------------------------------------- findings
def test_anomalies_are_read_with_all_that_is_known_of_them(office: Office) -> None:
    """An anomaly shows its times as RFC 3339, its reasons and its episode."""
    row, at = office.train(), now() - HOUR
    one = anomaly(row, at, 0.6, started_at=at)
    office.record([one], [episode(row, at)])
    [said] = office.get(f"{API}/anomalies")["anomalies"]
    assert said["id"] == one.id
    assert said["timestamp"] == rfc3339(at)
    assert (said["value"], said["score"], said["confidence"], said["expected"]) == (
        9.5,
        -0.6,
        0.6,
        1.0,
    )
    assert said["reasons"] == [{"feature": "jump", "share": 1.0, "text": "a jump"}]
    assert said["episode_id"] == one.episode_id


def test_filters_let_through_what_they_say(office: Office) -> None:
    """Filters work alone and together; `from` is inclusive and `to` exclusive."""
    rows = {key: office.train(key) for key in (KEY, OTHER)}
    base = now() - 10 * HOUR
    every = [
        anomaly(rows[key], base + hour * HOUR, hour / 10, base)
        for hour in range(5)
        for key in (KEY, OTHER)
    ]
    office.record(every, [])
    for query, expected in (
        ({}, 10),
        ({"device_id": KEY.device_id}, 5),
        ({"metric_name": OTHER.metric_name}, 5),
        ({"device_id": KEY.device_id, "metric_name": OTHER.metric_name}, 0),
        ({"model_id": rows[KEY].id}, 5),
        ({"episode_id": every[0].episode_id}, 5),
        ({"from": rfc3339(base + HOUR)}, 8),
        ({"to": rfc3339(base + HOUR)}, 2),
        ({"from": rfc3339(base + HOUR), "to": rfc3339(base + 3 * HOUR), "device_id": OTHER[0]}, 2),
        ({"min_confidence": 0.3}, 4),
    ):
        said = office.get(f"{API}/anomalies", **query)
        assert (said["total"], len(said["anomalies"])) == (expected, expected), query


@pytest.mark.parametrize("kind", ["anomalies", "episodes", "models"])
def test_pages_join_to_the_whole(office: Office, kind: str) -> None:
    """Each row appears once, newest first, also where many rows share a time.

    Every page states the total.
    """
    base = now() - HOUR
    rows = [office.train(SeriesKey(f"d{i}", "m"), base + i // 3) for i in range(7)]
    office.record(
        [anomaly(row, base + i // 3) for i, row in enumerate(rows)],
        [episode(row, base + i // 3) for i, row in enumerate(rows)],
    )
    whole = [one["id"] for one in office.get(f"{API}/{kind}")[kind]]
    assert len(set(whole)) == 7
    for limit in (1, 2, 3, 7):
        found: list[str] = []
        query: dict[str, Any] = {"limit": limit}
        while True:
            page = office.get(f"{API}/{kind}", **query)
            assert page["total"] == 7
            found += [one["id"] for one in page[kind]]
            if page["next"] is None:
                break
            query["cursor"] = page["next"]
        assert found == whole


def test_episodes_are_read_with_what_was_said_of_them(office: Office) -> None:
    """An episode is listed with its feedback, open or closed."""
    row, base = office.train(), now() - HOUR
    office.record([], [episode(row, base), episode(row, base + 1, base + 2)])
    feedback = Feedback("confirmed", "bearing", "someone", now())
    office.query(
        "INSERT INTO feedback VALUES (%s, 'confirmed', 'bearing', 'someone', instant(%s))",
        episode(row, base).id,
        feedback.given_at,
    )
    closed, still_open = office.get(f"{API}/episodes")["episodes"]
    assert (closed["closed_at"], closed["feedback"]) == (rfc3339(base + 2), None)
    assert still_open["closed_at"] is None
    assert still_open["feedback"] == {
        "verdict": "confirmed",
        "note": "bearing",
        "given_by": "someone",
        "given_at": rfc3339(feedback.given_at),
    }
    assert [one["id"] for one in office.get(f"{API}/episodes", open=True)["episodes"]] == [
        still_open["id"]
    ]
    assert [one["id"] for one in office.get(f"{API}/episodes", open="false")["episodes"]] == [
        closed["id"]
    ]


@pytest.mark.parametrize("kind", ["anomalies", "episodes", "models"])
@pytest.mark.parametrize(
    "query",
    [
        {"limit": 0},
        {"limit": 1001},
        {"limit": "many"},
        {"cursor": "x"},
        {"cursor": "1~x"},
        {"cursor": "99999999999999999999~00000000-0000-4000-8000-000000000000"},
        {"device_id": ""},
        {"device_id": "a/b"},
        {"device_id": "\x00"},
        {"device_id": "x" * 201},
        {"no_such": 1},
    ],
)
def test_queries_that_make_no_sense_are_refused(
    office: Office, kind: str, query: dict[str, Any]
) -> None:
    """The refusal names the wrong field, and does not repeat the value that was sent."""
    said = problem(office.ask("read", "GET", f"{API}/{kind}", params=query), 422)
    assert said["errors"][0]["where"].startswith("query")


@pytest.mark.parametrize(
    "query",
    [
        {"from": "yesterday"},
        {"from": "0.0"},
        {"to": "1795341600"},
        {"from": "2026-11-22T10:00:00"},
        {"min_confidence": "nan"},
        {"min_confidence": 1.5},
        {"model_id": 7},
    ],
)
def test_filters_that_make_no_sense_are_refused(office: Office, query: dict[str, Any]) -> None:
    """A time needs a zone, and a confidence is a number from 0 to 1."""
    problem(office.ask("read", "GET", f"{API}/anomalies", params=query), 422)


def test_what_only_the_database_knows_needs_it(office: Office) -> None:
    """A list that needs the database is 503 with a time to retry while the database refuses."""
    row = office.train()
    office.query("ALTER TABLE anomaly_detections RENAME TO gone")
    for path in ("anomalies", f"models/{row.id}/performance"):
        answer = office.ask("read", "GET", f"{API}/{path}")
        assert "gone" not in problem(answer, 503)["detail"]
        assert int(answer.headers["retry-after"]) > 0
