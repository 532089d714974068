"""Parser: bytes on a topic become readings, or are rejected with a reason.

`Parser.parse` is total: whatever the bytes, it returns readings or a `Rejected`, never both and
never an exception. A message is taken whole or not at all, except for a JSON `null`, which is the
plant's way to say "no value" and is skipped.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from itertools import accumulate
from math import inf, isfinite
from struct import Struct
from typing import Any

import msgspec

from insa_anomaly.core.reading.reading import Flag, Quality, Raw, Reading, Rejected, RejectionReason
from insa_anomaly.core.reading.series_key import DEVICE_METRIC
from insa_anomaly.core.reading.topics import Acceptance, Format

SECOND = 1_000_000  # microseconds
_MAX_NAME = 200
_MARKS = frozenset("/+#")  # they mean something in a topic
_MAX_TOPICS = 20_000
_MAX_LINE = 32_768  # characters of line protocol: a line is split before its values are counted
_EARLIEST = -(2**53)  # microseconds stay exact in a double within +-2**53
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_UNITS = (
    (1e11, SECOND),
    (1e14, 1000),
    (1e17, 1),
)  # below 1e11: seconds; then milli-, then microseconds
_double_bytes, _int64_of = Struct("<d").pack, Struct("<q").unpack
# Possessive throughout (`++`, `*+`): a match is never given back, so that no payload costs more
# than its length.
_NUMBER = re.compile(r"[+-]?(\d++(\.\d*+)?|\.\d++)([eE][+-]?\d++)?")
_NOT_FINITE = re.compile(r"[+-]?(nan|inf|infinity)", re.IGNORECASE)
_NOT_FINITE_JSON = re.compile(rb"[:,\[]\s*[+-]?(nan|inf|infinity)\b", re.IGNORECASE)
_ESCAPED = re.compile(rb"\\.", re.DOTALL)
_DEEPER_BY = {ord("{"): 1, ord("["): 1, ord("}"): -1, ord("]"): -1}
_NEITHER_BRACKET_NOR_QUOTE = bytes({*range(256)} - {*_DEEPER_BY, ord('"')})


# Plain numbers for the hot path: an operation on an enum costs a microsecond.
_GOOD, _STAMPED, _RESTAMPED, _HISTORICAL = (
    int(Quality.GOOD),
    int(Flag.STAMPED),
    int(Flag.RESTAMPED),
    int(Flag.HISTORICAL),
)


@dataclass(frozen=True)
class _TopicMatch:
    """Names and format that a topic gives to the readings under it."""

    device_id: str | None
    metric_name: str | None
    format: Format


@dataclass(frozen=True)
class _Draft:
    """A value before names and time are settled; the time is as sent."""

    metric_name: str | None
    value: Any
    timestamp: Any = None
    id: Any = None
    device_id: Any = None
    quality: Any = None


class _Object(msgspec.Struct):
    """The JSON forms with names of their own, decoded at once; other objects take the slow path."""

    device_id: str | None = None
    timestamp: int | float | str | None = None
    id: str | int | None = None
    metric_name: str | None = None
    value: float | None = None
    metrics: dict[str, float | None] | None = None
    quality: str | None = None


class _Refusal(Exception):
    """A refusal that ends the parse of a message; no error."""

    def __init__(self, cause: RejectionReason, detail: str) -> None:
        self.cause = cause
        self.detail = detail


_RESERVED = frozenset({"device_id", "timestamp", "id", "quality"})
_QUALITIES = {quality.name.lower(): int(quality) for quality in Quality}
_decode_object: Callable[[bytes], _Object] = msgspec.json.Decoder(_Object).decode


class Parser:
    """Parser of messages by the rules of an `Acceptance`.

    >>> parser = Parser(Acceptance())
    >>> payload = b'{"metrics": {"temperature": 71.5}}'
    >>> raw = Raw("insa/iiot/telemetry/pump-1", payload, 1_700_000_000_000_000)
    >>> [(reading.device_id, reading.metric_name, reading.value) for reading in parser.parse(raw)]
    [('pump-1', 'temperature', 71.5)]
    """

    def __init__(self, acceptance: Acceptance) -> None:
        self._acceptance = acceptance
        self._max_age = inf if acceptance.max_age is None else acceptance.max_age * SECOND
        self._max_ahead = acceptance.max_ahead * SECOND
        self._historical_after = acceptance.historical_after * SECOND
        self._places: dict[str, _TopicMatch | _Refusal] = {}
        self._names: set[str] = set()

    def parse(self, raw: Raw) -> list[Reading] | Rejected:
        """Return the readings of a message, at least one, or its rejection."""
        try:
            place = self._place(raw.topic)
            readings = self._quick(raw, place)
            if readings is None:
                readings = self._slow(raw, place)
        except _Refusal as refusal:
            return Rejected(refusal.cause, refusal.detail[:300], raw)
        return readings or Rejected(RejectionReason.EMPTY, "no value in it", raw)

    # The topic
    def _place(self, topic: str) -> _TopicMatch:
        place = self._places.get(topic)
        if place is None:
            if len(self._places) >= _MAX_TOPICS:
                self._places.clear()
            place = self._places[topic] = self._look_up(topic)
        if isinstance(place, _Refusal):
            raise place
        return place

    def _look_up(self, topic: str) -> _TopicMatch | _Refusal:
        levels = topic.split("/")
        for subscription in self._acceptance.subscriptions:
            names = subscription.match(levels)
            if names is not None:
                try:
                    for name in names.values():
                        self._check_name(name)
                except _Refusal as refusal:
                    return refusal
                return _TopicMatch(
                    names.get("device_id"), names.get("metric_name"), subscription.format
                )
        return _Refusal(RejectionReason.UNKNOWN_TOPIC, "no subscription covers this topic")

    def _check_name(self, name: str) -> None:
        if name in self._names:
            return
        if (
            not 0 < len(name) <= _MAX_NAME
            or not name.isprintable()
            or name != name.strip()
            or name == DEVICE_METRIC
            or set(name) & _MARKS
        ):
            raise _Refusal(RejectionReason.BAD_NAME, f"not a name we can use: {name[:60]!r}")
        if len(self._names) >= _MAX_TOPICS:
            self._names.clear()
        self._names.add(name)

    # The quick way: the JSON forms that say what they are
    def _quick(self, raw: Raw, place: _TopicMatch) -> list[Reading] | None:
        payload = raw.payload
        if len(payload) > self._acceptance.max_bytes:
            raise _Refusal(
                RejectionReason.TOO_LARGE,
                f"{len(payload)} bytes, at most {self._acceptance.max_bytes} are taken",
            )
        if (
            payload[:1] != b"{"
            or place.format not in ("auto", "json")
            or payload.count(b"{") + payload.count(b"[") > self._acceptance.max_depth
        ):
            return None
        try:
            said = _decode_object(payload)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            return None
        if said.metrics is not None and len(said.metrics) > self._acceptance.max_values:
            raise self._too_many()
        if said.metrics is None:
            metric = said.metric_name or place.metric_name
            if metric is None or said.value is None:
                return None
            values: dict[str, float | None] = {metric: said.value}
        else:
            values = said.metrics
        return self._readings(said, values, place, raw.received)

    def _readings(
        self, said: _Object, values: dict[str, float | None], place: _TopicMatch, received: int
    ) -> list[Reading]:
        device = self._device(said.device_id, place)
        timestamp, flags, original = self._time(said.timestamp, received)
        quality = _quality(said.quality)
        named = None if said.id is None else _hash(said.id)
        out = []
        for position, (metric, value) in enumerate(values.items()):
            if value is not None:
                self._check_metric(metric, place)
                out.append(
                    Reading(
                        device_id=device,
                        metric_name=metric,
                        timestamp=timestamp,
                        value=value + 0.0,
                        discriminator=_discriminator(named, value, flags, position),
                        quality=quality,
                        flags=flags,
                        original=original,
                    )
                )
        return out

    # The general way
    def _slow(self, raw: Raw, place: _TopicMatch) -> list[Reading]:
        readings = []
        for i, draft in enumerate(_drafts(raw.payload, place, self._acceptance.max_depth)):
            if i >= self._acceptance.max_values:
                raise self._too_many()
            reading = self._reading(draft, place, raw.received, i)
            if reading is not None:
                readings.append(reading)
        return readings

    def _too_many(self) -> _Refusal:
        return _Refusal(
            RejectionReason.TOO_LARGE,
            f"more than {self._acceptance.max_values} values in one message",
        )

    def _reading(
        self, draft: _Draft, place: _TopicMatch, received: int, position: int
    ) -> Reading | None:
        if draft.value is None:
            return None
        value = _number(draft.value)
        device = self._device(draft.device_id, place)
        metric = draft.metric_name if draft.metric_name is not None else place.metric_name
        if metric is None:
            raise _Refusal(
                RejectionReason.NO_METRIC, "neither the message nor the topic names the metric"
            )
        self._check_metric(metric, place)
        timestamp, flags, original = self._time(draft.timestamp, received)
        named = None if draft.id is None else _hash(draft.id)
        return Reading(
            device_id=device,
            metric_name=metric,
            timestamp=timestamp,
            value=value,
            discriminator=_discriminator(named, value, flags, position),
            quality=_quality(draft.quality),
            flags=flags,
            original=original,
        )

    def _device(self, said: object, place: _TopicMatch) -> str:
        if said is None:
            if place.device_id is None:
                raise _Refusal(
                    RejectionReason.NO_DEVICE, "neither the message nor the topic names the device"
                )
            return place.device_id
        if not isinstance(said, str):
            raise _Refusal(RejectionReason.BAD_NAME, f"device_id is not a text: {said!r}")
        if place.device_id is not None and said != place.device_id:
            raise _Refusal(
                RejectionReason.MISMATCH,
                f"device_id {said[:60]!r} under the topic of {place.device_id[:60]!r}",
            )
        self._check_name(said)
        return said

    def _check_metric(self, metric: str, place: _TopicMatch) -> None:
        if place.metric_name is not None and metric != place.metric_name:
            raise _Refusal(
                RejectionReason.MISMATCH,
                f"metric {metric[:60]!r} under the topic of {place.metric_name[:60]!r}",
            )
        self._check_name(metric)

    def _time(self, said: object, received: int) -> tuple[int, int, str | None]:
        """Return timestamp in microseconds, flags, and the timestamp as sent if another is used."""
        if said is None:
            return received, _STAMPED, None
        timestamp = microseconds(said)
        if timestamp is None:
            raise _Refusal(RejectionReason.BAD_TIMESTAMP, f"not a time: {str(said)[:60]!r}")
        age = received - timestamp
        if not -self._max_ahead <= age <= self._max_age or timestamp < _EARLIEST:
            return received, _RESTAMPED, str(said)[:100]
        return timestamp, _HISTORICAL if age > self._historical_after else 0, None


def microseconds(said: object) -> int | None:
    """Return a time as microseconds, or None.

    RFC 3339 (naive: UTC), or epoch seconds, milli-, micro- or nanoseconds by magnitude.
    """
    if isinstance(said, str):
        try:
            moment = datetime.fromisoformat(said)
        except ValueError:
            return None
        since = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH
        return (since.days * 86400 + since.seconds) * SECOND + since.microseconds
    if isinstance(said, bool) or not isinstance(said, (int, float)) or not -1e20 < said < 1e20:
        return None
    size = abs(said)
    for limit, multiplier in _EPOCH_UNITS:
        if size < limit:
            return round(said * multiplier)
    return int(said) // 1000


def _hash(name: object) -> int:
    if isinstance(name, bool) or not isinstance(name, str | int):
        raise _Refusal(
            RejectionReason.BAD_ID, f"an id is a text or a whole number: {str(name)[:60]!r}"
        )
    digest = blake2b(str(name).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int(_int64_of(digest)[0])


def _discriminator(named: int | None, value: float, flags: int, position: int) -> int:
    """Return a discriminator of readings of a series and time: by the sender's id, else by value.

    Under the time of receipt, which no other message has, it is the position in the message.
    """
    if named is not None:
        return named
    if flags & (_STAMPED | _RESTAMPED):
        return position
    return int(_int64_of(_double_bytes(value + 0.0))[0])


def _quality(said: object) -> int:
    if said is None:
        return _GOOD
    quality = _QUALITIES.get(said.lower()) if isinstance(said, str) else None
    if quality is None:
        raise _Refusal(
            RejectionReason.BAD_QUALITY,
            f"quality is one of {', '.join(_QUALITIES)}: {str(said)[:60]!r}",
        )
    return quality


def _number(said: object) -> float:
    if isinstance(said, bool):
        raise _Refusal(RejectionReason.BOOLEAN, "true or false where a number belongs")
    if not isinstance(said, int | float):
        raise _Refusal(RejectionReason.NOT_A_NUMBER, f"not a number: {str(said)[:60]!r}")
    try:
        value = float(said)
    except OverflowError:
        value = float("inf")
    if not isfinite(value):
        raise _Refusal(RejectionReason.NOT_FINITE, f"not a finite number: {str(said)[:60]}")
    return value + 0.0  # -0.0 and 0.0 are one value


# ----------------------------------------------------------------------------- payload to drafts
def _drafts(payload: bytes, place: _TopicMatch, max_depth: int) -> Iterator[_Draft]:
    kind = place.format if place.format != "auto" else _recognise(payload)
    if kind == "json":
        return _from_json(_json(payload, max_depth), place)
    text = _text(payload)
    return iter([_Draft(None, _bare_number(text))]) if kind == "number" else _from_lines(text)


def _recognise(payload: bytes) -> Format:
    start = payload.lstrip()[:1]
    if start in (b"{", b"[", b'"'):
        return "json"
    return "influx" if b"=" in payload else "number"


def _text(payload: bytes) -> str:
    try:
        return payload.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise _Refusal(RejectionReason.NOT_UTF8, str(error)) from None


def _bare_number(text: str) -> float:
    if _NUMBER.fullmatch(text):
        return float(text)  # may be infinite: the caller looks
    if not text:
        raise _Refusal(RejectionReason.EMPTY, "an empty message")
    if _NOT_FINITE.fullmatch(text):
        raise _Refusal(RejectionReason.NOT_FINITE, f"not a finite number: {text}")
    if text.lower() in ("true", "false"):
        raise _Refusal(RejectionReason.BOOLEAN, "true or false where a number belongs")
    raise _Refusal(
        RejectionReason.MALFORMED, f"neither JSON nor a number nor line protocol: {text[:60]!r}"
    )


def _json(payload: bytes, max_depth: int) -> object:
    if _deeper(payload, max_depth):
        raise _Refusal(RejectionReason.TOO_DEEP, f"nested more than {max_depth} deep")
    try:
        return msgspec.json.decode(payload)
    except RecursionError:
        raise _Refusal(RejectionReason.TOO_DEEP, f"nested more than {max_depth} deep") from None
    except (msgspec.MsgspecError, ValueError) as error:
        _text(payload)
        infinite = _NOT_FINITE_JSON.search(payload) or "out of range" in str(error)
        raise _Refusal(
            RejectionReason.NOT_FINITE if infinite else RejectionReason.MALFORMED, str(error)
        ) from None


def _deeper(payload: bytes, most: int) -> bool:
    """Return whether brackets outside of strings nest deeper than `most`."""
    if payload.count(b"{") + payload.count(b"[") <= most:
        return False
    plain = _ESCAPED.sub(b"", payload) if b"\\" in payload else payload
    outside = b"".join(plain.translate(None, _NEITHER_BRACKET_NOR_QUOTE).split(b'"')[::2])
    return max(accumulate(map(_DEEPER_BY.__getitem__, outside)), default=0) > most


def _from_json(said: object, place: _TopicMatch) -> Iterator[_Draft]:
    if isinstance(said, list):
        for item in said:
            if isinstance(item, list):
                raise _Refusal(RejectionReason.MALFORMED, "an array within an array")
            yield from _from_json(item, place)
    elif isinstance(said, dict):
        yield from _from_object(said, place)
    else:
        yield _Draft(None, said)


def _from_object(said: dict[str, Any], place: _TopicMatch) -> Iterator[_Draft]:
    common = {
        "timestamp": said.get("timestamp"),
        "id": said.get("id"),
        "device_id": said.get("device_id"),
        "quality": said.get("quality"),
    }
    if "metrics" in said:
        if not isinstance(said["metrics"], dict):
            raise _Refusal(RejectionReason.MALFORMED, "metrics is not an object of numbers")
        values = said["metrics"]
    elif "metric_name" in said or ("value" in said and place.metric_name is not None):
        name = said.get("metric_name", place.metric_name)
        if not isinstance(name, str):
            raise _Refusal(
                RejectionReason.BAD_NAME, f"metric_name is not a text: {str(name)[:60]!r}"
            )
        values = {name: said.get("value")}
    else:
        values = {name: value for name, value in said.items() if name not in _RESERVED}
    for name, value in values.items():
        yield _Draft(name, value, **common)


# ------------------------------------------------------------------------ InfluxDB line protocol
_UNESCAPED = {mark: re.compile(rf"(?<!\\){mark}") for mark in (",", " ", "=")}
_ESCAPE = re.compile(r"\\([,= ])")
_INTEGER = re.compile(r"[+-]?\d+[iu]")
_STAMP = re.compile(r"-?\d{1,20}")
_FIELD = re.compile(r'(?:[^",\\ ]|\\.|"(?:[^"\\]|\\.)*+")++')


def _from_lines(text: str) -> Iterator[_Draft]:
    for line in text.splitlines():
        if len(line) > _MAX_LINE:
            raise _Refusal(
                RejectionReason.TOO_LARGE,
                f"a line of {len(line)} characters, at most {_MAX_LINE} are taken",
            )
        if line.strip() and not line.startswith("#"):
            yield from _from_line(line.strip())


def _from_line(line: str) -> Iterator[_Draft]:
    """Yield the drafts of a line: `measurement,tag=.. field=..,field=.. timestamp`.

    A field called `value` is the metric that the measurement names.
    """
    head, _, rest = _cut(line, " ")
    measurement, *tags = (
        _unescape(part)
        for part in (_UNESCAPED[","].split(head) if "\\" in head else head.split(","))
    )
    named = dict(tag.split("=", 1) for tag in tags if "=" in tag)
    fields, stamp = _fields_and_time(rest)
    for field_text in fields:
        name, equals, value = _cut(field_text, "=")
        if not equals or not name:
            raise _Refusal(
                RejectionReason.MALFORMED, f"not a field of line protocol: {field_text[:60]!r}"
            )
        metric = _unescape(name)
        yield _Draft(
            measurement if metric == "value" else metric,
            _field_value(value),
            stamp,
            device_id=named.get("device_id"),
        )


def _cut(text: str, mark: str) -> tuple[str, str, str]:
    if "\\" not in text:
        return text.partition(mark)
    found = _UNESCAPED[mark].search(text)
    return (text[: found.start()], mark, text[found.end() :]) if found else (text, "", "")


def _unescape(text: str) -> str:
    return _ESCAPE.sub(r"\1", text) if "\\" in text else text


def _fields_and_time(rest: str) -> tuple[list[str], int | None]:
    fields, position = [], 0
    while found := _FIELD.match(rest, position):
        fields.append(found.group())
        position = found.end() + 1
        if rest[found.end() : position] != ",":
            break
    stamp = rest[position:].strip()
    if not fields or (stamp and not _STAMP.fullmatch(stamp)):
        raise _Refusal(RejectionReason.MALFORMED, f"not line protocol: {rest[:60]!r}")
    return fields, int(stamp) if stamp else None


def _field_value(text: str) -> object:
    if _INTEGER.fullmatch(text):
        return int(text[:-1])
    if text.startswith('"'):
        raise _Refusal(RejectionReason.NOT_A_NUMBER, f"a text where a number belongs: {text[:60]}")
    if text in ("t", "T", "f", "F") or text.lower() in ("true", "false"):
        raise _Refusal(RejectionReason.BOOLEAN, "true or false where a number belongs")
    return _bare_number(text)
