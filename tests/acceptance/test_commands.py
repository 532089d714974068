"""The commands beside `run`: each prints what it promises and ends with a usable status."""

import json
from uuid import uuid4

import numpy as np

from insa_anomaly.adapters.postgres.recorder import PostgresRecorder
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.ports.recorder import Page, Telemetry
from tests.acceptance.plant import BEGIN, DEVICES, METRICS, STEP, TRAINING_ROWS, machines, stream
from tests.acceptance.site import Site
from tests.conftest import wait_for

SERIES = [f"{device}/{metric}" for device in DEVICES for metric in METRICS]


def record_history(site: Site) -> None:
    """Store the ordinary rows of the plant as a daemon would."""
    n = TRAINING_ROWS
    with PostgresRecorder(site.database) as recorder:
        for machine in machines(0):
            for column, metric in enumerate(METRICS):
                telemetry = Telemetry(
                    keys=[SeriesKey(machine.device_id, metric)],
                    key=np.zeros(n, np.int32),
                    timestamp=BEGIN + np.arange(n) * STEP,
                    discriminator=np.arange(n),
                    value=np.ascontiguousarray(machine.values[:, column]),
                    quality=np.zeros(n, np.int16),
                    flags=np.zeros(n, np.int16),
                )
                recorder.record(Page(uuid4(), 1, telemetry))


def test_from_an_empty_database_to_models_in_a_running_daemon(site: Site) -> None:
    """The commands migrate, check-config, train --all and models each do their step and report it.

    The running daemon takes the new models over by itself.
    """
    first = site.run("migrate")
    assert first.returncode == 0, first.stderr
    assert all(line.startswith("applied 0") for line in first.stdout.splitlines())
    assert site.query("SELECT count(*) FROM schema_migrations") == [
        (len(first.stdout.splitlines()),)
    ]
    assert site.run("migrate").stdout == "the schema is up to date\n"

    checked = site.run("check-config")
    assert [line for line in checked.stdout.splitlines() if not line.startswith(" ")] == [
        f"{site.folder / 'config.yaml'}: every setting is understood. A daemon of it",
        "broker: ok",
        "database: ok",
        "models: ok",
    ]
    assert checked.returncode == 0

    assert site.run("models", "--json").stdout == "[]\n"
    assert "no models yet" in site.run("models").stdout

    daemon = site.daemon()
    daemon.start()
    record_history(site)
    trained = site.run("train", "--all", "--jobs", "2")
    assert trained.returncode == 0, trained.stdout + trained.stderr
    lines = dict(line.split(": ", 1) for line in trained.stdout.splitlines())
    every = [*SERIES, *(f"{name}/_device" for name in DEVICES)]
    assert sorted(lines) == sorted(every)
    assert all(outcome.startswith("trained in ") for outcome in lines.values())

    listed = json.loads(site.run("models", "--json").stdout)
    assert {f"{row['device_id']}/{row['metric_name']}": row["id"] for row in listed} == {
        name: outcome.rsplit(" ", 1)[1] for name, outcome in lines.items()
    }
    assert {(row["status"], row["version"], row["training_samples"]) for row in listed} == {
        ("active", 1, TRAINING_ROWS)
    }
    assert len(site.run("models").stdout.splitlines()) == len(every)

    wait_for(lambda: daemon.status()["series_with_model"] == len(SERIES), 30)
    wait_for(lambda: daemon.status()["devices_with_model"] == len(DEVICES), 30)
    with site.listen() as heard, site.feeder() as feeder:
        for message in stream(machines(200)):
            feeder.publish(*message)
        wait_for(lambda: any(event.kind == "opened" for event in heard.events), 30)
    wait_for(
        lambda: len(site.query("SELECT 1 FROM ml_models WHERE status = 'active'")) == len(every), 30
    )
    assert daemon.terminate() == 0


def test_check_config_says_what_does_not_answer(site: Site) -> None:
    """The command check-config prints a line for each server and exits with 1 where one fails."""
    site.put("broker", {"port": 1})
    site.put("database", {"url": "host=127.0.0.1 port=1 user=insa dbname=insa"})
    site.put("mail", {"host": "127.0.0.1", "port": 1, "recipients": ["shift@plant.test"]})
    site.put("github", {"repository": "plant/line", "url": "http://127.0.0.1:1"})
    site.put("redis", {"url": "redis://127.0.0.1:1/0"})
    done = site.run("check-config")
    assert done.returncode == 1
    lines = dict(
        line.split(": ", 1) for line in done.stdout.splitlines() if not line.startswith(" ")
    )
    assert "no MQTT broker answers at 127.0.0.1:1" in lines["broker"]
    assert "refused" in lines["database"]
    assert "refused" in lines["mail"]
    assert "refused" in lines["github"]
    assert "refused" in lines["redis"]
    assert lines["models"] == "ok"
    assert done.stderr == ""


def test_train_says_what_it_lacks(site: Site) -> None:
    """A missing series or a missing file causes a line and status 1, without a traceback."""
    site.run("migrate")
    unknown = site.run("train", "--device", "nobody", "--metric", "nothing")
    assert unknown.returncode == 1
    assert unknown.stdout.startswith("nobody/nothing: not trained: 0 ")
    absent = site.run("train", "--csv", str(site.folder / "absent.csv"))
    assert absent.returncode == 1
    assert "absent.csv" in absent.stderr
    assert "Traceback" not in absent.stderr + unknown.stderr
