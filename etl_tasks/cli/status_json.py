"""``status --json``: times in UTC, durations in seconds, names that stay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from etl_tasks.cli.headline import Expectations, Headline, headline_of, why_owed
from etl_tasks.cli.texts import iso, iso_or_none
from etl_tasks.core.status import (
    Holes,
    OpenWork,
    OwedPublish,
    ReconcileView,
    RejectGroup,
    RunView,
    SliceGroup,
    StatusReport,
    UnloadedWindows,
    lag_of,
    slices_by_state,
    with_errors,
)
from etl_tasks.core.windows import Window


def as_dict(report: StatusReport, clean_table: str, expected: Expectations) -> dict[str, Any]:
    """The whole report for programs."""
    return {
        "now": iso(report.now),
        "clean_table": clean_table,
        **headline_dict(headline_of(report, expected)),
        "last_progress": iso_or_none(report.last_progress),
        "last_sign": iso_or_none(report.last_sign),
        "oldest_heartbeat": iso_or_none(report.oldest_heartbeat),
        "work": work_dict(report.work),
        "processes": [
            {
                "process": process.process,
                "watermark": iso_or_none(process.watermark),
                "lag_s": (
                    int(lag_of(process.watermark, report.now, expected.shift_min).total_seconds())
                    if process.watermark
                    else None
                ),
                "runs": [_run_in_report(run, report) for run in process.runs],
            }
            for process in report.processes
        ],
        "source_reads": [
            {
                "source": each.source,
                "limit": each.limit,
                "in_use": each.in_use,
                "waiting": each.waiting,
                "halvings": each.halvings,
            }
            for each in report.reads
        ],
        "unloaded": [_unloaded_dict(each) for each in report.unloaded],
        "rejects": [reject_dict(each) for each in report.rejects],
        "owed": [_owed_dict(owed, report) for owed in report.owed],
        "incomplete_partitions": list(report.incomplete),
        "holes": _holes_dict(report.holes) if report.holes else None,
        "rejected_rows": report.rejected_rows.rows,
        "reconciles": [_reconcile_dict(each) for each in report.reconciles],
        "differing": [
            {**window_dict(each.window), "by_hash": each.by_hash, "mendable": each.mendable}
            for each in report.differing
        ],
    }


def headline_dict(found: Headline) -> dict[str, Any]:
    """The headline, how bad it is, and what to type next (None: nothing)."""
    return {"level": str(found.level), "headline": found.text, "next": found.command or None}


def run_dict(run: RunView) -> dict[str, Any]:
    """A run's row; ``since`` and the untils are business time."""
    return {
        "run": run.run_id,
        "status": run.status,
        "active": run.active,
        "since": iso_or_none(run.since),
        "until": iso_or_none(run.until),
        "covered_until": iso_or_none(run.covered_until),
        "started_at": iso(run.started_at),
        "ended_at": iso_or_none(run.ended_at),
        "heartbeat_at": iso_or_none(run.heartbeat_at),
        "progress_at": iso_or_none(run.progress_at),
        "reason": run.reason,
    }


def work_dict(work: OpenWork) -> dict[str, Any]:
    """What is open."""
    return {
        "due": work.due,
        "lost": work.lost,
        "waiting": work.waiting,
        "held_back": work.held_back,
        "running": work.running,
        "workers": work.workers,
        "oldest_start": iso_or_none(work.oldest_start),
        "next_try_at": iso_or_none(work.next_try_at),
    }


def slices_dict(groups: Sequence[SliceGroup], run_id: int, rejected_rows: int) -> dict[str, Any]:
    """The slices of one run: by state, sums, and what is wrong by kind of error."""
    return {
        "slices": slices_by_state(groups, run_id),
        "rows": sum(group.rows for group in groups),
        "overloads": sum(group.overloads for group in groups),
        "splits": [
            {"error_kind": group.error_kind, "slices": group.slices} for group in groups if group.state == "split"
        ],
        "rejected_rows": rejected_rows,
        "errors": [
            {
                "error_kind": group.error_kind,
                "state": group.state,
                "slices": group.slices,
                "window": str(group.window),
                "last_error": group.last_error,
            }
            for group in with_errors(groups)
        ],
    }


def reject_dict(each: RejectGroup) -> dict[str, Any]:
    """Rows rejected for one reason, with an example."""
    return {
        "column": each.column,
        "reason": each.reason,
        "rows": each.rows,
        "run": each.run_id,
        "example": {"row_key": each.row_key, "value": each.value},
    }


def window_dict(window: Window) -> dict[str, str]:
    """A window in source time."""
    return {"from": iso(window.start), "to": iso(window.end)}


def _run_in_report(run: RunView, report: StatusReport) -> dict[str, Any]:
    groups = [group for group in report.slices if group.run_id == run.run_id]
    detail = slices_dict(groups, run.run_id, report.rejected.get(run.run_id, 0)) if groups else {}
    return {**run_dict(run), **detail}


def _unloaded_dict(each: UnloadedWindows) -> dict[str, Any]:
    return {
        "run": each.run_id,
        "error_kind": each.error_kind,
        "cancelled": each.cancelled,
        "windows": each.windows,
        "from": iso(each.since),
        "to": iso(each.until),
        "example": {**window_dict(each.window), "last_error": each.last_error},
    }


def _holes_dict(holes: Holes) -> dict[str, Any]:
    return {
        "intervals": holes.count,
        "seconds": holes.seconds,
        "from": iso(holes.since),
        "to": iso(holes.until),
    }


def _owed_dict(owed: OwedPublish, report: StatusReport) -> dict[str, Any]:
    return {
        "partition": owed.partition,
        "state": owed.state,
        "generations": owed.generations,
        "waiting_since": iso_or_none(owed.waiting_since),
        "why": why_owed(owed, report.now),
        "not_before": iso_or_none(owed.not_before),
        "attempts": owed.attempts,
        "error_kind": owed.error_kind,
        "last_error": owed.last_error,
    }


def _reconcile_dict(view: ReconcileView) -> dict[str, Any]:
    return {
        "reconcile": view.reconcile_id,
        "from": iso(view.since),
        "to": iso(view.until),
        "by_hash": view.by_hash,
        "status": view.status,
        "started_at": iso(view.started_at),
        "ended_at": iso_or_none(view.ended_at),
        "windows": view.windows,
        "differing": [window_dict(window) for window in view.differing],
        "source_rows": view.source_rows,
        "clean_rows": view.clean_rows,
        "missing": view.missing,
        "extra": view.extra,
        "changed": view.changed,
        "repair_run": view.repair_run_id,
        "error": view.error or None,
        "died": view.died,
    }
