"""Invalid messages, drawn from a seed: every known kind of poison, altered messages, and noise."""

import json
import random
from collections.abc import Iterator

from insa_anomaly.core.reading.topics import Acceptance, Subscription

Message = tuple[str, bytes]

SUBSCRIPTIONS = (
    Subscription(),
    Subscription("plant/{device_id}/{metric_name}"),
    Subscription("lines/{device_id}", "influx"),
    Subscription("any/#"),
)
ACCEPTANCE = Acceptance(SUBSCRIPTIONS, max_age=None)
DEVICES = 40
STRUCTURED, MUTATED = 0.6, 0.3  # shares; the rest is noise
_TIMES: tuple[object, ...] = (
    1_763_823_600, 1_763_823_600_000, 1_763_823_600.5, "2026-11-22T20:00:00Z", "yesterday", "",
    None, True, -1, 0, 1e300, 10**40, "300000-01-01T00:00:00Z", "2026-02-30T00:00:00Z",
    "2026-11-22T20:00:00+99:99", [], {},
)  # fmt: skip
_VALUES = (
    "1", "71.5", "-0.0", "1e308", "1e-320", "0", "NaN", "Infinity", "-Infinity", "1e999",
    "1" + "0" * 400, "1" * 5000, "true", "null", '"71.5"', '"\\u0000"', '"\\ud800"', "[1]",
    '{"v": 1}', "-", ".", "0x10", "1_000", "\u0661",
)  # fmt: skip
_NAMES = (
    "temperature",
    "pressure",
    "",
    " ",
    "a/b",
    "a+b",
    "_device",
    "a\\u0000b",
    "\\ud800",
    "\u202eabc",
    "x" * 300,
    "../../etc/passwd",
    "😀",
    "t",
)
_TOPICS = (
    "insa/iiot/telemetry/", "insa/iiot/telemetry/ ", "insa/iiot/telemetry/../../etc/passwd",
    "insa/iiot/telemetry/\u202epump", "plant//", "plant/../..", "plant/pump-1/" + "m" * 300,
    "lines/", "any//", "any/" + "x/" * 100, "any/😀", "insa/iiot/telemetry/" + "x" * 60_000,
)  # fmt: skip
_LINES = (
    "m value=1", "m,device_id=pump-1 a=1,b=2i 1763823600000000000", "m a=t", 'm s="on"', "m",
    "m a=1 soon", "m a=", "=1", ",,, ,,,", "# only this", "m a=1\nm a=2\n\n",
    "m\\ x a\\,b=1e999", 'm s="' + '\\"' * 300, "m " + "a=1," * 200 + "a=1",
)  # fmt: skip


def messages(seed: int) -> Iterator[Message]:
    """Yield messages without end."""
    chance = random.Random(seed)
    while True:
        kind = chance.random()
        topic, payload = _structured(chance)
        if kind < STRUCTURED:
            yield topic, payload
        elif kind < STRUCTURED + MUTATED:
            yield topic, _mutated(chance, payload)
        else:
            yield topic, chance.randbytes(chance.choice((0, 1, 5, 50, 500)))


def _structured(chance: random.Random) -> Message:
    device = f"pump-{chance.randrange(DEVICES)}"
    kind = chance.random()
    if kind < 0.02:
        return chance.choice(_TOPICS), _object(chance, device)
    if kind < 0.2:
        return (
            f"plant/{device}/{chance.choice(('temperature', 'pressure', 'speed'))}",
            chance.choice(_VALUES).encode(),
        )
    if kind < 0.3:
        return f"lines/{device}", chance.choice(_LINES).encode()
    if kind < 0.33:
        return f"insa/iiot/telemetry/{device}", _deep(chance)
    return f"insa/iiot/telemetry/{device}", _object(chance, device)


def _object(chance: random.Random, device: str) -> bytes:
    """Return JSON put together as text, because much of it is invalid."""
    value = f"{chance.gauss(20, 5):.3f}" if chance.random() < 0.8 else chance.choice(_VALUES)
    name = chance.choice(_NAMES if chance.random() < 0.2 else _NAMES[:2])
    parts = (
        [f'"{name}": {value}']
        if chance.random() < 0.5
        else [f'"metrics": {{"t": {value}, "{name}": 1}}']
    )
    if chance.random() < 0.6:
        parts.append(f'"timestamp": {1_763_823_600 + chance.random() * 1e6:.3f}')
    elif chance.random() < 0.3:
        parts.append(f'"timestamp": {json.dumps(chance.choice(_TIMES))}')
    if chance.random() < 0.1:
        parts.append(f'"device_id": {json.dumps(chance.choice((device, "other", 5, None, "")))}')
    if chance.random() < 0.1:
        parts.append(f'"id": {json.dumps(chance.choice(("a", 7, [1], None, 10**30, True)))}')
    if chance.random() < 0.1:
        parts.append(f'"quality": {json.dumps(chance.choice(("good", "bad", "fine", 1, None)))}')
    chance.shuffle(parts)
    said = "{" + ", ".join(parts) + "}"
    return (f"[{said}, {said}]" if chance.random() < 0.1 else said).encode("utf-8", "surrogatepass")


def _deep(chance: random.Random) -> bytes:
    depth = chance.choice((31, 33, 200, 5000))
    return b'{"t": ' + b"[" * depth + b"1" + b"]" * (depth if chance.random() < 0.5 else 0) + b"}"


def _mutated(chance: random.Random, payload: bytes) -> bytes:
    body = bytearray(payload)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(body) + 1)
        way = chance.randrange(4)
        if way == 0 and place < len(body):
            body[place] = chance.randrange(256)
        elif way == 1:
            body[place:place] = chance.choice(
                (
                    b"\x00",
                    b'"',
                    b"{",
                    b"]",
                    b",",
                    b"\xff",
                    b"\xed\xa0\x80",
                    b"e999",
                    b"\\u0000",
                    b"\n",
                )
            )
        elif way == 2:
            del body[place : place + chance.randint(1, 20)]
        else:
            body[place:place] = body[max(0, place - 30) : place]
    return bytes(body)
