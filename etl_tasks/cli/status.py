"""``status``: the journal on one screen."""

from __future__ import annotations

import json
from typing import Any

import click

from etl_tasks.cli.assembly import open_wiring, read_settings
from etl_tasks.cli.status_screen import screen_parts
from etl_tasks.cli.texts import iso, iso_or_none, iso_second, wide_console
from etl_tasks.core.status import RunView, StatusReport, lag_of, slices_by_state, with_errors


@click.command("status", short_help="Show runs, slices, splits, watermark, lag and what is owed.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a screen.")
def status_command(as_json: bool) -> None:
    """Show what runs and what ran last, slices by state, splits and why, watermark and lag, and what is owed.

    Reads the journal in PostgreSQL and nothing else.
    """
    settings = read_settings()
    wiring = open_wiring(settings)
    report = wiring.status_journal.report(wiring.clean_table)
    shift_min = settings.phx_query_shift_minutes
    if as_json:
        click.echo(json.dumps(as_dict(report, wiring.clean_table, shift_min), ensure_ascii=False, indent=2))
        return
    console = wide_console()
    console.print(f"[bold]{wiring.clean_table}[/]  journal {settings.journal_table}  {iso_second(report.now)}")
    for part in screen_parts(report, shift_min):
        console.print()
        console.print(part)


def as_dict(report: StatusReport, clean_table: str, shift_min: int) -> dict[str, Any]:
    """The report for programs: times in UTC, durations in seconds."""
    return {
        "now": iso(report.now),
        "clean_table": clean_table,
        "processes": [
            {
                "process": process.process,
                "watermark": iso_or_none(process.watermark),
                "lag_s": (
                    int(lag_of(process.watermark, report.now, shift_min).total_seconds()) if process.watermark else None
                ),
                "runs": [_run_dict(run, report) for run in process.runs],
            }
            for process in report.processes
        ],
        "oldest_heartbeat": iso_or_none(report.oldest_heartbeat),
        "owed": [
            {
                "partition": owed.partition,
                "state": owed.state,
                "generations": owed.generations,
                "waiting_since": iso_or_none(owed.waiting_since),
                "not_before": iso_or_none(owed.not_before),
                "attempts": owed.attempts,
                "error_kind": owed.error_kind,
                "last_error": owed.last_error,
            }
            for owed in report.owed
        ],
        "incomplete_partitions": list(report.incomplete),
    }


def _run_dict(run: RunView, report: StatusReport) -> dict[str, Any]:
    groups = [group for group in report.slices if group.run_id == run.run_id]
    detail: dict[str, Any] = {}
    if groups:
        detail = {
            "slices": slices_by_state(groups, run.run_id),
            "rows": sum(group.rows for group in groups),
            "overloads": sum(group.overloads for group in groups),
            "splits": [
                {"error_kind": group.error_kind, "slices": group.slices} for group in groups if group.state == "split"
            ],
            "rejected_rows": report.rejected.get(run.run_id, 0),
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
        "reason": run.reason,
        **detail,
    }
