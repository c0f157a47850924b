"""``status RUN --json``: one run whole, times in UTC, durations in seconds."""

from __future__ import annotations

from typing import Any

from etl_tasks.cli.headline import Expectations
from etl_tasks.cli.run_headline import run_headline
from etl_tasks.cli.status_json import headline_dict, reject_dict, run_dict, slices_dict, window_dict, work_dict
from etl_tasks.cli.texts import iso, iso_or_none
from etl_tasks.core.run_report import Rate, RunReport, SplitTree, WindowTime, eta_of, overall_rate, recent_rate
from etl_tasks.core.status import PartitionProgress


def run_as_dict(report: RunReport, expected: Expectations) -> dict[str, Any]:
    """The whole report for programs. ``eta_s`` and ``eta`` are None where ``eta_unknown`` says why."""
    run = report.run
    eta = eta_of(report)
    return {
        "now": iso(report.now),
        "clean_table": report.clean_table,
        "process": run.process,
        **headline_dict(run_headline(report, expected)),
        **run_dict(run),
        "details": dict(run.details),
        **slices_dict(report.groups, run.run_id, report.rejected_rows),
        "work": work_dict(report.work),
        "unloaded_windows": report.unloaded,
        "rejects": [reject_dict(each) for each in report.rejects],
        "partitions": [_partition_dict(each) for each in report.progress.partitions],
        "slowest": [_window_time_dict(each) for each in report.slowest],
        "most_split": [_split_tree_dict(each) for each in report.most_split],
        "throughput": {"run": _rate_dict(overall_rate(report)), "recent": _rate_dict(recent_rate(report))},
        "eta_s": int(eta.left.total_seconds()) if eta.left is not None else None,
        "eta": iso_or_none(report.now + eta.left if eta.left is not None else None),
        "eta_unknown": eta.reason or None,
    }


def _partition_dict(each: PartitionProgress) -> dict[str, Any]:
    return {
        "partition": each.partition,
        "state": each.state,
        "slices": each.slices,
        "open_slices": each.open_slices,
        "failed_slices": each.failed_slices,
        "running": each.running,
        "waiting": each.waiting,
        "rows": each.rows,
        "splits": each.splits,
        "overloads": each.overloads,
        "loading_s": each.loading_s,
        "loaded": each.loaded,
        "published": each.published,
        "publish_state": each.publish_state,
        "publish_failed": each.publish_failed,
        "publish_ms": each.publish_ms,
        "publish_error": each.publish_error,
        "clean_rows": each.clean_rows,
    }


def _window_time_dict(each: WindowTime) -> dict[str, Any]:
    return {
        **window_dict(each.window),
        "slice": each.slice_id,
        "state": each.state,
        "took_s": round(each.took_s, 3),
        "rows": each.rows,
        "attempts": each.attempts,
        "overloads": each.overloads,
        "depth": each.depth,
        "worker": each.worker,
        "timings_ms": dict(each.timings_ms),
    }


def _split_tree_dict(each: SplitTree) -> dict[str, Any]:
    return {
        **window_dict(each.window),
        "slice": each.slice_id,
        "descendants": each.descendants,
        "deepest": each.deepest,
        "done": each.done,
        "failed": each.failed,
        "open": each.open,
        "error_kind": each.error_kind,
        "last_error": each.last_error,
    }


def _rate_dict(rate: Rate | None) -> dict[str, float] | None:
    if rate is None:
        return None
    return {
        "span_s": round(rate.span_s, 3),
        "rows_per_s": round(rate.rows_per_s, 3),
        "slices_per_min": round(rate.slices_per_min, 3),
    }
