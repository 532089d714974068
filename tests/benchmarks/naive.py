"""The naive design, as a process: paho's callback scores, inserts, commits and publishes in turn.

Its forest uses the value alone, which is the cheapest call of scikit-learn. The first line of
standard input names broker and database, and "ready" is the answer. Each further line is answered
by the number of stored readings.
"""

import json
import sys
import time
import warnings
from datetime import UTC, datetime
from threading import Thread

import msgspec
import paho.mqtt.client as paho
import psycopg
from paho.mqtt.enums import CallbackAPIVersion
from sklearn.ensemble import IsolationForest

from tests.benchmarks import signals
from tests.benchmarks.publisher import Place

EVENTS = "naive/anomaly/"
_TABLE = (
    "CREATE TABLE naive (device_id text, metric_name text, ts timestamptz, value float8, "
    "score float8, is_anomaly boolean)"
)
_INSERT = "INSERT INTO naive VALUES (%s, %s, %s, %s, %s, %s)"


class Situation(msgspec.Struct):
    """Addresses of the servers, and the end of the training readings in microseconds."""

    broker: Place
    dsn: str
    now: int


class Naive:
    """A client that does all its work in the callback."""

    def __init__(self, situation: Situation) -> None:
        self._models = _models(situation.now)
        self._database = psycopg.connect(situation.dsn)
        self._database.execute(_TABLE)
        self._database.commit()
        self.stored = 0
        self.client = client = paho.Client(CallbackAPIVersion.VERSION2, "naive")
        client.username_pw_set(situation.broker.user, situation.broker.password)
        client.on_message = self._message
        client.connect(situation.broker.host, situation.broker.port)
        client.subscribe("insa/iiot/telemetry/+", 1)

    def _message(self, client: paho.Client, userdata: object, message: paho.MQTTMessage) -> None:
        del userdata
        device, said = message.topic.rpartition("/")[2], json.loads(message.payload)
        model = self._models[device, said["metric_name"]]
        score = float(model.decision_function([[said["value"]]])[0])
        when = datetime.fromtimestamp(said["timestamp"] / 1e6, UTC)
        self._database.execute(
            _INSERT, (device, said["metric_name"], when, said["value"], score, score < 0)
        )
        self._database.commit()
        self.stored += 1
        if score < 0:
            client.publish(
                EVENTS + device, json.dumps({"timestamp": said["timestamp"], "score": score}), 1
            )


def _models(now: int) -> dict[tuple[str, str], IsolationForest]:
    """Return a forest for each kind, shared by its series."""
    values = [signals.history(kind, 2000, now)[1].reshape(-1, 1) for kind in range(signals.KINDS)]
    forests = [IsolationForest(contamination=0.001, random_state=42).fit(one) for one in values]
    return {key: forests[i % signals.KINDS] for i, key in enumerate(signals.keys())}


def main() -> None:
    """Run the client until standard input ends."""
    warnings.simplefilter("ignore")
    naive = Naive(msgspec.json.decode(sys.stdin.buffer.readline(), type=Situation))
    Thread(target=naive.client.loop_forever, daemon=True).start()
    time.sleep(0.5)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for _ in sys.stdin:
        sys.stdout.write(f"{naive.stored}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
