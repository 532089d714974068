"""Parsing: bytes become readings or a single rejection, for every payload and every reason."""

import json
import math
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insa_anomaly.core.reading.parser import Parser, microseconds
from insa_anomaly.core.reading.reading import Flag, Quality, Raw, Reading, Rejected, RejectionReason
from insa_anomaly.core.reading.topics import Acceptance, Subscription

NOW = 1_763_823_600_000_000
DEVICE = "insa/iiot/telemetry/pump-1"
METRIC = "plant/pump-1/temperature"
LINES = "lines/pump-1"
SUBSCRIPTIONS = (
    Subscription(),
    Subscription("plant/{device_id}/{metric_name}"),
    Subscription("lines/{device_id}", "influx"),
    Subscription("numbers/{device_id}/{metric_name}", "number"),
    Subscription("json/{device_id}", "json"),
    Subscription("any/#"),
)
names = st.text(st.characters(categories=("L", "N")), min_size=1, max_size=20)
finite = st.floats(allow_nan=False, allow_infinity=False)


def parse(
    payload: bytes | str, topic: str = DEVICE, acceptance: Acceptance | None = None
) -> list[Reading] | Rejected:
    """Return the result of a fresh parser."""
    raw = Raw(topic, payload.encode() if isinstance(payload, str) else payload, NOW)
    return Parser(acceptance or Acceptance(SUBSCRIPTIONS)).parse(raw)


def readings(
    payload: bytes | str, topic: str = DEVICE, acceptance: Acceptance | None = None
) -> list[Reading]:
    """Return the readings of a message, and fail if the message is rejected."""
    answer = parse(payload, topic, acceptance)
    assert not isinstance(answer, Rejected), answer
    return answer


# --------------------------------------------------------------------------------------------- laws
@given(
    st.sampled_from(
        [DEVICE, METRIC, LINES, "json/d", "numbers/d/m", "elsewhere", "any/thing/else"]
    ),
    st.binary(max_size=300),
)
def test_parse_is_total_over_bytes(topic: str, payload: bytes) -> None:
    """Any bytes lead to finite readings, at least 1, or to a rejection that contains the bytes."""
    answer = parse(payload, topic)
    if isinstance(answer, Rejected):
        assert answer.raw.payload == payload
        assert answer.reason in RejectionReason
    else:
        assert answer
        assert all(math.isfinite(reading.value) for reading in answer)


json_values = st.recursive(
    st.none() | st.booleans() | finite | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=12), inner),
)


@given(
    json_values
    | st.dictionaries(
        st.sampled_from(
            ["device_id", "timestamp", "id", "metrics", "metric_name", "value", "quality", "t"]
        ),
        json_values,
    )
)
def test_parse_is_total_over_json(said: object) -> None:
    """Any JSON leads to finite readings or to a rejection."""
    answer = parse(json.dumps(said))
    assert isinstance(answer, Rejected) or all(math.isfinite(reading.value) for reading in answer)


@given(
    st.dictionaries(names, finite, min_size=1, max_size=5), st.integers(NOW - 86_400_000_000, NOW)
)
def test_every_form_of_the_same_values_gives_the_same_readings(
    values: dict[str, float], time: int
) -> None:
    """A metrics object, an array of single objects and a flat object lead to the same readings."""
    stamp = time / 1e6
    together = readings(json.dumps({"metrics": values, "timestamp": stamp}))
    one_by_one = readings(
        json.dumps(
            [
                {"metric_name": name, "value": value, "timestamp": stamp}
                for name, value in values.items()
            ]
        )
    )
    assert one_by_one == together
    if not set(values) & {
        "device_id",
        "timestamp",
        "id",
        "quality",
        "metrics",
        "metric_name",
        "value",
    }:
        assert readings(json.dumps({**values, "timestamp": stamp})) == together


@given(st.integers(NOW - 86_400_000_000, NOW))
def test_a_time_is_the_same_in_every_unit_and_in_rfc_3339(time: int) -> None:
    """Times in seconds, milli-, micro- or nanoseconds or as text are recognised."""
    whole = time // 1_000_000
    text = datetime.fromtimestamp(whole, UTC).isoformat()
    said = [
        whole,
        whole * 10**3,
        whole * 10**6,
        whole * 10**9,
        text,
        text.replace("+00:00", "Z"),
        text.removesuffix("+00:00"),
    ]
    assert [microseconds(one) for one in said] == [whole * 1_000_000] * len(said)


@given(finite)
def test_a_redelivered_message_gives_the_same_keys(value: float) -> None:
    """A redelivered message with a timestamp leads to the same time and discriminator."""
    payload = json.dumps({"metric_name": "t", "value": value, "timestamp": NOW / 1e6}).encode()
    parser = Parser(Acceptance())
    assert parser.parse(Raw(DEVICE, payload, NOW)) == parser.parse(
        Raw(DEVICE, payload, NOW + 5_000_000)
    )


# -------------------------------------------------------------------------------------------- forms
def test_a_bare_number_belongs_to_the_metric_of_its_topic() -> None:
    """A bare number is a reading of the device and metric that its topic names."""
    (reading,) = readings("71.5", METRIC)
    assert (reading.device_id, reading.metric_name, reading.value, reading.timestamp) == (
        "pump-1",
        "temperature",
        71.5,
        NOW,
    )
    assert reading.flags == Flag.STAMPED


def test_line_protocol() -> None:
    """Line protocol supports tags, escapes, several fields and lines.

    A field `value` takes the name of the measurement; the unit of a time follows from its
    magnitude.
    """
    text = (
        "flow\\ rate,site=a value=1.5,max=3i 1763823600000000000\n"
        "# a comment\n\nmotor current=2u,label\\,x=-1e3\n"
    )
    found = {(one.metric_name, one.value, one.timestamp) for one in readings(text, LINES)}
    assert found == {
        ("flow rate", 1.5, NOW),
        ("max", 3.0, NOW),
        ("current", 2.0, NOW),
        ("label,x", -1000.0, NOW),
    }


def test_null_is_no_value() -> None:
    """A null among metrics is skipped; the other metrics count."""
    assert [one.metric_name for one in readings('{"metrics": {"a": null, "b": 1}}')] == ["b"]


def test_unknown_keys_beside_metrics_are_passed_over() -> None:
    """Unknown keys beside `metrics`, such as a send time, are skipped."""
    assert [
        one.value
        for one in readings('{"metrics": {"a": 1}, "sent": 1763823600.25, "seq": [1, {"x": 2}]}')
    ] == [1.0]


def test_an_id_tells_readings_of_one_time_apart() -> None:
    """Readings of equal time and value are distinct by their ids, and equal if their ids are."""
    one, two, again = (
        readings(json.dumps({"metric_name": "t", "value": 1, "timestamp": 1763823600, "id": name}))[
            0
        ]
        for name in ("a", "b", "a")
    )
    assert one.discriminator != two.discriminator
    assert one == again


def test_values_without_a_time_are_all_kept() -> None:
    """A value repeated in a message without timestamps stays two readings."""
    one, two = readings('[{"metric_name": "t", "value": 1}, {"metric_name": "t", "value": 1}]')
    assert (one.timestamp, one.discriminator) != (two.timestamp, two.discriminator)


def test_a_timestamp_outside_the_accepted_span_is_replaced_and_kept() -> None:
    """A timestamp outside the accepted span is replaced by the receipt time.

    The reading is flagged and holds the original. A `max_age` of None accepts any age.
    """
    for said in ("2014-02-14T14:27:00Z", "2030-01-01T00:00:00Z"):
        (reading,) = readings(json.dumps({"metric_name": "t", "value": 1, "timestamp": said}))
        assert (reading.timestamp, reading.flags, reading.original) == (NOW, Flag.RESTAMPED, said)
    (old,) = readings(
        '{"metric_name": "t", "value": 1, "timestamp": "2014-02-14T14:27:00Z"}',
        acceptance=Acceptance(max_age=None),
    )
    assert (old.flags, old.original) == (Flag.HISTORICAL, None)


def test_quality_is_kept() -> None:
    """A reading has the quality of its message, and is good by default."""
    assert readings('{"metric_name": "t", "value": 1}')[0].quality == Quality.GOOD
    assert readings('{"metric_name": "t", "value": 1, "quality": "BAD"}')[0].quality == Quality.BAD


@pytest.mark.parametrize(
    ("topic", "payload", "reason"),
    [
        (DEVICE, b'{"t": ' + b" " * 300_000 + b"1}", RejectionReason.TOO_LARGE),
        (DEVICE, b'{"t": ' + b"[" * 40 + b"1" + b"]" * 40 + b"}", RejectionReason.TOO_DEEP),
        (DEVICE, b'{"a":' * 100_000, RejectionReason.TOO_LARGE),
        (DEVICE, b"[" * 100_000, RejectionReason.TOO_DEEP),
        (DEVICE, b"\xff\xfe\x00", RejectionReason.NOT_UTF8),
        (DEVICE, b'{"t": "\xff"}', RejectionReason.NOT_UTF8),
        (DEVICE, b"hello", RejectionReason.MALFORMED),
        (DEVICE, b'{"t": 1', RejectionReason.MALFORMED),
        (DEVICE, b'{"metrics": [1]}', RejectionReason.MALFORMED),
        (DEVICE, b"[[1]]", RejectionReason.MALFORMED),
        (DEVICE, b"", RejectionReason.EMPTY),
        (DEVICE, b"{}", RejectionReason.EMPTY),
        (DEVICE, b"[]", RejectionReason.EMPTY),
        (DEVICE, b'{"metrics": {"t": null}}', RejectionReason.EMPTY),
        (DEVICE, b'{"t": "71.5"}', RejectionReason.NOT_A_NUMBER),
        (DEVICE, b'{"metrics": {"t": {"v": 1}}}', RejectionReason.NOT_A_NUMBER),
        (DEVICE, b'{"t": NaN}', RejectionReason.NOT_FINITE),
        (DEVICE, b'{"t": -Infinity}', RejectionReason.NOT_FINITE),
        (DEVICE, b'{"t": 1e999}', RejectionReason.NOT_FINITE),
        (DEVICE, b'{"t": 1' + b"0" * 400 + b"}", RejectionReason.NOT_FINITE),
        (METRIC, b"nan", RejectionReason.NOT_FINITE),
        (METRIC, b"-inf", RejectionReason.NOT_FINITE),
        (METRIC, b"1e999", RejectionReason.NOT_FINITE),
        (METRIC, b"true", RejectionReason.BOOLEAN),
        (DEVICE, b'{"t": true}', RejectionReason.BOOLEAN),
        (LINES, b"m on=t", RejectionReason.BOOLEAN),
        (LINES, b'm state="on"', RejectionReason.NOT_A_NUMBER),
        (LINES, b"m", RejectionReason.MALFORMED),
        (LINES, b"m a=1 soon", RejectionReason.MALFORMED),
        (DEVICE, b'{"t": 1, "timestamp": "yesterday"}', RejectionReason.BAD_TIMESTAMP),
        (DEVICE, b'{"t": 1, "timestamp": true}', RejectionReason.BAD_TIMESTAMP),
        (DEVICE, b'{"t": 1, "timestamp": 1e300}', RejectionReason.BAD_TIMESTAMP),
        (DEVICE, b'{"t": 1, "quality": "fine"}', RejectionReason.BAD_QUALITY),
        (DEVICE, b'{"t": 1, "id": [1]}', RejectionReason.BAD_ID),
        (DEVICE, b'{"": 1}', RejectionReason.BAD_NAME),
        (DEVICE, b'{"a/b": 1}', RejectionReason.BAD_NAME),
        (DEVICE, b'{"a\\u0000b": 1}', RejectionReason.BAD_NAME),
        (DEVICE, '{"a\u202eb": 1}'.encode(), RejectionReason.BAD_NAME),
        (DEVICE, b'{"_device": 1}', RejectionReason.BAD_NAME),
        (DEVICE, b'{"metric_name": 5, "value": 1}', RejectionReason.BAD_NAME),
        (DEVICE, b'{"device_id": 5, "t": 1}', RejectionReason.BAD_NAME),
        ("insa/iiot/telemetry/", b'{"t": 1}', RejectionReason.BAD_NAME),
        ("insa/iiot/telemetry/" + "x" * 60_000, b'{"t": 1}', RejectionReason.BAD_NAME),
        ("any/thing", b'{"t": 1}', RejectionReason.NO_DEVICE),
        (DEVICE, b"71.5", RejectionReason.NO_METRIC),
        (DEVICE, b'{"device_id": "pump-2", "t": 1}', RejectionReason.MISMATCH),
        (METRIC, b'{"metric_name": "pressure", "value": 1}', RejectionReason.MISMATCH),
        ("elsewhere", b'{"t": 1}', RejectionReason.UNKNOWN_TOPIC),
    ],
)
def test_every_reason(topic: str, payload: bytes, reason: RejectionReason) -> None:
    """Each kind of bad input has its own rejection reason, with a detail."""
    answer = parse(payload, topic)
    assert isinstance(answer, Rejected)
    assert answer.reason == reason
    assert answer.detail


def test_the_filter_of_a_subscription() -> None:
    """A topic template becomes an MQTT filter."""
    assert [subscription.filter for subscription in SUBSCRIPTIONS[:2]] == [
        "insa/iiot/telemetry/+",
        "plant/+/+",
    ]
