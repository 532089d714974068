"""Alerts: published events with a severity and a subject, for a person.

Events of one cause (an episode, a silent device, a fault of a model) belong together: a person
receives the cause once, and again when it gets worse.
"""

from collections.abc import Mapping
from enum import IntEnum
from typing import Any
from urllib.parse import quote

import msgspec

from insa_anomaly.core.notification.event import deterministic_id, rfc3339

ANOMALY_TOPIC = "insa/iiot/ml/anomaly/"
SILENCE_TOPIC = "insa/iiot/ml/silence"
MODEL_TOPIC = "insa/iiot/ml/model/"
SUMMARY = "summary"
ENDINGS = ("closed", "device_back", "stream_back", "recovered")
MODEL_KINDS = ("degraded", "recovered", "failing", "disabled", "slow")
_NUMBERS = ("value", "expected", "lower", "upper", "confidence")
_NAMES = ("episode_id", "model_id", "model_version", "since")
_SECONDS_BEFORE = 1800  # that a link shows before and after the event

Fields = Mapping[str, Any]  # of an event as it was published


class Severity(IntEnum):
    """Severity of an alert."""

    INFO = 0
    WARNING = 1
    CRITICAL = 2


class Alert(msgspec.Struct, frozen=True):
    """An event that a person may have to receive."""

    event_id: str
    kind: str
    severity: Severity
    cause: str
    device_id: str
    metric_name: str
    timestamp: str
    text: str
    event: dict[str, Any]  # as it was published
    ends: bool = False  # the cause is over
    historical: bool = False

    @property
    def subject(self) -> str:
        """Subject line for a person."""
        return "/".join(filter(None, (self.device_id, self.metric_name))) or "all devices"


def alerts_of(topic: str, payload: bytes, critical_confidence: float) -> list[Alert]:
    """Return the alerts of an event, or none; from `critical_confidence` on they are critical."""
    try:
        fields = msgspec.json.decode(payload, type=dict[str, Any])
        if topic.startswith(ANOMALY_TOPIC):
            return [_of_episode(fields, critical_confidence)]
        if topic.startswith(SILENCE_TOPIC):
            return [_of_silence(fields)]
        kind = topic.removeprefix(MODEL_TOPIC)
        return [_of_model(fields, kind)] if kind != topic else []
    except (msgspec.DecodeError, KeyError, ValueError, TypeError, OverflowError):
        return []


def _of_episode(event: Fields, critical_confidence: float) -> Alert:
    kind, ends = event["kind"], event["kind"] == "closed"
    critical = not ends and event["confidence"] >= critical_confidence
    severity = _severity(ends=ends, critical=critical)
    text = f"{kind}: {event['value']:.6g}{_expectation(event)}"
    return _alert(event, kind, severity, event["episode_id"], text, ends=ends)


def _severity(*, ends: bool, critical: bool) -> Severity:
    if ends:
        return Severity.INFO
    return Severity.CRITICAL if critical else Severity.WARNING


def _expectation(event: Fields) -> str:
    expected, lower, upper = map(event.get, ("expected", "lower", "upper"))
    if expected is None:
        return ""
    band = "" if lower is None or upper is None else f" ({lower:.6g} to {upper:.6g})"
    return f", expected {expected:.6g}{band}"


def _of_silence(event: Fields) -> Alert:
    kind, ends = event["kind"], event["kind"] in ENDINGS
    severity = _severity(ends=ends, critical=kind == "stream_silent")
    cause = f"silence:{event.get('device_id') or ''}"
    return _alert(event, kind, severity, cause, event["reason"], ends=ends)


def _of_model(event: Fields, kind: str) -> Alert:
    name = str(event.get("severity", "info")) if kind in MODEL_KINDS else "info"
    severity, ends = Severity[name.upper()], event.get("open") is False
    if "at" in event:
        event = {"timestamp": rfc3339(event["at"]), **event}
    cause, text = str(event.get("cause") or event["event_id"]), str(event.get("reason") or kind)
    return _alert(event, kind, severity, cause, text, ends=ends)


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
    numbers = [(name, event.get(name)) for name in _NUMBERS]
    shown: list[tuple[str, object]] = [
        (name, f"{value:.6g}") for name, value in numbers if isinstance(value, (int, float))
    ]
    named = [(name, event.get(name)) for name in _NAMES]
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
    words = {name: getattr(alert, name) for name in ("device_id", "metric_name", "kind")}
    words |= {name: str(alert.event.get(name) or "") for name in ("episode_id", "model_id")}
    words |= {
        "from": str(milliseconds - _SECONDS_BEFORE * 1000),
        "to": str(milliseconds + _SECONDS_BEFORE * 1000),
    }
    for name, word in words.items():
        escaped = quote(word.encode(errors="backslashreplace"), safe="")
        template = template.replace("{" + name + "}", escaped)
    return template
