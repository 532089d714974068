"""The command `replay`: recordings published as if they came in now."""

from collections.abc import Sequence

from rich.console import Console

from insa_anomaly.settings.load import Settings
from insa_anomaly.wiring import clock
from insa_anomaly.wiring.broker import feeder
from insa_anomaly.workbench.recordings.recording import Recording
from insa_anomaly.workbench.recordings.replay import ReplayCounts, replay


def replay_recordings(
    settings: Settings,
    recordings: Sequence[Recording],
    speed: float | None,
    *,
    shift_to_now: bool,
    console: Console,
) -> ReplayCounts:
    """Publish the recordings."""
    with feeder(settings.broker, "replay") as publisher:
        return replay(
            recordings,
            publisher,
            console,
            speed=speed,
            shift_to=clock.now() if shift_to_now else None,
        )
