"""The parser answers any message at once with readings or a rejection; the fuzzers, in short."""

import tracemalloc
from itertools import islice
from pathlib import Path

import pytest

from insa_anomaly.adapters.embedded import Tools
from insa_anomaly.core.reading.parser import Parser
from insa_anomaly.core.reading.reading import Raw
from tests.fuzz.law import BYTES, NOW, Judge
from tests.fuzz.live import fuzz
from tests.fuzz.payloads import ACCEPTANCE, messages

# As large as is accepted, and of the worst shape for some part of the parser.
WORST = {
    "digits that end otherwise": b"1" * 200_000 + b"x",
    "a number too long": b'{"t": 1' + b"0" * 200_000 + b"}",
    "brackets": b"[" * 260_000,
    "strings that do not end": b'["",' * 60_000,
    "escaped quotes": b'{"a":"' + b'\\"' * 120_000,
    "a string that does not end": b'{"t": ' + b'"' * 200_000,
    "backslashes": b"\\" * 250_000,
    "fields": b"m " + b"a=1," * 60_000 + b"a=1",
    "tags": b"m," + b"a=1," * 60_000 + b"a=1 v=1",
    "escaped spaces": b"m " + b"\\ " * 100_000 + b"=1",
    "quotes in a line": b"m " + b'a="' * 60_000 + b"=",
    "lines": b"m a=1\n" * 40_000,
    "objects": b"[" + b'{"t":1},' * 30_000 + b'{"t":1}]',
    "metrics": b'{"metrics":{' + b",".join(b'"m%d":1' % i for i in range(20_000)) + b"}}",
    "no lines": b"\n" * 250_000 + b"=",
}


@pytest.mark.parametrize(
    "topic", ["plant/pump-1/speed", "insa/iiot/telemetry/pump-1", "lines/pump-1"]
)
@pytest.mark.parametrize("name", WORST)
def test_no_payload_holds_the_others_up(name: str, topic: str) -> None:
    """The cost of a message grows linearly with its length: below 50 ms of computing and 10 MB."""
    Judge().judge(topic, WORST[name])
    parser = Parser(ACCEPTANCE)
    tracemalloc.start()
    try:
        parser.parse(Raw(topic, WORST[name], NOW))
        assert tracemalloc.get_traced_memory()[1] < BYTES
    finally:
        tracemalloc.stop()


def test_the_generator_makes_what_it_should() -> None:
    """The generator is equal for equal seeds, and makes good and bad messages of every kind."""
    some = list(islice(messages(5), 5000))
    assert some == list(islice(messages(5), 5000))
    judge = Judge()
    for topic, payload in some:
        judge.judge(topic, payload)
    assert judge.readings > 3000
    assert judge.rejected > 1000


@pytest.mark.long
def test_through_a_real_broker_into_the_daemon(short_path: Path, tools: Tools) -> None:
    """Every message is read or stored as a dead letter; the daemon neither ends nor gets stuck."""
    figures = fuzz(short_path, tools, 5000, 11, lambda _: None)
    assert (figures.payloads, figures.crashes, figures.stuck) == (5000, 0, 0)
    assert figures.accounted == figures.payloads
    assert min(figures.readings, figures.dead_letters) > 1000
