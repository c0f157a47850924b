"""What a reconcile says of each window: equal, or why it is not, and whether loading or publishing would mend it."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from etl_tasks.core.reconciling import WindowContent, WindowCounts
from etl_tasks.core.slicing import PlannedSlice, SlicingRules, plan_slices
from etl_tasks.core.windows import Window, merge, subtract
from etl_tasks.errors import UsageError


class Cause(StrEnum):
    """Why a window differs. The first three are mended by ``--repair``, the last two by nobody here."""

    EQUAL = "equal"
    UNPUBLISHED = "unpublished"
    """Loaded, and not published yet: the publish is owed."""
    NOT_LOADED = "not_loaded"
    """Some of it was never loaded by any lane."""
    BEHIND = "behind"
    """Loaded and published, and still without rows that the source has, or with old versions of them."""
    EXTRA = "extra"
    """Rows only in CLEAN: deletes in the source are not carried (DESIGN, "Not promised")."""
    UNFIT = "unfit"
    """Source rows that fit no column of the target."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """What the journal knows of some windows: parts ``loaded`` by any lane, and windows loaded and not published."""

    loaded: Sequence[Window]
    owed: Sequence[Window]


@dataclass(frozen=True, slots=True)
class Finding:
    """One window compared: by count, and with ``content`` by every row.

    ``raw_forgot``: RAW's TTL has passed for rows of it. ``asked_again``: it differed at first, and this is the second
    answer. ``cause`` is what ``judge`` says.
    """

    planned: PlannedSlice
    counts: WindowCounts
    content: WindowContent | None = None
    asked_again: bool = False
    cause: Cause = Cause.EQUAL
    raw_forgot: bool = False

    @property
    def window(self) -> Window:
        """The window compared, in source time."""
        return self.planned.window

    @property
    def equal(self) -> bool:
        """Whether the source and CLEAN agree: by content where that was compared, else by count."""
        return self.counts.equal if self.content is None else self.content.equal

    @property
    def mendable(self) -> bool:
        """Whether publishing or loading (``--repair``) would change it."""
        return self.cause in (Cause.UNPUBLISHED, Cause.NOT_LOADED, Cause.BEHIND)

    @property
    def lacking(self) -> bool:
        """Whether CLEAN lacks something that loading the window again would bring."""
        if self.content is None:
            return self.counts.clean < self.counts.source
        return bool(self.content.missing or self.content.differing or self.content.repeated)


@dataclass(frozen=True, slots=True)
class Verdict:
    """One reconcile, as it stands in the journal; ``settled`` windows differed at first and were equal when asked
    again.
    """

    reconcile_id: int
    by_hash: bool
    findings: Sequence[Finding]
    settled: int = 0

    @property
    def exact(self) -> bool:
        """Whether something was compared and all of it is equal."""
        return bool(self.findings) and all(each.equal for each in self.findings)

    @property
    def differing(self) -> list[Finding]:
        """What is not equal, in order of time."""
        return [each for each in self.findings if not each.equal]

    @property
    def causes(self) -> dict[Cause, int]:
        """How many windows differ, by cause, in the order of ``Cause``."""
        counted = Counter(each.cause for each in self.differing)
        return {cause: counted[cause] for cause in Cause if counted[cause]}


@dataclass(frozen=True, slots=True)
class RepairWork:
    """What mends a verdict: partitions to ``publish``, windows to ``load``; ``beyond`` is mended by neither."""

    publish: Sequence[int]
    load: Sequence[PlannedSlice]
    beyond: Sequence[Finding]

    def __bool__(self) -> bool:
        return bool(self.publish or self.load)


def judge(findings: Iterable[Finding], coverage: Coverage, raw_ttl_s: float, now: datetime) -> list[Finding]:
    """The findings, each with its cause and whether RAW has forgotten rows of it.

    RAW's TTL counts from the load, and no window is loaded before it has passed: one that ended less than the TTL ago
    cannot be forgotten.
    """
    listed = list(findings)
    holes = subtract([each.window for each in listed], coverage.loaded)
    owed = merge(coverage.owed)
    oldest_kept = now - timedelta(seconds=raw_ttl_s)
    return [
        replace(
            each,
            cause=_cause(each, not_loaded=touches(each.window, holes), owed=touches(each.window, owed)),
            raw_forgot=each.counts.raw < each.counts.source
            and each.window.end <= oldest_kept
            and not touches(each.window, holes),
        )
        for each in listed
    ]


def _cause(finding: Finding, *, not_loaded: bool, owed: bool) -> Cause:
    if finding.equal:
        return Cause.EQUAL
    if finding.lacking:
        if owed:
            return Cause.UNPUBLISHED
        return Cause.NOT_LOADED if not_loaded else Cause.BEHIND
    if finding.content is not None and finding.content.unfit and not finding.content.extra:
        return Cause.UNFIT
    return Cause.EXTRA


def repair_work(findings: Iterable[Finding], tried: Iterable[Window] = ()) -> RepairWork:
    """What would mend the findings; windows of ``tried`` are not loaded once more."""
    publish, load, beyond = set(), [], []
    done = merge(tried)
    for each in findings:
        if each.cause is Cause.UNPUBLISHED:
            publish.add(each.planned.partition)
        elif each.cause in (Cause.NOT_LOADED, Cause.BEHIND) and not touches(each.window, done):
            load.append(each.planned)
        elif not each.equal:
            beyond.append(each)
    return RepairWork(sorted(publish), load, beyond)


def touches(window: Window, disjoint: Sequence[Window]) -> bool:
    """Whether the window shares an instant with one of ``disjoint`` (in order, none overlapping another)."""
    before = bisect_left(disjoint, window.end, key=lambda each: each.start)
    return bool(before) and disjoint[before - 1].end > window.start


def grid_slices(windows: Iterable[Window], rules: SlicingRules, now: datetime) -> list[PlannedSlice]:
    """Windows in source time, cut on the grid as runs cut theirs."""
    exactly = replace(rules, shift_min=0, overlap_min=0, lag_min=0, business_tz=None)
    return [
        planned
        for window in merge(windows)
        for planned in plan_slices(window.start, window.end, exactly, max(now, window.end)).slices
    ]


def last_interval(watermark: datetime | None, last: timedelta, process_name: str) -> tuple[datetime, datetime]:
    """The business interval of length ``last`` up to the watermark: what the schedule has promised, and nothing newer.

    Raises UsageError where there is no watermark yet.
    """
    if watermark is None:
        raise UsageError(
            f"{process_name} has no watermark yet, so there is no last day to compare: give --since and --until"
        )
    return watermark - last, watermark
