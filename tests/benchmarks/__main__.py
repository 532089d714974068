"""The benchmark: a JSON line for each figure on standard output, progress on standard error.

`python -m tests.benchmarks [FIGURE...]`
"""

import argparse
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from insa_anomaly.core.series.training import Trained
from tests.benchmarks import device_rows, fleet, live, memory, predicting, scoring
from tests.benchmarks.child import ROOT
from tests.benchmarks.figure import Figure
from tests.benchmarks.health import health_check_10k
from tests.benchmarks.learning import learning
from tests.benchmarks.live import percentile
from tests.benchmarks.signals import SERIES

_PACES = {"latency_p99_1k": 1_000.0, "latency_p99_5k": 5_000.0, "latency_p99_10k": 10_000.0}
_SCORING = ("score_one_row", "score_1000_series")
_MEMORY = ("rss_1000_models", "bytes_per_model")
_PREDICTING = ("predict_p99", "latency_p99_predicting", "predict_batch")
_LEARNING = ("train_one", "train_all_100")
_HEALTH = "health_check_10k"
_DEVICES = "device_rows"
FIGURES = (*_SCORING, _DEVICES, "live_qos1", *_PACES, *_MEMORY, *_PREDICTING, *_LEARNING, _HEALTH)
# Readings a second that the naive design can process, even on a busy machine.
_NAIVE_PACE = 50.0
_SPIKES_A_SECOND = 20.0  # at least, in a paced run, so that p99 rests on hundreds of events


@dataclass(frozen=True)
class Options:
    """Figures to measure, and the time for each."""

    figures: Sequence[str]
    seconds: float
    latency_seconds: float
    naive_seconds: float
    score_seconds: float
    spikes: float
    settings: dict[str, dict[str, object]]

    def any_of(self, names: Sequence[str]) -> bool:
        """Return whether any of these figures is wanted."""
        return any(name in self.figures for name in names)


class Laboratory:
    """The measurement of the wanted figures; inputs that several figures need are made once."""

    def __init__(self, options: Options) -> None:
        self._options = options

    def figures(self) -> Iterator[Figure]:
        """Yield each figure as soon as it is known."""
        options = self._options
        if options.any_of(_SCORING):
            yield from self._scoring()
        if _DEVICES in options.figures:
            yield device_rows.figure(_now(), options.score_seconds, say)
        if "bytes_per_model" in options.figures:
            yield Figure.less_is_better(
                "bytes_per_model", self._sizes.model, "bytes", self._sizes.pickled
            )
        if options.any_of(("live_qos1", "rss_1000_models", *_PACES, *_PREDICTING)):
            yield from self._live()
        if options.any_of(_LEARNING):
            yield from learning(set(options.figures), say)
        if _HEALTH in options.figures:
            say("checking 10 000 models; the baseline asks for 500 of them one by one, scaled up")
            yield health_check_10k(_now())

    @cached_property
    def _trained(self) -> list[Trained]:
        say("training a model of each kind of signal, or taking those of an earlier run")
        return fleet.trained(ROOT / ".benchmarks", _now())

    @cached_property
    def _sizes(self) -> memory.Sizes:
        say(
            "measuring memory; the baseline has 50 forests of scikit-learn unpickled, scaled up "
            "to 1000"
        )
        return memory.measured(self._trained)

    def _scoring(self) -> Iterator[Figure]:
        rig = scoring.Rig.built(self._trained, _now(), SERIES)
        say(
            f"{len(self._trained)} trained models serve {SERIES} series, each in memory of its own;"
            f" all {len(rig.features[0])} features"
        )
        say(f"largest difference to scikit-learn: {rig.difference(100):.1e}")
        for measure in (scoring.score_one_row, scoring.score_1000_series):
            if measure.__name__ in self._options.figures:
                yield measure(rig, self._options.score_seconds)
        say(
            "all of the detector, window to verdict: "
            f"{1e6 * scoring.advance_seconds(rig, 2.0):.1f} us a reading in batches of {SERIES}"
        )

    def _live(self) -> Iterator[Figure]:
        options = self._options
        paces = {name: pace for name, pace in _PACES.items() if name in options.figures}
        with live.bed() as bed:
            with live.live(bed, self._trained, options.settings, say) as running:
                found = {
                    name: running.paced(pace, options.latency_seconds, self._spikes(pace))
                    for name, pace in paces.items()
                }
                rate = (
                    running.saturated(options.seconds, options.spikes).rate
                    if options.any_of(("live_qos1", "rss_1000_models"))
                    else 0.0
                )
                peak = running.peak_bytes()
                predicted = list(self._predicting(running, found.get("latency_p99_5k")))
                running.settle()
            wanted = options.naive_seconds if "live_qos1" in options.figures else 0.0
            baseline = live.naive(
                bed,
                seconds=wanted,
                paced_seconds=options.latency_seconds if paces else 0.0,
                pace=_NAIVE_PACE,
                spikes=self._spikes(_NAIVE_PACE),
                say=say,
            )
        if "live_qos1" in options.figures:
            yield Figure.more_is_better("live_qos1", rate, "readings/s", baseline.rate)
        for name, latencies in found.items():
            yield Figure.less_is_better(
                name,
                1e3 * percentile(latencies, 99),
                "ms",
                1e3 * percentile(baseline.latencies, 99),
            )
        if "rss_1000_models" in options.figures:
            yield Figure.less_is_better(
                "rss_1000_models", peak / 1e6, "MB", self._sizes.unpickled_fleet / 1e6
            )
        yield from predicted

    def _predicting(self, running: live.Live, alone: Sequence[float] | None) -> Iterator[Figure]:
        options, pace = self._options, predicting.STREAM_PACE
        if not options.any_of(_PREDICTING):
            return
        token = predicting.new_token(running.bed.dsn)
        if options.any_of(("predict_p99", "latency_p99_predicting")):
            alone = alone or running.paced(pace, options.latency_seconds, self._spikes(pace))
            for figure in predicting.predict_p99(
                running,
                token,
                self._trained,
                alone=alone,
                seconds=options.latency_seconds,
                spikes=self._spikes(pace),
            ):
                if figure.figure in options.figures:
                    yield figure
        if "predict_batch" in options.figures:
            yield predicting.predict_batch(running, token, self._trained)

    def _spikes(self, pace: float) -> float:
        return max(0.01, _SPIKES_A_SECOND / pace)


def say(text: str) -> None:
    """Print a line of progress."""
    sys.stderr.write(f"bench: {text}\n")
    sys.stderr.flush()


def _now() -> int:
    return time.time_ns() // 1000


def _options(argv: Sequence[str] | None = None) -> Options:
    parser = argparse.ArgumentParser("python -m tests.benchmarks", description=__doc__)
    parser.add_argument(
        "figures", nargs="*", metavar="FIGURE", help=f"of {', '.join(FIGURES)} [default: all]"
    )
    parser.add_argument("--seconds", type=float, default=25.0, help="of live_qos1 [%(default)s]")
    parser.add_argument(
        "--latency-seconds", type=float, default=25.0, help="of each latency [%(default)s]"
    )
    parser.add_argument(
        "--naive-seconds", type=float, default=8.0, help="of the naive design [%(default)s]"
    )
    parser.add_argument(
        "--score-seconds", type=float, default=8.0, help="of each score figure [%(default)s]"
    )
    parser.add_argument(
        "--spikes",
        type=float,
        default=0.001,
        help="share of readings in live_qos1 that are spikes; about ten readings "
        "stand out for each, as long as it is in the short window [%(default)s]",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="a setting of the daemon; may be repeated",
    )
    said = parser.parse_args(argv)
    unknown = set(said.figures) - set(FIGURES)
    if unknown:
        parser.error(
            f"no such figure: {', '.join(sorted(unknown))}; there are {', '.join(FIGURES)}"
        )
    settings: dict[str, dict[str, object]] = {}
    for one in said.set:
        name, _, value = one.partition("=")
        section, _, key = name.partition(".")
        settings.setdefault(section, {})[key] = value
    return Options(
        figures=said.figures or FIGURES,
        seconds=said.seconds,
        latency_seconds=said.latency_seconds,
        naive_seconds=said.naive_seconds,
        score_seconds=said.score_seconds,
        spikes=said.spikes,
        settings=settings,
    )


def main() -> None:
    """Measure the figures and print them."""
    warnings.simplefilter("ignore")
    for figure in Laboratory(_options()).figures():
        sys.stdout.write(figure.line() + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
