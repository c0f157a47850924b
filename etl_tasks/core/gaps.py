"""What of a span of the source's time is not loaded, or loaded and not published, and who fills it.

Sets are spans of whole seconds (``core.spans``): a journal of years may have hundreds of thousands of gaps.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from etl_tasks.core.slicing import SlicingRules, schedule_until
from etl_tasks.core.spans import Span, intersect_spans, merge_spans, subtract_spans
from etl_tasks.core.states import PublishState
from etl_tasks.core.windows import DAY_S, MINUTE_S, Window, from_seconds, midnight_of, partition_of, to_seconds
from etl_tasks.errors import UsageError


@dataclass(frozen=True, slots=True)
class PartitionCoverage:
    """A partition's row of the journal: what of it, within the span asked for, is not loaded, and not published.

    ``publish_state`` is a ``PublishState``; ``not_before`` is when a due publish begins at the earliest, ``error`` why
    the last one failed (empty: it did not). ``awaited``: an active run, or the cadence, is going to make its publish
    due.
    """

    partition: int
    not_loaded: Sequence[Span]
    not_published: Sequence[Span]
    publish_state: str = PublishState.IDLE
    not_before: datetime | None = None
    error: str = ""
    awaited: bool = False

    @property
    def in_hand(self) -> bool:
        """Whether its publish comes without anybody's doing: an idle one that is awaited, one that is due, one that
        runs.
        """
        if self.publish_state == PublishState.IDLE:
            return self.awaited
        return self.publish_state in (PublishState.DUE, PublishState.RUNNING)


@dataclass(frozen=True, slots=True)
class FailedRun:
    """The windows of a run that it could not load; ``active``: it goes on with others."""

    run_id: int
    windows: Sequence[Span]
    active: bool = False


@dataclass(frozen=True, slots=True)
class CoverageFacts:
    """What the journal knows of a span: its partitions that have a row, the failed windows, newest run first, and what
    active runs have still to load, by run.
    """

    partitions: Sequence[PartitionCoverage]
    failed: Sequence[FailedRun]
    loading: Mapping[int, Sequence[Span]]


@dataclass(frozen=True, slots=True)
class Gaps:
    """The gaps of ``span``; all lists are in order of time and disjoint.

    ``missing`` is what is not loaded and no active run is to load; ``runs`` has for those of them that some run was to
    load whole and could not, the newest such run: to resume it fills the gap.
    ``loading`` is what active runs (``loading_runs``) are to load; ``unpublished`` are the partitions with something
    loaded and not published that somebody has to publish, ``publishing`` those whose publish comes by itself.
    """

    span: Span
    missing: Sequence[Span]
    runs: Mapping[Span, FailedRun]
    loading: Sequence[Span]
    loading_runs: Sequence[int]
    unpublished: Sequence[PartitionCoverage]
    publishing: Sequence[PartitionCoverage]

    @property
    def any(self) -> bool:
        """Whether there is a gap that somebody has to see to."""
        return bool(self.missing or self.unpublished)

    def not_published(self, partitions: Sequence[PartitionCoverage]) -> list[Span]:
        """Their instants that are loaded and not published, merged over midnights."""
        return merge_spans(span for each in partitions for span in each.not_published)


def find_gaps(window: Window, facts: CoverageFacts) -> Gaps:
    """The gaps of ``window`` (the source's time). A day without a row in the journal is one whole gap."""
    span = to_seconds(window.start), to_seconds(window.end)
    known = [_day_of(each.partition) for each in facts.partitions]
    not_loaded = merge_spans(
        [*subtract_spans([span], known), *(gap for each in facts.partitions for gap in each.not_loaded)]
    )
    loading = intersect_spans((one for spans in facts.loading.values() for one in spans), not_loaded)
    missing = subtract_spans(not_loaded, loading) if loading else not_loaded
    owed = [each for each in facts.partitions if each.not_published]
    return Gaps(
        span=span,
        missing=missing,
        runs=_left_by_runs(missing, facts.failed),
        loading=loading,
        loading_runs=sorted(run for run, spans in facts.loading.items() if intersect_spans(spans, loading)),
        unpublished=[each for each in owed if not each.in_hand],
        publishing=[each for each in owed if each.in_hand],
    )


def by_partition(spans: Sequence[Span]) -> Iterator[tuple[int, list[Span]]]:
    """(Partition, its spans) in order of time; spans are disjoint and in order, and are cut at UTC midnights."""
    day, members = -1, list[Span]()
    for start, end in spans:
        while start < end:
            if start // DAY_S != day:
                if members:
                    yield partition_of(from_seconds(members[0][0])), members
                day, members = start // DAY_S, []
            cut = min(end, (day + 1) * DAY_S)
            members.append((start, cut))
            start = cut
    if members:
        yield partition_of(from_seconds(members[0][0])), members


def due_until(rules: SlicingRules, now: datetime) -> datetime:
    """Business time up to which the schedule had to have planned by ``now``: it comes by every ``STEP_MIN``."""
    return schedule_until(rules, now) - timedelta(minutes=rules.step_min)


def default_interval(
    covered: Window, watermark: datetime | None, rules: SlicingRules, now: datetime
) -> tuple[datetime, datetime]:
    """The business interval that plain ``gaps`` looks at: from the first instant loaded to what had to be loaded.

    ``covered`` is from the first to the last instant ever loaded, in the source's time. Where there is no schedule
    (no watermark) nothing had to be loaded after the last.
    """
    shift = timedelta(minutes=rules.shift_min)
    since, until = covered.start - shift, covered.end - shift
    if watermark is not None:
        until = max(until, due_until(rules, now))
    return since, max(since, min(until, schedule_until(rules, now)))


def due_window(since: datetime, until: datetime, rules: SlicingRules, now: datetime) -> tuple[Window, list[str]]:
    """The source's time of the business interval ``[since, until)``, cut at now less the lag, and the notice of that.

    What is newer than that may not be read yet, and so is no gap. Raises UsageError when nothing is left.
    """
    edge = schedule_until(rules, now)
    asked = f"[{since:%Y-%m-%dT%H:%M:%SZ}, {until:%Y-%m-%dT%H:%M:%SZ})"
    not_due = f"nothing newer than now less PHX_QUERY_LAG_MINUTES={rules.lag_min} may be read"
    if since >= until:
        raise UsageError(f"{asked} holds nothing to look at: give --since and --until")
    if since >= edge:
        raise UsageError(
            f"nothing of {asked} may be read yet, so nothing of it is a gap: {not_due} ({edge:%Y-%m-%dT%H:%M:%SZ})"
        )
    notices = [f"what is newer than {edge:%Y-%m-%dT%H:%M:%SZ} is left out: {not_due}"] if until > edge else []
    shift = timedelta(minutes=rules.shift_min)
    try:
        return Window(since + shift, min(until, edge) + shift), notices
    except OverflowError:
        raise UsageError(
            f"{asked} with a shift of {rules.shift_min} minutes reaches outside the years 1 to 9999"
        ) from None


def business_span(span: Span, shift_min: int) -> Span:
    """The business time of a span of the source's time."""
    return span[0] - shift_min * MINUTE_S, span[1] - shift_min * MINUTE_S


def _left_by_runs(missing: Sequence[Span], failed: Sequence[FailedRun]) -> dict[Span, FailedRun]:
    """The newest run that holds all of a gap, for the gaps that have one; the newest runs come first."""
    runs: dict[Span, FailedRun] = {}
    for run in failed:
        ours = merge_spans(run.windows)
        at = 0
        for gap in missing[_first_after(missing, ours[0][0]) :]:
            while at < len(ours) and ours[at][1] < gap[1]:
                at += 1
            if at == len(ours):
                break
            if ours[at][0] <= gap[0]:
                runs.setdefault(gap, run)
    return runs


def _first_after(spans: Sequence[Span], second: int) -> int:
    """The place of the first of disjoint spans in order that begins at or after the second."""
    return bisect_left(spans, (second, second))


def _day_of(partition: int) -> Span:
    start_s = to_seconds(midnight_of(partition))
    return start_s, start_s + DAY_S
