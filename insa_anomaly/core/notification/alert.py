"""Alerts: published events with a severity and a subject, for a person.

Events of one cause (an episode, a silent device, a fault of a model) belong together: a person
receives the cause once, and again when it gets worse.
"""

from collections.abc import Mapping
from enum import IntEnum
from typing import Any

import msgspec

from insa_anomaly.core.notification.event import deterministic_id, rfc3339

ANOMALY_TOPIC = "insa/iiot/ml/anomaly/"
SILENCE_TOPIC = "insa/iiot/ml/silence"
MODEL_TOPIC = "insa/iiot/ml/model/"
SUMMARY = "summary"
ENDINGS = ("closed", "device_back", "stream_back", "recovered")
MODEL_KINDS = ("degraded", "recovered", "failing", "disabled", "slow")
_SECONDS_BEFORE = 1800  # that a link shows before and after the event

Fields = Mapping[str, Any]  # of an event as it was published


class Severity(IntEnum):
    """Severity of an alert."""

    INFO = 0
    WARNING = 1
    CRITICAL = 2


class Alert(msgspec.Struct, frozen=True):
    """An event that a person may have to receive.

    `ends` means that its cause is over; `event` is the published event.
    """

    event_id: str
    kind: str
    severity: Severity
    cause: str
    device_id: str
    metric_name: str
    timestamp: str
    text: str
    event: dict[str, Any]
    ends: bool = False
    historical: bool = False

    @property
    def subject(self) -> str:
        """Subject line for a person."""
        return (
            "/".join(name for name in (self.device_id, self.metric_name) if name) or "all devices"
        )


def alerts_of(topic: str, payload: bytes, critical_confidence: float) -> list[Alert]:
    """Return the alerts of an event, or none.

    An anomaly of `critical_confidence` or more is critical.
    """
    try:
        fields = msgspec.json.decode(payload, type=dict[str, Any])
        if topic.startswith(ANOMALY_TOPIC):
            return [_of_episode(fields, critical_confidence)]
        if topic.startswith(SILENCE_TOPIC):
            return [_of_silence(fields)]
        return (
            [_of_model(fields, topic.removeprefix(MODEL_TOPIC))]
            if topic.startswith(MODEL_TOPIC)
            else []
        )
    except (msgspec.DecodeError, KeyError, ValueError, TypeError, OverflowError):
        return []


def _of_episode(event: Fields, critical_confidence: float) -> Alert:
    ends = event["kind"] == "closed"
    severity = (
        Severity.INFO
        if ends
        else Severity.CRITICAL
        if event["confidence"] >= critical_confidence
        else Severity.WARNING
    )
    return _alert(
        event, event["kind"], severity, event["episode_id"], _episode_text(event), ends=ends
    )


def _episode_text(event: Fields) -> str:
    return f"{event['kind']}: {event['value']:.6g}{_expectation(event)}"


def _expectation(event: Fields) -> str:
    if event.get("expected") is None:
        return ""
    band = (
        ""
        if event.get("lower") is None or event.get("upper") is None
        else f" ({event['lower']:.6g} to {event['upper']:.6g})"
    )
    return f", expected {event['expected']:.6g}{band}"


def _of_silence(event: Fields) -> Alert:
    kind = event["kind"]
    severity = (
        Severity.INFO
        if kind in ENDINGS
        else Severity.CRITICAL
        if kind == "stream_silent"
        else Severity.WARNING
    )
    return _alert(
        event,
        kind,
        severity,
        f"silence:{event.get('device_id') or ''}",
        event["reason"],
        ends=kind in ENDINGS,
    )


def _of_model(event: Fields, kind: str) -> Alert:
    severity = (
        Severity[str(event.get("severity", "info")).upper()]
        if kind in MODEL_KINDS
        else Severity.INFO
    )
    ends = event.get("open") is False
    if "at" in event:
        event = {"timestamp": rfc3339(event["at"]), **event}
    return _alert(
        event,
        kind,
        severity,
        str(event.get("cause") or event["event_id"]),
        str(event.get("reason") or kind),
        ends=ends,
    )


def _alert(
    event: Fields, kind: str, severity: Severity, cause: str, text: str, *, ends: bool
) -> Alert:
    said = {
        "event_id": event["event_id"],
        "kind": kind,
        "severity": int(severity),
        "cause": cause,
        "device_id": event.get("device_id") or "",
        "metric_name": event.get("metric_name") or "",
        "timestamp": str(event.get("timestamp", "")),
        "text": text,
        "event": event,
        "ends": ends,
        "historical": bool(event.get("historical")),
    }
    return msgspec.convert(said, Alert)  # raises where a field is not what it should be


def delivery_id(target: str, alert: Alert) -> str:
    """Return the id of an event at a target, by which a receiver recognises a repeated delivery."""
    return deterministic_id("alert", target, alert.event_id)


def described(alert: Alert, link: str) -> str:
    """Return the text of an alert, line by line; `link` may be empty."""
    event = alert.event
    lines = [f"{alert.severity.name}: {alert.subject}: {alert.text}", ""]
    shown = [
        ("device", alert.device_id),
        ("metric", alert.metric_name),
        ("time", alert.timestamp),
        *_measured(event),
    ]
    lines += [f"{name:<16} {value}" for name, value in shown if value != ""]
    reasons = [f"  - {one['text']} ({one['share']:.0%})" for one in event.get("reasons") or []]
    lines += ["", "Reasons:", *reasons] if reasons else []
    lines += ["", *event.get("lines", [])] if alert.kind == SUMMARY else []
    lines += ["", link] if link else []
    return "\n".join(lines) + "\n"


def _measured(event: Fields) -> list[tuple[str, object]]:
    numbers = [
        (name, event.get(name)) for name in ("value", "expected", "lower", "upper", "confidence")
    ]
    shown: list[tuple[str, object]] = [
        (name, f"{value:.6g}") for name, value in numbers if isinstance(value, (int, float))
    ]
    named = [
        (name, event.get(name)) for name in ("episode_id", "model_id", "model_version", "since")
    ]
    figures = list((event.get("figures") or {}).items())
    return shown + [
        (name.removesuffix("_id").replace("_", " "), value)
        for name, value in named + figures
        if value is not None
    ]


def linked(template: str, alert: Alert, milliseconds: int) -> str:
    """Return the link to a picture: `template` with its `{names}` filled in, each escaped.

    `milliseconds` is the event's time.
    """
    words = {
        "device_id": alert.device_id,
        "metric_name": alert.metric_name,
        "kind": alert.kind,
        "episode_id": str(alert.event.get("episode_id") or ""),
        "model_id": str(alert.event.get("model_id") or ""),
        "from": str(milliseconds - _SECONDS_BEFORE * 1000),
        "to": str(milliseconds + _SECONDS_BEFORE * 1000),
    }
    for name, word in words.items():
        template = template.replace("{" + name + "}", _escaped(word))
    return template


def _escaped(word: str) -> str:
    plain = "-._~"
    return "".join(
        chr(byte) if (chr(byte).isalnum() and byte < 128) or chr(byte) in plain else f"%{byte:02X}"
        for byte in word.encode(errors="backslashreplace")
    )
