"""The Grafana dashboard and the table of all metrics: `make dashboards` writes both.

Each panel's query stands here once; a test runs every query against a real Prometheus and a real
PostgreSQL.
"""

import json
import sys
from pathlib import Path

from insa_anomaly.instrumentation.metrics import definitions
from scripts.dashboards.panels import (
    BAD,
    FAIR,
    GOOD,
    HEIGHT,
    PLAIN,
    POSTGRES,
    PROMETHEUS,
    Json,
    Panel,
    Promql,
    Scale,
    Sql,
    bars,
    gauge,
    heading,
    lines,
    placed,
    stat,
    states,
    table,
)

FILE = "insa-anomaly.json"
BEGIN, END = "<!-- metrics: begin -->\n", "<!-- metrics: end -->\n"
_OF = '{instance=~"$instance"}'
_SHARE = "percentunit"
_LOW_IS_BAD = ((BAD, None), (FAIR, 0.5), (GOOD, 0.9))
_YES, _NO = ((BAD, None), (GOOD, 1)), ((GOOD, None), (BAD, 1))


def _rate(metric: str, by: str = "") -> str:
    """Return the rate a second, over all instances."""
    return f"sum{f' by ({by}) ' if by else ''}(rate({metric}{_OF}[$__rate_interval]))"


def _quantile(q: float, metric: str) -> str:
    return f"histogram_quantile({q}, {_rate(f'{metric}_bucket', 'le')})"


def _models() -> list[Panel]:
    assessed = f"avg(avg_over_time(insa_model_false_positive_rate{_OF}[24h]))"
    alarmed = (
        f"sum(increase(insa_anomalies_total{_OF}[24h])) / "
        f"sum(increase(insa_readings_total{_OF}[24h]))"
    )
    latency = Scale("s", steps=((GOOD, None), (BAD, 0.1)))
    return [
        heading("Models"),
        gauge(
            "ML Model Status",
            "Share of the series known that a model serves. A new series has none until it has "
            "told enough to learn from.",
            [
                Promql(
                    f"sum(insa_series_with_model{_OF}) / sum(insa_series{_OF})",
                    "series with a model",
                    now=True,
                )
            ],
            Scale(_SHARE, most=1, steps=_LOW_IS_BAD),
        ),
        gauge(
            "False Positive Rate, 24 h",
            "As assessed: the mean over the models that serve and over 24 hours, from held-out "
            "readings. At the most: the share of all "
            "readings of 24 hours that scored below 0, which is the rate if every one of them "
            "was a false positive.",
            [Promql(assessed, "as assessed", now=True), Promql(alarmed, "at the most", now=True)],
            Scale(_SHARE, most=0.2, steps=((GOOD, None), (FAIR, 0.05), (BAD, 0.1)), decimals=2),
        ),
        lines(
            "Anomaly Detection Rate",
            "Readings that scored below 0, and transitions of episodes, an hour.",
            [
                Promql(f"3600 * {_rate('insa_anomalies_total')}", "anomalous readings"),
                Promql(
                    f"3600 * {_rate('insa_episode_transitions_total', 'kind')}", "episodes {{kind}}"
                ),
            ],
            Scale(),
            width=12,
            label="an hour",
        ),
        bars(
            "Model Accuracy",
            "Of the models that serve, the 25 lowest: (true positive rate + 1 - false positive "
            "rate) / 2, as assessed. "
            "Models of fewer than 2000 readings have none yet.",
            Sql(
                "SELECT device_id || ' / ' || metric_name AS model, accuracy FROM ml_models\n"
                "WHERE status = 'active' AND accuracy IS NOT NULL AND device_id IN "
                "(${device:sqlstring})\nORDER BY accuracy, 1 LIMIT 25"
            ),
            "model",
            Scale(_SHARE, most=1, steps=((BAD, None), (FAIR, 0.8), (GOOD, 0.9)), decimals=1),
        ),
        lines(
            "Prediction Latency",
            "From the receipt of a reading to its score, committed: of the oldest reading of "
            "each batch.",
            [
                Promql(_quantile(q, "insa_receive_to_score_seconds"), f"p{round(100 * q)}")
                for q in (0.5, 0.95, 0.99)
            ],
            latency,
            width=12,
        ),
        stat(
            "Models by status",
            "Every version there ever was.",
            [
                Sql(
                    "SELECT status, count(*) AS models FROM ml_models GROUP BY status ORDER BY "
                    "status"
                )
            ],
            Scale("none", steps=((PLAIN, None),)),
            width=12,
            height=HEIGHT,
        ),
        stat(
            "Precision, as operators said",
            "Confirmed episodes among those that were judged, in the time shown.",
            [
                Sql(
                    "SELECT count(*) FILTER (WHERE verdict = 'confirmed')::float8 / "
                    "nullif(count(*), 0) AS precision\n"
                    "FROM feedback WHERE $__timeFilter(given_at)"
                )
            ],
            Scale(_SHARE, most=1, steps=_LOW_IS_BAD),
            height=HEIGHT,
        ),
        lines(
            "Trainings",
            "Models trained, trainings that ended without one, and models put aside since their "
            "files are not what was written, an hour.",
            [
                Promql(f"3600 * {_rate('insa_models_trained_total')}", "trained"),
                Promql(f"3600 * {_rate('insa_trainings_failed_total')}", "failed"),
                Promql(f"3600 * {_rate('insa_models_failed_total')}", "put aside"),
            ],
            Scale(),
            width=6,
            label="an hour",
        ),
        lines(
            "Decisions of the health check",
            "Of the last day, by what was decided and why: retrained, escalated, recovered, "
            "disabled, retired, cleaned up.",
            [
                Promql(
                    f"sum by (kind, cause) (increase(insa_health_decisions_total{_OF}[24h]))",
                    "{{kind}}: {{cause}}",
                )
            ],
            Scale(),
            width=24,
            label="a day",
        ),
    ]


def _findings() -> list[Panel]:
    return [
        heading("What was found"),
        table(
            "Open episodes",
            "Whatever the time shown.",
            Sql(
                "SELECT started_at, device_id, metric_name, readings, peak_confidence, "
                "updated_at FROM anomaly_episodes\n"
                "WHERE closed_at IS NULL AND device_id IN (${device:sqlstring})\nORDER BY "
                "started_at DESC LIMIT 100"
            ),
        ),
        bars(
            "Anomalies by device",
            "Anomalous readings in the time shown, the 20 devices with most.",
            Sql(
                "SELECT device_id AS device, count(*) AS anomalies FROM anomaly_detections\n"
                "WHERE is_anomaly AND $__timeFilter(timestamp) AND device_id IN "
                "(${device:sqlstring})\n"
                "GROUP BY device_id ORDER BY anomalies DESC, 1 LIMIT 20"
            ),
            "device",
            Scale("none", steps=((PLAIN, None),)),
        ),
        table(
            "Newest anomalies",
            "In the time shown: the value, what was expected, and the first reason.",
            Sql(
                "SELECT timestamp, device_id, metric_name, value, "
                "(metadata->>'expected')::float8 AS expected,\n"
                "    (metadata->>'lower')::float8 AS lower, (metadata->>'upper')::float8 AS "
                "upper, confidence,\n"
                "    metadata->'reasons'->0->>'text' AS reason\n"
                "FROM anomaly_detections WHERE is_anomaly AND $__timeFilter(timestamp) AND "
                "device_id IN (${device:sqlstring})\n"
                "ORDER BY timestamp DESC LIMIT 100"
            ),
            width=24,
        ),
    ]


def _alerts() -> list[Panel]:
    return [
        heading("Alerts and silence"),
        lines(
            "Alerts",
            "By target, an hour: delivered, attempts that failed, held for a summary since the "
            "day's budget was spent, and given up.",
            [
                Promql(
                    f"3600 * {_rate('insa_alerts_delivered_total', 'target')}",
                    "delivered to {{target}}",
                ),
                Promql(
                    f"3600 * {_rate('insa_alerts_failed_total', 'target')}", "failed to {{target}}"
                ),
                Promql(
                    f"3600 * {_rate('insa_alerts_held_total', 'target')}", "held for {{target}}"
                ),
                Promql(
                    f"3600 * {_rate('insa_alerts_dead_total', 'target')}", "given up to {{target}}"
                ),
            ],
            Scale(),
            label="an hour",
        ),
        lines(
            "Alerts waiting",
            "Those that are not delivered yet, by target. A target that is away has them when it "
            "is back; they are kept a day.",
            [Promql(f"sum by (target) (insa_alert_backlog{_OF})", "{{target}}")],
            Scale(),
        ),
        lines(
            "Silent",
            "Devices that report no longer as they used to; and 1 while the stream as a whole is "
            "silent.",
            [
                Promql(f"sum(insa_devices_silent{_OF})", "devices"),
                Promql(f"max(insa_stream_silent{_OF})", "the stream"),
            ],
            Scale(),
        ),
    ]


def _health() -> list[Panel]:
    words = {"1": "yes", "0": "no"}
    trouble = {"0": ("fine", GOOD), "1": ("in trouble", BAD)}
    firing = 'count(ALERTS{alertname=~"InsaAnomaly.+", alertstate="firing"}) or vector(0)'
    return [
        heading("The pipeline"),
        stat(
            "Broker",
            "Whether every instance is connected.",
            [_now("min", "insa_broker_connected")],
            Scale("none", steps=_YES),
            words=words,
        ),
        stat(
            "PostgreSQL",
            "Whether what every instance records is taken.",
            [_now("min", "insa_database_connected")],
            Scale("none", steps=_YES),
            words=words,
        ),
        stat(
            "Degraded",
            "Whether something keeps an instance from doing all of its job.",
            [_now("max", "insa_degraded")],
            Scale("none", steps=_NO),
            words=words,
        ),
        stat(
            "Alerts firing",
            "Of the rules of this project.",
            [Promql(firing, "alerts", now=True)],
            Scale("none", steps=_NO),
        ),
        lines(
            "Throughput",
            "Messages written to the log, readings scored, readings recorded in PostgreSQL, "
            "values predicted over the admin API.",
            [
                Promql(_rate("insa_messages_total"), "messages"),
                Promql(_rate("insa_readings_total"), "readings scored"),
                Promql(_rate("insa_readings_recorded_total"), "readings recorded"),
                Promql(_rate("insa_predictions_total"), "predictions"),
            ],
            Scale(),
            label="a second",
        ),
        lines(
            "Latency, p99",
            "From receipt to the acknowledgement, to the committed score, to the broker's word "
            "that it has the event; and scoring alone.",
            [
                Promql(_quantile(0.99, "insa_receive_to_durable_seconds"), "to durable"),
                Promql(_quantile(0.99, "insa_receive_to_score_seconds"), "to the score"),
                Promql(_quantile(0.99, "insa_receive_to_event_seconds"), "to the event"),
                Promql(_quantile(0.99, "insa_score_batch_seconds"), "scoring alone"),
            ],
            Scale("s", steps=((GOOD, None), (BAD, 0.1))),
        ),
        states(
            "Troubles",
            "What was in trouble, and when.",
            Promql(f"max by (what) (insa_trouble{_OF})", "{{what}}"),
            trouble,
        ),
        lines(
            "Lag of the readers",
            "Since the oldest entry of the log that a reader has not dealt with was received.",
            [Promql(f"max by (reader) (insa_reader_lag_seconds{_OF})", "{{reader}}")],
            Scale("s", steps=((GOOD, None), (BAD, 300))),
        ),
        lines(
            "Waiting",
            "Entries of the log that a reader has not dealt with, and events that are not told "
            "yet.",
            [
                Promql(f"sum by (reader) (insa_reader_lag_entries{_OF})", "entries to {{reader}}"),
                Promql(f"sum(insa_outbox_events{_OF})", "events to tell"),
            ],
            Scale(),
        ),
        lines(
            "Events",
            "Told to the broker, and refused by it, an hour.",
            [
                Promql(f"3600 * {_rate('insa_events_told_total')}", "told"),
                Promql(f"3600 * {_rate('insa_events_refused_total')}", "refused"),
            ],
            Scale(),
            label="an hour",
        ),
        lines(
            "Rejected messages",
            "Messages that hold no reading, an hour, by reason.",
            [Promql(f"3600 * {_rate('insa_rejected_messages_total', 'reason')}", "{{reason}}")],
            Scale(),
            label="an hour",
        ),
        table(
            "Dead letters",
            "The newest in the time shown, whole or as much of them as was kept.",
            Sql(
                "SELECT last_received, topic, reason, times, detail FROM dead_letters\n"
                "WHERE $__timeFilter(last_received) ORDER BY last_received DESC LIMIT 50"
            ),
            width=16,
        ),
        lines(
            "The connection to the broker",
            "Connections made, sessions that the broker had forgotten, connections taken over by "
            "a client of the same id, messages given "
            "back since there was no room, an hour.",
            [
                Promql(f"3600 * {_rate('insa_broker_connections_total')}", "connections"),
                Promql(f"3600 * {_rate('insa_broker_sessions_lost_total')}", "sessions lost"),
                Promql(f"3600 * {_rate('insa_broker_takeovers_total')}", "takeovers"),
                Promql(f"3600 * {_rate('insa_messages_shed_total')}", "messages given back"),
            ],
            Scale(),
            label="an hour",
        ),
        lines(
            "The admin API",
            "Requests that were denied, an hour, and the share of counts that were found in "
            "memory or in Redis.",
            [
                Promql(
                    f"3600 * ({_rate('insa_requests_denied_total')} or vector(0))", "denied an hour"
                ),
                Promql(
                    f"100 * {_rate('insa_cache_hits_total')} / ({_rate('insa_cache_hits_total')} "
                    f"+ {_rate('insa_cache_misses_total')})",
                    "cache hits, %",
                ),
            ],
            Scale(),
        ),
        lines(
            "On disk",
            "Files of the log, of the states and of the models; looked at every five minutes.",
            [Promql(f"sum by (what) (insa_storage_bytes{_OF})", "{{what}}")],
            Scale("bytes"),
        ),
        stat(
            "Database",
            "Its size.",
            [Sql("SELECT pg_database_size(current_database()) AS bytes")],
            Scale("bytes", steps=((PLAIN, None),)),
            width=8,
            height=HEIGHT,
        ),
        lines(
            "Memory",
            "Of the daemon's process, resident; the process that trains is another one.",
            [
                Promql(
                    'process_resident_memory_bytes{instance=~"$instance", job="insa-anomaly"}',
                    "{{instance}}",
                )
            ],
            Scale("bytes"),
        ),
        lines(
            "Processor",
            "Of the daemon's process: 100 % is one core.",
            [
                Promql(
                    'rate(process_cpu_seconds_total{instance=~"$instance", job="insa-anomaly"}'
                    "[$__rate_interval])",
                    "{{instance}}",
                )
            ],
            Scale(_SHARE),
        ),
    ]


def _now(how: str, metric: str) -> Promql:
    return Promql(f"{how}({metric}{_OF})", metric, now=True)


def _source(name: str, label: str, kind: str) -> Json:
    return {
        "type": "datasource",
        "name": name,
        "label": label,
        "query": kind,
        "hide": 0,
        "refresh": 1,
        "regex": "",
        "current": {},
    }


def _choice(name: str, label: str, source: Json, query: object, everything: str) -> Json:
    """Return a variable of several values; `everything` stands for all of them in a query."""
    chosen = {"selected": True, "text": ["All"], "value": ["$__all"]}
    about: Json = {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": source,
        "query": query,
        "definition": _text(query),
    }
    return {
        **about,
        "multi": True,
        "includeAll": True,
        "allValue": everything,
        "current": chosen,
        "refresh": 2,
        "sort": 1,
        "regex": "",
        "hide": 0,
    }


def _text(query: object) -> str:
    return str(query["query"]) if isinstance(query, dict) else str(query)


def dashboard() -> Json:
    """Return the dashboard as Grafana reads it."""
    instances = {
        "qryType": 1,
        "query": "label_values(insa_series,instance)",
        "refId": "PrometheusVariableQueryEditor-VariableQuery",
    }
    devices = "SELECT device_id FROM series"
    return {
        "uid": "insa-anomaly",
        "title": "insa-anomaly",
        "description": "Models, what they found, and the health of the pipeline.",
        "tags": ["insa-anomaly"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "links": [],
        "annotations": {"list": []},
        "templating": {
            "list": [
                _source("prometheus", "Prometheus", str(PROMETHEUS["type"])),
                _source("postgres", "PostgreSQL", str(POSTGRES["type"])),
                _choice("instance", "Instance", PROMETHEUS, instances, ".+"),
                _choice("device", "Device", POSTGRES, f"{devices} GROUP BY 1 ORDER BY 1", devices),
            ]
        },
        "panels": placed([*_models(), *_findings(), *_alerts(), *_health()]),
    }


def as_text() -> str:
    """Return the text of the dashboard's file."""
    return json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n"


def metrics_table() -> str:
    """Return every metric by name, type, unit, labels and meaning, in Markdown."""
    rows = ["| name | type | unit | labels | meaning |", "|---|---|---|---|---|"]
    rows += [
        f"| `{one.name}` | {one.kind} | {one.unit} | {', '.join(one.labels)} | {one.text} |"
        for one in definitions()
    ]
    return "\n".join(rows) + "\n"


def main(folder: Path) -> None:
    """Write the dashboard, and the table into the README beside it."""
    (folder / FILE).write_text(as_text(), encoding="utf-8")
    readme = folder / "README.md"
    before, _, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    readme.write_text(
        f"{before}{BEGIN}{metrics_table()}{END}{rest.partition(END)[2]}", encoding="utf-8"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
