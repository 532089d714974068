"""Bad messages: each is stored as a dead letter with its reason, is counted, and harms no other."""

import json
from collections import Counter

from insa_anomaly.core.reading.reading import RejectionReason
from tests.acceptance.site import Site
from tests.conftest import wait_for

DEVICE = "insa/iiot/telemetry/pump-1"
METRIC = "plant/pump-1/temperature"
LINES = "lines/pump-1"
GONE = "former/pump-1"
SUBSCRIPTIONS = [
    {"topic": "insa/iiot/telemetry/{device_id}"},
    {"topic": "plant/{device_id}/{metric_name}"},
    {"topic": "lines/{device_id}", "format": "influx"},
    {"topic": "any/#"},
]
MAX_BYTES = 100_000
GOOD = 5  # readings after every bad message
BAD: dict[RejectionReason, list[tuple[str, bytes]]] = {
    RejectionReason.TOO_LARGE: [(DEVICE, b'{"t": ' + b" " * 150_000 + b"1}")],
    RejectionReason.TOO_DEEP: [
        (DEVICE, b'{"t": ' + b"[" * 40 + b"1" + b"]" * 40 + b"}"),
        (DEVICE, b"[" * 90_000),
    ],
    RejectionReason.NOT_UTF8: [(DEVICE, b"\xff\xfe\x00"), (DEVICE, b'{"t": "\xff"}')],
    RejectionReason.MALFORMED: [
        (DEVICE, b"hello"),
        (DEVICE, b'{"t": 1'),
        (LINES, b"m a=1 soon"),
        (DEVICE, b"\x00" * 64),
    ],
    RejectionReason.EMPTY: [(DEVICE, b""), (DEVICE, b"{}"), (DEVICE, b'{"metrics": {"t": null}}')],
    RejectionReason.NOT_A_NUMBER: [(DEVICE, b'{"t": "71.5"}'), (LINES, b'm state="on"')],
    RejectionReason.NOT_FINITE: [
        (DEVICE, b'{"t": NaN}'),
        (DEVICE, b'{"t": 1' + b"0" * 400 + b"}"),
        (METRIC, b"-inf"),
    ],
    RejectionReason.BOOLEAN: [(METRIC, b"true"), (DEVICE, b'{"t": true}')],
    RejectionReason.BAD_TIMESTAMP: [
        (DEVICE, b'{"t": 1, "timestamp": "yesterday"}'),
        (DEVICE, b'{"t": 1, "timestamp": 1e300}'),
    ],
    RejectionReason.BAD_QUALITY: [(DEVICE, b'{"t": 1, "quality": "fine"}')],
    RejectionReason.BAD_ID: [(DEVICE, b'{"t": 1, "id": [1]}')],
    RejectionReason.BAD_NAME: [
        (DEVICE, b'{"a\\u0000b": 1}'),
        (DEVICE, '{"a\u202eb": 1}'.encode()),
        ("insa/iiot/telemetry/", b'{"t": 1}'),
        ("insa/iiot/telemetry/" + "x" * 60_000, b'{"t": 1}'),
    ],
    RejectionReason.NO_DEVICE: [("any/thing", b'{"t": 1}')],
    RejectionReason.NO_METRIC: [(DEVICE, b"71.5")],
    RejectionReason.MISMATCH: [(DEVICE, b'{"device_id": "pump-2", "t": 1}')],
    RejectionReason.UNKNOWN_TOPIC: [(GONE, b'{"t": 1}')],
    RejectionReason.TOO_MANY_SERIES: [
        (DEVICE, json.dumps({"metrics": {f"m{number}": 1 for number in range(2000)}}).encode())
    ],
}


def test_every_kind_of_bad_message_among_good_ones(site: Site) -> None:
    """Every kind of bad message becomes a dead letter with its reason and raw bytes.

    Each is counted. Every good reading between the bad messages is stored.
    """
    # No message is unrecordable by itself: see tests/runtime/test_page_parts.py.
    assert BAD.keys() == set(RejectionReason) - {RejectionReason.UNRECORDABLE}
    site.put(
        "readings",
        {
            "max_bytes": MAX_BYTES,
            "subscriptions": [*SUBSCRIPTIONS, {"topic": "former/{device_id}"}],
        },
    )
    site.put("models", {"max_bytes": 1 << 20})
    first = site.daemon()
    first.start()
    assert first.terminate() == 0
    # Messages that wait at the broker under the topic given up match no subscription.
    site.put("readings", {"subscriptions": SUBSCRIPTIONS})
    good = 0
    with site.feeder() as feeder:
        for topic, payload in (message for messages in BAD.values() for message in messages):
            feeder.publish(topic, payload)
            for _ in range(GOOD):
                feeder.publish(
                    DEVICE, json.dumps({"t": good, "timestamp": 1_700_000_000 + good}).encode()
                )
                good += 1
    daemon = site.daemon()
    daemon.start()
    wait_for(lambda: site.stored() >= good, 60)
    daemon.wait_idle()
    expected = Counter(
        (topic, payload, str(reason))
        for reason, messages in BAD.items()
        for topic, payload in messages
    )
    found = site.query("SELECT topic, payload, reason, detail FROM dead_letters ORDER BY received")
    assert (
        Counter((topic, bytes(payload), reason) for topic, payload, reason, _ in found) == expected
    )
    assert all(detail for *_, detail in found)
    counted = {
        reason: daemon.metric("insa_rejected_messages_total", {"reason": str(reason)})
        for reason in BAD
    }
    assert counted == {reason: len(messages) for reason, messages in BAD.items()}
    assert site.query("SELECT value FROM telemetry_readings ORDER BY timestamp") == [
        (float(number),) for number in range(good)
    ]
    assert daemon.terminate() == 0
    assert "Traceback" not in daemon.log
