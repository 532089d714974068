"""Events as alerts: their text, their severity and their cause."""

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from insa_anomaly.core.notification.alert import (
    ANOMALY_TOPIC,
    MODEL_TOPIC,
    SILENCE_TOPIC,
    Alert,
    Severity,
    alerts_of,
    delivery_id,
    described,
    linked,
)
from insa_anomaly.core.notification.event import Event, Reason
from tests.core.alerts import an_alert

EVENT = Event(
    event_id="e1",
    kind="opened",
    episode_id="ep1",
    device_id="press-1",
    metric_name="pressure",
    timestamp="2026-01-02T03:04:05.000000Z",
    value=9.25,
    expected=5.0,
    lower=4.0,
    upper=6.0,
    score=-0.8,
    confidence=0.8,
    reasons=[Reason("value", 0.7, "far above its band")],
    model_id="m1",
    model_version=3,
    started_at="2026-01-02T03:04:05.000000Z",
    historical=False,
)


def heard(topic: str, **fields: object) -> list[object]:
    """Return severity, cause and `ends` of the alerts that an event leads to."""
    return [
        (one.severity, one.cause, one.ends)
        for one in alerts_of(topic, msgspec.json.encode(fields), 0.9)
    ]


@given(
    payload=st.binary()
    | st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=3).map(
        msgspec.json.encode
    )
)
@example(payload=b"{}")
@example(payload=b'{"kind": [], "event_id": {}}')
@example(payload=b'{"kind": "opened", "event_id": "1", "confidence": "much", "episode_id": 3}')
@pytest.mark.parametrize(
    "topic", [ANOMALY_TOPIC + "press-1", SILENCE_TOPIC, MODEL_TOPIC + "degraded", "something/else"]
)
def test_law_nothing_that_is_published_can_break_it(topic: str, payload: bytes) -> None:
    """Any payload is parsed without an error, and every alert found can be described and stored."""
    for alert in alerts_of(topic, payload, 0.9):
        assert described(alert, "")
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(alert), type=Alert) == alert


@pytest.mark.parametrize(
    ("kind", "confidence", "severity", "ends"),
    [
        ("opened", 0.5, Severity.WARNING, False),
        ("opened", 0.9, Severity.CRITICAL, False),
        ("worsened", 1.0, Severity.CRITICAL, False),
        ("closed", 1.0, Severity.INFO, True),
    ],
)
def test_an_episode_is_as_bad_as_it_is_sure(
    kind: str, confidence: float, severity: Severity, ends: bool
) -> None:
    """The severity of an episode follows its confidence, and its end is only information."""
    event = msgspec.structs.replace(EVENT, kind=kind, confidence=confidence)
    (alert,) = alerts_of(ANOMALY_TOPIC + "press-1", msgspec.json.encode(event), 0.9)
    assert (alert.severity, alert.ends, alert.cause, alert.event_id) == (
        severity,
        ends,
        "ep1",
        "e1",
    )


def test_models_and_silences_say_themselves() -> None:
    """A model event brings its own severity and cause; the cause of a silence is its device."""
    degraded = {
        "event_id": "e2",
        "severity": "critical",
        "cause": "degraded:a/b",
        "open": True,
        "device_id": "a",
        "metric_name": "b",
    }
    assert heard(MODEL_TOPIC + "degraded", **degraded) == [
        (Severity.CRITICAL, "degraded:a/b", False)
    ]
    assert heard(MODEL_TOPIC + "recovered", **(degraded | {"severity": "info", "open": False})) == [
        (Severity.INFO, "degraded:a/b", True)
    ]
    recovered = {
        "at": 1_767_323_045_000_000,
        "figures": {"accuracy": 0.81},
        "reason": "it is not what it was",
        "model_id": "m1",
    }
    (alert,) = alerts_of(MODEL_TOPIC + "degraded", msgspec.json.encode(degraded | recovered), 0.9)
    assert alert.timestamp == "2026-01-02T03:04:05.000000Z"
    assert all(
        word in described(alert, "")
        for word in ("it is not what it was", "accuracy", "0.81", "m1", "2026-01-02")
    )
    assert heard(MODEL_TOPIC + "trained", event_id="e3") == [(Severity.INFO, "e3", False)]
    silent = {
        "event_id": "e4",
        "kind": "device_silent",
        "device_id": "a",
        "reason": "nothing has come of it for 400 s",
    }
    assert heard(SILENCE_TOPIC + "/a", **silent) == [(Severity.WARNING, "silence:a", False)]
    assert heard(
        SILENCE_TOPIC, event_id="e5", kind="stream_silent", device_id=None, reason="-"
    ) == [(Severity.CRITICAL, "silence:", False)]
    assert heard(SILENCE_TOPIC + "/a", **(silent | {"kind": "device_back"})) == [
        (Severity.INFO, "silence:a", True)
    ]


def test_a_person_reads_all_there_is_to_know() -> None:
    """A described alert contains device, metric, value, expected value, band, reasons and link."""
    (alert,) = alerts_of(ANOMALY_TOPIC + "press-1", msgspec.json.encode(EVENT), 0.9)
    text = described(alert, "https://grafana/d/x")
    for word in (
        "WARNING",
        "press-1",
        "pressure",
        "9.25",
        "5",
        "4",
        "6",
        "far above its band (70%)",
        "ep1",
        "https://grafana/d/x",
        "03:04:05",
    ):
        assert word in text
    unknown = msgspec.structs.replace(EVENT, expected=None, lower=None, upper=None, reasons=[])
    (alert,) = alerts_of(ANOMALY_TOPIC + "press-1", msgspec.json.encode(unknown), 0.9)
    assert "expected" not in described(alert, "")


def test_a_link_is_made_of_words_that_cannot_change_it() -> None:
    """The name of a device is quoted, so that it cannot change the structure of the link."""
    alert = an_alert(1, device="a b/c&x=1{to}")
    link = linked(
        "https://g/d?var-device={device_id}&from={from}&to={to}&m={metric_name}&u={unknown}",
        alert,
        1_800_000,
    )
    assert (
        link
        == "https://g/d?var-device=a%20b%2Fc%26x%3D1%7Bto%7D&from=0&to=3600000&m=pressure&u={unknown}"
    )
    assert linked("", alert, 0) == ""


def test_a_delivery_has_one_id() -> None:
    """The id of a delivery depends on its target and its event alone."""
    ids = {
        delivery_id(target, an_alert(number))
        for target in ("mail", "github")
        for number in (1, 2, 1)
    }
    assert len(ids) == 4
