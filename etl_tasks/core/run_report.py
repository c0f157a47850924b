"""One run whole, as ``status RUN`` shows it: what was moved, slow, split and rejected, and how long it will take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from etl_tasks.core.status import OpenWork, RejectGroup, RunProgress, RunView, SliceGroup
from etl_tasks.core.windows import Window

RECENT_S = 300.0
"""How far back the recent pace reaches, in seconds."""
PICK_UP_S = 30.0
"""So long may pass between two slices of a run before it counts as resting."""


@dataclass(frozen=True, slots=True)
class WindowTime:
    """A window and how long its last attempt took; one that is still under way, so far. ``timings_ms`` is by stage."""

    slice_id: int
    window: Window
    state: str
    took_s: float
    rows: int
    attempts: int
    overloads: int
    depth: int
    worker: str | None
    timings_ms: Mapping[str, int]

    @property
    def longest_stage(self) -> tuple[str, int] | None:
        """The stage that took most of it, and its milliseconds; None where none was written."""
        return max(self.timings_ms.items(), key=lambda stage: stage[1]) if self.timings_ms else None


@dataclass(frozen=True, slots=True)
class SplitTree:
    """A window as it was planned, that was split: ``descendants`` came of it, of which so many are done, failed, open.

    What was split again is a descendant too, and none of the three. The error is the one it was split for.
    """

    slice_id: int
    window: Window
    descendants: int
    deepest: int
    done: int
    failed: int
    open: int
    error_kind: str
    last_error: str


@dataclass(frozen=True, slots=True)
class Pace:
    """What a run has loaded, over all and in its last ``recent_s`` seconds, and what it has left.

    Windows are measured in seconds of source time, for slices differ in width once some are split.
    """

    first_start: datetime | None
    last_done: datetime | None
    done: int
    rows: int
    recent_s: float
    recent_done: int
    recent_rows: int
    recent_window_s: float
    open_slices: int
    open_window_s: float


@dataclass(frozen=True, slots=True)
class Rate:
    """Rows a second and slices a minute over ``span_s`` seconds."""

    span_s: float
    rows_per_s: float
    slices_per_min: float


@dataclass(frozen=True, slots=True)
class Eta:
    """When an active run will have ended: ``left``, or None with the reason why nobody can tell."""

    left: timedelta | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class RunReport:
    """A run at ``now`` (PostgreSQL's clock).

    ``unloaded`` counts its windows in error that no run has loaded since. ``slowest`` and ``most_split`` are the first
    few, the worst first. ``rejected_rows`` are distinct rows; ``rejects`` groups them.
    """

    now: datetime
    clean_table: str | None
    shift_min: int
    progress: RunProgress
    groups: Sequence[SliceGroup]
    work: OpenWork
    slowest: Sequence[WindowTime]
    most_split: Sequence[SplitTree]
    rejected_rows: int
    rejects: Sequence[RejectGroup]
    unloaded: int
    pace: Pace

    @property
    def run(self) -> RunView:
        """The run's row."""
        return self.progress.run

    @property
    def failed_slices(self) -> int:
        """Slices in error."""
        return sum(group.slices for group in self.groups if group.state == "error")

    @property
    def unpublished(self) -> list[int]:
        """Partitions of which it loaded something that is not published."""
        return [each.partition for each in self.progress.partitions if each.loaded and not each.published]


def overall_rate(report: RunReport) -> Rate | None:
    """The rate from its first slice to its last one, to now while it loads; None before anything was loaded."""
    pace = report.pace
    if not pace.done or pace.first_start is None or pace.last_done is None:
        return None
    until = report.now if report.run.active and pace.open_slices else pace.last_done
    return _rate(pace.done, pace.rows, (until - pace.first_start).total_seconds())


def recent_rate(report: RunReport) -> Rate | None:
    """The rate of the last minutes of an active run that is being loaded, else None; zero when nothing was loaded."""
    pace = report.pace
    if not report.run.active or not pace.open_slices or pace.first_start is None or _rests(report):
        return None
    return _rate(pace.recent_done, pace.recent_rows, _recent_span_s(report, pace.first_start))


def eta_of(report: RunReport) -> Eta:
    """How long an active run will take from now on.

    Loading: the source time of its open windows at the pace of the last minutes. Publishing: the publishes it still
    waits for, one after the other as they are, at the mean of those it has behind it; loading and publishing go on side
    by side, but the last publish follows the last slice.
    """
    pace, partitions = report.pace, report.progress.partitions
    if not report.run.active:
        return Eta(None, "it has ended")
    known_ms = [each.publish_ms for each in partitions if each.published and each.publish_ms is not None]
    publish_s = sum(known_ms) / len(known_ms) / 1000 if known_ms else 0.0
    publishes = sum(not each.published and not each.publish_failed for each in partitions if each.state != "done")
    if _rests(report):
        return Eta(None, "no worker has anything of it in hand")
    if not pace.open_slices:
        if not known_ms:
            return Eta(None, "all is loaded, and how long a publish takes is not known yet")
        return Eta(timedelta(seconds=publishes * publish_s))
    if not pace.recent_window_s or pace.first_start is None:
        return Eta(None, f"nothing was loaded in the last {RECENT_S / 60:g} min")
    loading_s = pace.open_window_s * _recent_span_s(report, pace.first_start) / pace.recent_window_s
    return Eta(timedelta(seconds=max(loading_s + publish_s, publishes * publish_s)))


def _rests(report: RunReport) -> bool:
    """Whether nobody works on it: nothing in hand, and nothing loaded for longer than a task takes to be picked up."""
    last_done = report.pace.last_done
    quiet = last_done is None or (report.now - last_done).total_seconds() > PICK_UP_S
    return quiet and not report.progress.at_work


def _recent_span_s(report: RunReport, first_start: datetime) -> float:
    """A run younger than the recent minutes is measured over its own life, and never over less than a second."""
    return max(1.0, min(report.pace.recent_s, (report.now - first_start).total_seconds()))


def _rate(slices: int, rows: int, span_s: float) -> Rate:
    span_s = max(span_s, 0.001)
    return Rate(span_s, rows / span_s, slices * 60 / span_s)
