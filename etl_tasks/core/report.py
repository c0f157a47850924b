"""A run as a page: what the journal says of it, shaped into lanes, bars, days and lists, bounded however large it is.

Places are percentages of a drawing's width or height, so that it fits a phone as well as a sheet of paper.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import groupby

from etl_tasks.core.report_timeline import ReportSlice, Throughput, Timeline, throughput_of, timeline_of
from etl_tasks.core.states import SliceState
from etl_tasks.core.status import PartitionProgress, RunProgress
from etl_tasks.core.windows import DAY_S, Window

MOST_DAYS = 1100
MOST_PARTITIONS = 62
MOST_LISTED = 10


@dataclass(frozen=True, slots=True)
class DayCoverage:
    """Seconds of a partition's UTC day that any lane has loaded, and those of them that are published."""

    partition: int
    loaded_s: float
    published_s: float
    incomplete: bool


@dataclass(frozen=True, slots=True)
class ErrorGroup:
    """Slices of one state with errors of one class, the span of their windows, and the newest one's words."""

    state: str
    error_kind: str
    slices: int
    overloads: int
    span: Window
    last_error: str


@dataclass(frozen=True, slots=True)
class RejectedValue:
    """A value that did not fit."""

    row_key: str
    column: str
    value: str
    reason: str


@dataclass(frozen=True, slots=True)
class RunRecord:
    """All that the journal says of one run at ``now`` (PostgreSQL's clock)."""

    now: datetime
    progress: RunProgress
    slices: Sequence[ReportSlice]
    coverage: Sequence[DayCoverage]
    errors: Sequence[ErrorGroup]
    rejects: Sequence[RejectedValue]
    rejected_rows: int


@dataclass(frozen=True, slots=True)
class CalendarDay:
    """One cell: shares of the day in percent, and the letter that says the same without colour.

    ``P`` all of it published, ``L`` all loaded, ``p`` and ``l`` in part, ``!`` a hole left in error, ``-`` nothing.
    """

    day: date
    loaded_pct: float
    published_pct: float
    letter: str


@dataclass(frozen=True, slots=True)
class CalendarMonth:
    """The days of a month that the run touches; ``blanks`` cells before the first of them, weeks from Monday."""

    first: date
    blanks: int
    days: Sequence[CalendarDay | None]


@dataclass(frozen=True, slots=True)
class SplitWindow:
    """A planned slice that was split, and into how many pieces how deep."""

    window: Window
    pieces: int
    depth: int
    overloads: int


@dataclass(frozen=True, slots=True)
class ReportPage:
    """What the page shows; whatever is left out for its size is said in ``left_out``."""

    record: RunRecord
    states: Mapping[str, int]
    rows: int
    overloads: int
    timeline: Timeline | None
    throughput: Throughput | None
    months: Sequence[CalendarMonth]
    partitions: Sequence[PartitionProgress]
    slowest: Sequence[ReportSlice]
    most_split: Sequence[SplitWindow]
    left_out: Sequence[str]

    @property
    def took(self) -> timedelta:
        """From the run's start to its end, or until now."""
        run = self.record.progress.run
        return (run.ended_at or self.record.now) - run.started_at


def page_of(record: RunRecord) -> ReportPage:
    """The page of a run."""
    timeline = timeline_of(record.slices, record.now)
    months, days_left_out = _calendar(record.coverage)
    partitions, partitions_left_out = _partitions(record.progress.partitions)
    states = Counter(each.state for each in record.slices)
    left_out = [*(timeline.left_out if timeline else ()), *days_left_out, *partitions_left_out]
    if record.rejected_rows > len({each.row_key for each in record.rejects}):
        left_out.append(f"{record.rejected_rows:,} rows were rejected, the first values of them are shown")
    loaded = [each for each in record.slices if each.state == SliceState.DONE and each.took_s is not None]
    return ReportPage(
        record=record,
        states={str(state): states[state] for state in SliceState},
        rows=sum(each.rows for each in record.slices),
        overloads=sum(each.overloads for each in record.slices),
        timeline=timeline,
        throughput=throughput_of(record.slices),
        months=months,
        partitions=partitions,
        slowest=sorted(loaded, key=lambda each: (-(each.took_s or 0), each.window))[:MOST_LISTED],
        most_split=_most_split(record.slices)[:MOST_LISTED],
        left_out=left_out,
    )


def _calendar(coverage: Sequence[DayCoverage]) -> tuple[list[CalendarMonth], list[str]]:
    shown = coverage[-MOST_DAYS:]
    left_out = (
        [f"the calendar shows the last {len(shown):,} of {len(coverage):,} days"] if len(shown) < len(coverage) else []
    )
    months = []
    for _, of_month in groupby(shown, key=lambda each: each.partition // 100):
        days = {day.day: day for day in map(_day, of_month)}
        first, last = min(days), max(days)
        cells = [days.get(first + timedelta(days=offset)) for offset in range((last - first).days + 1)]
        months.append(CalendarMonth(first, first.weekday(), cells))
    return months, left_out


def _day(covered: DayCoverage) -> CalendarDay:
    year, month, day = covered.partition // 10_000, covered.partition // 100 % 100, covered.partition % 100
    loaded_pct, published_pct = (round(seconds / DAY_S * 100, 1) for seconds in (covered.loaded_s, covered.published_s))
    if covered.incomplete:
        letter = "!"
    elif covered.published_s:
        letter = "P" if covered.published_s >= DAY_S else "p"
    elif covered.loaded_s:
        letter = "L" if covered.loaded_s >= DAY_S else "l"
    else:
        letter = "-"
    return CalendarDay(date(year, month, day), loaded_pct, published_pct, letter)


def _partitions(partitions: Sequence[PartitionProgress]) -> tuple[list[PartitionProgress], list[str]]:
    """All of them, or of very many those that somebody has to look at."""
    if len(partitions) <= MOST_PARTITIONS:
        return list(partitions), []
    troubled = [each for each in partitions if each.failed_slices or each.publish_failed or not each.published]
    shown = troubled[:MOST_PARTITIONS]
    few = f"of {len(partitions):,} partitions {len(shown):,} are listed"
    return shown, [f"{few}: the first that are not loaded and published whole"]


def _most_split(slices: Sequence[ReportSlice]) -> list[SplitWindow]:
    """Planned slices that were split, those in the most pieces first."""
    by_id = {each.slice_id: each for each in slices}
    pieces: Counter[int] = Counter()
    depth: Counter[int] = Counter()
    overloads: Counter[int] = Counter()
    # A half comes after the slice it is a half of, so its root is known by then.
    root: dict[int, int] = {}
    for each in slices:
        parent = each.parent_id
        root[each.slice_id] = top = each.slice_id if parent is None else root.get(parent, parent)
        depth[top] = max(depth[top], each.depth)
        overloads[top] += each.overloads
        pieces[top] += each.state != SliceState.SPLIT
    split = [
        SplitWindow(by_id[top].window, pieces[top], depth[top], overloads[top])
        for top in pieces
        if depth[top] and top in by_id
    ]
    return sorted(split, key=lambda each: (-each.pieces, -each.depth, each.window))
