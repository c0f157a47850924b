"""Rows of the queries behind ``status``, as the core's values."""

from __future__ import annotations

from typing import Any

from etl_tasks.core.run_report import Pace, SplitTree, WindowTime
from etl_tasks.core.status import (
    FailedSlice,
    OpenWork,
    OwedPublish,
    PartitionProgress,
    ReconcileView,
    RejectGroup,
    RunView,
    SliceGroup,
    UnloadedWindows,
)
from etl_tasks.core.windows import Window

_NO_REASON = "no reason was written"


def run_view(row: Any) -> RunView:
    """A run or publish."""
    return RunView(
        run_id=int(row.id),
        process=row.process_name,
        status=row.status,
        started_at=row.ts_start,
        ended_at=row.ts_end,
        since=row.since,
        until=row.until,
        covered_until=row.covered_until,
        heartbeat_at=row.heartbeat_at,
        details=row.details or {},
        progress_at=row.progress_at,
    )


def slice_group(row: Any) -> SliceGroup:
    """A group of slices."""
    return SliceGroup(
        run_id=int(row.run_id),
        state=row.state,
        error_kind=row.error_kind,
        slices=int(row.slices),
        rows=int(row.rows),
        overloads=int(row.overloads),
        deepest=int(row.deepest),
        window=Window(row.window_from, row.window_to) if row.window_from is not None else None,
        last_error=row.last_error,
    )


def owed_publish(row: Any) -> OwedPublish:
    """A publish that is owed."""
    return OwedPublish(
        partition=row.partition,
        state=row.publish_state,
        generations=int(row.generations),
        waiting_since=row.first_unpublished_at,
        not_before=row.not_before,
        attempts=row.spent,
        error_kind=row.error_kind,
        last_error=row.last_error,
        lease_until=row.lease_until,
    )


def partition_progress(row: Any, counts: Any) -> PartitionProgress:
    """A partition of a run; ``counts`` is what its slices have come to, or None where they were not counted."""
    counted = (
        {name: int(getattr(counts, name)) for name in ("rows", "splits", "overloads", "running", "waiting")}
        if counts is not None
        else {}
    )
    return PartitionProgress(
        partition=row.partition,
        state=row.state,
        slices=row.slices,
        open_slices=row.open_slices,
        failed_slices=row.failed_slices,
        loaded=row.wanted_gen > 0,
        published=0 < row.wanted_gen <= row.published_gen,
        publish_failed=row.publish_failed,
        publish_state=row.publish_state,
        publish_waits=bool(row.publish_waits),
        publish_ms=row.last_duration_ms,
        publish_error=row.last_error,
        clean_rows=int(row.clean_rows) if row.clean_rows is not None else None,
        loading_s=float(row.loading_s) if row.loading_s is not None else None,
        **counted,
    )


def failed_slice(row: Any, not_before: Any = None) -> FailedSlice:
    """A window that failed or waits."""
    window = Window(row.window_from, row.window_to)
    return FailedSlice(window, row.error_kind or "unknown", row.last_error or _NO_REASON, not_before)


def open_work(row: Any) -> OpenWork:
    """What is open in active runs."""
    counts = {name: int(getattr(row, name)) for name in ("due", "lost", "waiting", "held_back", "running", "workers")}
    return OpenWork(**counts, oldest_start=row.oldest_start, next_try_at=row.next_try_at)


def unloaded_windows(row: Any) -> UnloadedWindows:
    """Windows that nobody has loaded."""
    return UnloadedWindows(
        run_id=int(row.run_id),
        error_kind=row.error_kind,
        windows=int(row.windows),
        since=row.since,
        until=row.until,
        window=Window(row.window_from, row.window_to),
        last_error=row.last_error or _NO_REASON,
        cancelled=row.cancelled,
    )


def reject_group(row: Any) -> RejectGroup:
    """Rows rejected for one reason."""
    return RejectGroup(row.column_name, row.reason, int(row.rows), int(row.run_id), row.row_key, row.value)


def reconcile_view(row: Any) -> ReconcileView:
    """A comparison with the source."""
    edges = zip(row.differing_from, row.differing_to, strict=True)
    return ReconcileView(
        reconcile_id=int(row.id),
        since=row.since,
        until=row.until,
        by_hash=row.by_hash,
        status=row.status,
        started_at=row.started_at,
        ended_at=row.ended_at,
        windows=row.windows,
        differing=[Window(start, end) for start, end in edges],
        source_rows=row.source_rows,
        clean_rows=row.clean_rows,
        missing=row.missing,
        extra=row.extra,
        changed=row.changed,
        repair_run_id=row.repair_run_id,
        error=row.error or "",
        alive=row.alive,
    )


def window_time(row: Any) -> WindowTime:
    """A window and how long it took."""
    return WindowTime(
        slice_id=int(row.id),
        window=Window(row.window_from, row.window_to),
        state=row.state,
        took_s=float(row.took_s),
        rows=int(row.rows),
        attempts=row.attempt,
        overloads=row.overloads,
        depth=row.depth,
        worker=row.worker,
        timings_ms=row.timings_ms,
    )


def split_tree(row: Any) -> SplitTree:
    """A planned window that was split, and what came of it."""
    return SplitTree(
        slice_id=int(row.root_id),
        window=Window(row.window_from, row.window_to),
        descendants=int(row.descendants),
        deepest=row.deepest,
        done=int(row.done),
        failed=int(row.failed),
        open=int(row.open),
        error_kind=row.error_kind or "unknown",
        last_error=row.last_error or _NO_REASON,
    )


def pace_of(row: Any, recent_s: float) -> Pace:
    """What a run has loaded and what it has left."""
    counts = {name: int(getattr(row, name)) for name in ("done", "rows", "recent_done", "recent_rows")}
    return Pace(
        first_start=row.first_start,
        last_done=row.last_done,
        recent_s=recent_s,
        recent_window_s=float(row.recent_window_s),
        open_slices=int(row.open),
        open_window_s=float(row.open_window_s),
        **counts,
    )
