"""The benchmark runs, and its plant publishes correct packets.

The figures themselves need a quiet machine.
"""

import json
import time

import numpy as np
import pytest
from fastapi.responses import Response

from insa_anomaly.api import app
from insa_anomaly.api.address import listen
from insa_anomaly.core.reading.parser import Parser
from insa_anomaly.core.reading.reading import Raw, Reading
from insa_anomaly.core.reading.topics import Acceptance
from tests.api.office import well
from tests.benchmarks import scoring
from tests.benchmarks.caller import Call, obeyed
from tests.benchmarks.device_rows import DeviceRig, device_rows, learnt, stream_seconds
from tests.benchmarks.figure import Figure
from tests.benchmarks.fleet import of_kind
from tests.benchmarks.packets import Packets
from tests.benchmarks.scoring import Rig
from tests.benchmarks.signals import keys

NOW = 1_760_000_000_000_000


@pytest.fixture(scope="module")
def rig() -> Rig:
    """Build a rig of two models for twenty series."""
    return Rig.built([of_kind(kind, 400, NOW) for kind in range(2)], NOW, 20)


def _sent(packets: bytes) -> list[tuple[str, int, bytes]]:
    """Return topic, packet id and payload of PUBLISH packets whose length takes a single byte."""
    found = []
    while packets:
        assert packets[0] == 0x32
        stop = 2 + packets[1]
        body, packets = packets[2:stop], packets[stop:]
        name = 2 + int.from_bytes(body[:2])
        found.append(
            (body[2:name].decode(), int.from_bytes(body[name : name + 2]), body[name + 2 :])
        )
    return found


def test_packets_say_what_they_are_built_of() -> None:
    """Each packet carries its series' name, value and time; ids wrap without a 0."""
    values = np.array([100.0, 612.34567, 999.9999])
    sent = _sent(Packets(keys(12)).built(slice(9, 12), values, NOW, 65533))
    assert [mid for _, mid, _ in sent] == [65534, 65535, 1]
    readings = [
        Parser(Acceptance(max_age=None)).parse(Raw(topic, payload, NOW))
        for topic, _, payload in sent
    ]
    flat = [one for answer in readings if isinstance(answer, list) for one in answer]
    assert [(one.device_id, one.metric_name) for one in flat] == keys(12)[9:]
    assert [one.value for one in flat] == pytest.approx(values, abs=1e-4)
    assert all(isinstance(one, Reading) and one.timestamp == NOW for one in flat)


def test_scoring_is_measured_against_scikit_learn(rig: Rig) -> None:
    """The score figures rest on forests that agree, and beat scikit-learn on a busy machine."""
    assert rig.difference(20) < 1e-9
    for measure in (scoring.score_one_row, scoring.score_1000_series):
        figure = measure(rig, 0.5)
        assert figure.figure == measure.__name__
        assert figure.ratio > 10


def test_rows_of_devices_are_measured_at_once_and_one_by_one() -> None:
    """Ten devices at once take less time for a row than single devices, even on a busy machine.

    The daemon's own path is measured too.
    """
    model = learnt(0, NOW, 400)
    figure = device_rows(DeviceRig.built([model], NOW, 10), 0.5)
    assert figure.figure == "device_rows"
    assert figure.ratio > 2
    assert 0 < stream_seconds(model, NOW, 3, 0.1) < 0.1


def test_a_figure_is_one_line_of_json() -> None:
    """A figure is a line of JSON with five members; the ratio states how much better it is."""
    figure = Figure.less_is_better("rss_1000_models", 250.0, "MB", 1250.0)
    assert json.loads(figure.line()) == {
        "figure": "rss_1000_models",
        "value": 250.0,
        "unit": "MB",
        "baseline": 1250.0,
        "ratio": 5.0,
    }


def test_who_asks_counts_from_when_a_request_was_due() -> None:
    """The latency of a request counts from the time at which it was due.

    Answers of 50 ms at twenty-five a second over a single line come later and later.
    """
    application = app.create("1.2.3", well)

    @application.post("/slow")
    def slow(values: list[int]) -> Response:
        time.sleep(0.05)
        return Response("x" * 100_000, 200 if values[0] else 503)

    with app.served(application, listen("127.0.0.1", 0)) as port:
        call = Call(port, "", "/slow", ["[1]", "[0]"], seconds=1.0, rate=25.0)
        heard = obeyed(call)
        unpaced = obeyed(Call(port, "", "/slow", ["[1]"], 0.5, lines=2))
    assert (len(heard.latencies), heard.refused) == (25, 12)
    assert heard.latencies[0] >= 0.05
    assert heard.latencies[-1] >= 24 * 0.01
    assert 2 <= len(unpaced.latencies) <= 22
    assert unpaced.refused == 0


@pytest.mark.benchmark
def test_scoring_reaches_its_bars() -> None:
    """Scoring is 60 times as fast as scikit-learn for a row, 200 times for rows of many models."""
    now = time.time_ns() // 1000
    rig = Rig.built([of_kind(kind, 2000, now) for kind in range(4)], now, 1000)
    assert scoring.score_one_row(rig, 6.0).ratio >= 60
    assert scoring.score_1000_series(rig, 6.0).ratio >= 200
