"""Anomalies and episodes, page by page."""

from typing import Protocol

import msgspec

from insa_anomaly.core.notification.event import Anomaly, Episode
from insa_anomaly.errors import NotFound
from insa_anomaly.ports import Feedback, Filter, Place, SeriesKey, Tally
from insa_anomaly.services.audit import Audit, Author
from insa_anomaly.services.views import AnomalyView, EpisodeView, anomaly_view, episode_view


class Findings(Protocol):
    """What was recorded. Any call may raise DatabaseAway or DatabaseRefused."""

    def anomalies(self, wanted: Filter, after: Place | None, most: int) -> list[Anomaly]:
        """The newest `most` that the filter lets through, or those after a place."""

    def count_anomalies(self, wanted: Filter) -> int:
        """How many the filter lets through."""

    def episodes(
        self, wanted: Filter, after: Place | None, most: int
    ) -> list[tuple[Episode, Feedback | None]]:
        """As `anomalies`, by the time they opened."""

    def count_episodes(self, wanted: Filter) -> int:
        """How many the filter lets through."""

    def tally(self, model_id: str, since: int) -> Tally:
        """What this model found since then, and what operators said of all its episodes."""

    def confidences(self, key: SeriesKey, since: int, most: int) -> list[tuple[int, float]]:
        """Times and confidences of the series' anomalies since then, in time order, at most so many."""

    def say(self, episode_id: str, feedback: Feedback) -> None:
        """Keep what an operator says of an episode, instead of what was said before."""


class AnomalyPage(msgspec.Struct, frozen=True):
    """Some anomalies, newest first; `total` counts all that the filter lets through, `next` is the cursor of the next page."""

    anomalies: list[AnomalyView]
    total: int
    next: str | None


class EpisodePage(msgspec.Struct, frozen=True):
    """Some episodes, the one opened last first."""

    episodes: list[EpisodeView]
    total: int
    next: str | None


class FindingService:
    """Reads what was found, and takes what operators say of it."""

    def __init__(self, findings: Findings, audit: Audit) -> None:
        self._findings = findings
        self._audit = audit

    def anomalies(self, wanted: Filter, after: Place | None, most: int) -> AnomalyPage:
        """A page of anomalies."""
        found = self._findings.anomalies(wanted, after, most + 1)
        last = cursor(found[most - 1].timestamp, found[most - 1].id) if len(found) > most else None
        return AnomalyPage(
            [anomaly_view(one) for one in found[:most]],
            self._findings.count_anomalies(wanted),
            last,
        )

    def episodes(self, wanted: Filter, after: Place | None, most: int) -> EpisodePage:
        """A page of episodes."""
        found = self._findings.episodes(wanted, after, most + 1)
        last = (
            cursor(found[most - 1][0].started_at, found[most - 1][0].id)
            if len(found) > most
            else None
        )
        return EpisodePage(
            [episode_view(*one) for one in found[:most]],
            self._findings.count_episodes(wanted),
            last,
        )

    def feedback(self, episode_id: str, feedback: Feedback, author: Author) -> EpisodeView:
        """Keep what an operator says of an episode; the last word counts. Raises NotFound, DatabaseAway, DatabaseRefused."""
        wanted = Filter(episode_id=episode_id)
        found = self._findings.episodes(wanted, None, 1)
        if not found:
            raise NotFound(f"there is no episode {episode_id}")
        episode, before = found[0]
        self._audit.write(author.change("episode.feedback", episode_id, before, feedback))
        self._findings.say(episode_id, feedback)
        return episode_view(episode, feedback)


def cursor(time: int, name: str) -> str:
    """A place as one word, for callers to hand back."""
    return f"{time}~{name}"


def place(said: str) -> Place:
    """The inverse of `cursor`. Raises ValueError."""
    time, mark, name = said.partition("~")
    if not mark or not -(2**53) <= int(time) <= 2**53:
        raise ValueError("this is no cursor that a page gave")
    return Place(int(time), name)
