"""Recorded anomalies and episodes, page by page."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import msgspec

from insa_anomaly.core.notification.event import Anomaly, Episode
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.errors import NotFound
from insa_anomaly.ports.anomalies import AnomalyCounts, Feedback, Filter, PageCursor
from insa_anomaly.services.audit import Audit, Author
from insa_anomaly.services.views import AnomalyView, EpisodeView, anomaly_view, episode_view

T = TypeVar("T")


class AnomalyStore(Protocol):
    """Anomalies, episodes and feedback. Any call may raise DatabaseAway or DatabaseRefused."""

    def anomalies(self, wanted: Filter, after: PageCursor | None, most: int) -> list[Anomaly]:
        """Return at most `most` anomalies that the filter admits, newest first, after a place."""

    def count_anomalies(self, wanted: Filter) -> int:
        """Count the anomalies that the filter admits."""

    def episodes(
        self, wanted: Filter, after: PageCursor | None, most: int
    ) -> list[tuple[Episode, Feedback | None]]:
        """Return at most `most` episodes with their feedback, the latest to open first."""

    def count_episodes(self, wanted: Filter) -> int:
        """Count the episodes that the filter admits."""

    def tally(self, model_id: str, since: int) -> AnomalyCounts:
        """Count the findings of this model since `since`, and the feedback on all its episodes."""

    def confidences(self, key: SeriesKey, since: int, most: int) -> list[tuple[int, float]]:
        """Return (time, confidence) of at most `most` anomalies since `since`, in time order."""

    def say(self, episode_id: str, feedback: Feedback) -> None:
        """Store an operator's feedback on an episode, in place of earlier feedback."""


class AnomalyPage(msgspec.Struct, frozen=True):
    """A page of anomalies, newest first.

    `total` counts all anomalies that the filter admits; `next` is the cursor of the next page.
    """

    anomalies: list[AnomalyView]
    total: int
    next: str | None


class EpisodePage(msgspec.Struct, frozen=True):
    """A page of episodes, the latest to open first."""

    episodes: list[EpisodeView]
    total: int
    next: str | None


@dataclass(frozen=True)
class AnomalyService:
    """Queries of anomalies and episodes, and feedback of operators."""

    findings: AnomalyStore
    audit: Audit

    def anomalies(self, wanted: Filter, after: PageCursor | None, most: int) -> AnomalyPage:
        """Return a page of anomalies."""
        found = self.findings.anomalies(wanted, after, most + 1)
        page, last = paged(found, most, lambda one: PageCursor(one.timestamp, one.id))
        total = self.findings.count_anomalies(wanted)
        return AnomalyPage([anomaly_view(one) for one in page], total, last)

    def episodes(self, wanted: Filter, after: PageCursor | None, most: int) -> EpisodePage:
        """Return a page of episodes."""
        found = self.findings.episodes(wanted, after, most + 1)
        page, last = paged(found, most, lambda one: PageCursor(one[0].started_at, one[0].id))
        total = self.findings.count_episodes(wanted)
        return EpisodePage([episode_view(*one) for one in page], total, last)

    def feedback(self, episode_id: str, feedback: Feedback, author: Author) -> EpisodeView:
        """Store an operator's feedback on an episode; the latest verdict counts.

        Raises NotFound, DatabaseAway, DatabaseRefused.
        """
        found = self.findings.episodes(Filter(episode_id=episode_id), None, 1)
        if not found:
            raise NotFound(f"there is no episode {episode_id}")
        episode, before = found[0]
        self.audit.write(author.change("episode.feedback", episode_id, before, feedback))
        self.findings.say(episode_id, feedback)
        return episode_view(episode, feedback)


def paged(
    found: list[T], most: int, place: Callable[[T], PageCursor]
) -> tuple[list[T], str | None]:
    """Return a page of at most `most`, and the word for its end, if `found` continues after it."""
    last = place(found[most - 1]) if len(found) > most else None
    return found[:most], last and f"{last.time}~{last.id}"


def place(said: str) -> PageCursor:
    """Return the place of a cursor. Raises ValueError."""
    time, mark, name = said.partition("~")
    if not mark or not -(2**53) <= int(time) <= 2**53:
        raise ValueError("this is no cursor that a page gave")
    return PageCursor(int(time), name)
