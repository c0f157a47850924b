"""What the journal counts for ``metrics``: values of one moment, and the names under which counts outlive pruning."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from etl_tasks.core.read_limit import SourceReads
from etl_tasks.core.states import DEDUP_SUFFIX, MANUAL_PREFIX, RunStatus, SliceState, lanes_of

Counts = Counter[tuple[str, str]]
"""(name, label) → a number that only ever grows; the rows of ``inc_processing_totals``. Times are milliseconds."""


def count_runs(counts: Counts, process: str, status: str, runs: int, took_ms: int) -> None:
    """Add runs (or publishes) of one process that ended alike."""
    counts["runs_ended", f"{process} {status}"] += runs
    if process.endswith(DEDUP_SUFFIX):
        counts["publishes", status] += runs
        if status == RunStatus.OK:
            counts["publish_ms", ""] += took_ms


def count_slices(
    counts: Counts,
    state: str,
    error_kind: str,
    *,
    slices: int,
    overloads: int,
    rows_read: int,
    rows_inserted: int,
    rows_repeated: int,
    took_ms: int,
) -> None:
    """Add slices that are loaded, split or failed and whose last error (empty: none) is of one class."""
    counts["overloads", error_kind] += overloads
    counts["rows_read", ""] += rows_read
    counts["rows_inserted", ""] += rows_inserted
    counts["rows_repeated", ""] += rows_repeated
    if state == SliceState.DONE:
        counts["slices_loaded", ""] += slices
        counts["slice_ms", ""] += took_ms
    elif state == SliceState.SPLIT:
        counts["slices_split", error_kind] += slices
    else:
        counts["slices_failed", error_kind] += slices


def of_name(counts: Counts, name: str) -> dict[str, int]:
    """label → value of one name, without labels that count nothing."""
    return {label: value for (each, label), value in sorted(counts.items()) if each == name and value}


def lane_of(process: str, process_name: str) -> str:
    """``schedule``, ``manual`` or ``publish``; ``other`` for what is no lane of the settings' ``PROCESS_NAME``."""
    if process not in lanes_of(process_name):
        return "other"
    if process.endswith(DEDUP_SUFFIX):
        return "publish"
    return "manual" if process.startswith(MANUAL_PREFIX) else "schedule"


@dataclass(frozen=True, slots=True)
class ProcessMetrics:
    """A process: when its last run (of any status) was written, when one last moved, and its watermark.

    ``lane`` is a ``lane_of``.
    """

    process: str
    lane: str
    started_at: datetime
    progress_at: datetime | None
    watermark: datetime | None
    lag_s: float | None


@dataclass(frozen=True, slots=True)
class PublishingMetrics:
    """Partitions by what their publishes owe, and the last publish; seconds of business time where it says ``_s``."""

    owed: int
    due: int
    running: int
    error: int
    incomplete: int
    oldest_unpublished_s: float
    unpublished_s: float
    last_published_at: datetime | None
    last_duration_ms: int | None


@dataclass(frozen=True, slots=True)
class GapMetrics:
    """Intervals that nobody has loaded and no active run is to load, and their length together in seconds."""

    gaps: int
    gap_s: float


@dataclass(frozen=True, slots=True)
class ReconcileMetrics:
    """The newest reconcile: how it ended and when, when one last could compare to its end, and rows by difference.

    ``mendable`` and ``beyond`` are of all reconciles: windows that differed when they were last compared, by whether
    ``--repair`` would change that.
    """

    status: str
    ended_at: datetime
    compared_at: datetime | None
    mendable: int
    beyond: int
    missing: int
    extra: int
    changed: int


@dataclass(frozen=True, slots=True)
class JournalMetrics:
    """The journal of one CLEAN table at ``now`` (PostgreSQL's clock).

    ``active_runs`` by (process, status) and ``active_slices`` by (process, state) are of what has not ended;
    ``waiting_runs`` (by process) are those of the runs that only wait for a publish, which is in its turn.
    ``reconcile`` is None before the first one. ``reads`` are the sources that slices of the whole journal have read
    within a day.
    """

    now: datetime
    processes: Sequence[ProcessMetrics]
    active_runs: dict[tuple[str, str], int]
    waiting_runs: dict[str, int]
    active_slices: dict[tuple[str, str], int]
    publishing: PublishingMetrics
    gaps: GapMetrics
    reconcile: ReconcileMetrics | None
    counts: Counts = field(default_factory=Counter)
    reads: Sequence[SourceReads] = ()
