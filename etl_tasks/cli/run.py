"""``run``: plan a run, and follow it until it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from etl_tasks.cli.assembly import interval_options, open_wiring, read_interval, read_settings
from etl_tasks.cli.following import Follower
from etl_tasks.cli.screens import open_screen
from etl_tasks.cli.texts import count_of, duration, first_line, iso
from etl_tasks.core.states import RunStatus, process_for
from etl_tasks.core.status import RunProgress
from etl_tasks.errors import UsageError
from etl_tasks.pipeline.plan import PlanRequest, plan_interval

if TYPE_CHECKING:
    from etl_tasks.cli.following import RunReader
    from etl_tasks.config import Settings
    from etl_tasks.core.records import PlannedRun

MOST_REASONS = 10
FAILED = 1
INTERRUPTED = 130


@click.command("run", short_help="Plan a run, follow it, and exit 0 only when it ends ok.")
@interval_options(required=False)
@click.option("--manual", is_flag=True, help="In the lane of runs by hand, beside the schedule's.")
def run_command(since: str | None, until: str | None, manual: bool) -> None:
    """Plan a run over [SINCE, UNTIL), or without them over the schedule's next interval, and follow it.

    The work is the workers': the run goes on when this command is interrupted. Exit code 0 when the run ended ok, 1
    when it was skipped or ended in error, 130 when it was left to the workers.
    """
    settings = read_settings()
    request = _request(since, until, manual, settings)
    wiring = open_wiring(settings)
    planned = plan_interval(request, wiring.plan_context())
    process = process_for(settings.process_name, manual)
    follow_to_end(planned, process, wiring.status_journal)


def follow_to_end(planned: PlannedRun, process: str, reader: RunReader) -> None:
    """Follow a run that was just planned, and say what came of it; returns when it ended ok, else exits 1 or 130."""
    if planned.status in (RunStatus.SKIPPED, RunStatus.ERROR):
        click.echo(f"run {planned.run_id} of {process} {planned.status}: {planned.reason}", err=True)
        raise click.exceptions.Exit(FAILED)
    click.echo(f"run {planned.run_id} of {process}")
    try:
        with open_screen(planned.run_id) as screen:
            follower = Follower(reader, screen)
            progress = follower.follow(planned.run_id)
    except KeyboardInterrupt:
        click.echo(
            f"run {planned.run_id} is left to the workers and goes on; follow it with: "
            f"python -m etl_tasks status {planned.run_id} --watch",
            err=True,
        )
        raise click.exceptions.Exit(INTERRUPTED) from None
    click.echo(_closing_line(progress, follower))
    if progress.run.status != RunStatus.OK:
        for reason in why_not_ok(progress, reader):
            click.echo(f"  {reason}", err=True)
        raise click.exceptions.Exit(FAILED)


def _request(since: str | None, until: str | None, manual: bool, settings: Settings) -> PlanRequest:
    if since is not None and until is not None:
        interval = read_interval(since, until, settings)
        return PlanRequest(interval.since, interval.until, manual, notices=tuple(interval.notices))
    if since is not None or until is not None:
        raise UsageError("--since and --until go together: give both, or neither for the schedule's next interval")
    if manual:
        raise UsageError("--manual needs --since and --until: a run by hand has no watermark to begin at")
    return PlanRequest()


def _closing_line(progress: RunProgress, follower: Follower) -> str:
    run, totals = progress.run, follower.totals
    took = duration(run.ended_at - run.started_at) if run.ended_at else "-"
    covered = f"[{iso(run.since)}, {iso(run.covered_until)}) " if run.since and run.covered_until else ""
    return (
        f"run {run.run_id} {run.status}: {covered}{count_of(totals.rows, 'row')}, {count_of(progress.total, 'slice')}, "
        f"{count_of(totals.splits, 'split')}, {totals.published} of {count_of(len(progress.partitions), 'partition')} "
        f"published, {took}" + (f" ({first_line(run.reason)})" if run.status == RunStatus.OK and run.reason else "")
    )


def why_not_ok(progress: RunProgress, reader: RunReader) -> list[str]:
    """The reasons of a run that did not end ok, a line each: the run's own, its windows, its publishes."""
    reasons = [first_line(progress.run.reason)] if progress.run.reason else []
    failed = reader.failed_slices(progress.run.run_id, MOST_REASONS)
    reasons += [f"{each.window} {each.error_kind}: {first_line(each.last_error)}" for each in failed]
    more = sum(partition.failed_slices for partition in progress.partitions) - len(failed)
    if failed and more > 0:
        reasons.append(f"and {count_of(more, 'window')} more: see python -m etl_tasks status")
    reasons += [
        f"partition {partition.partition} is not published: {first_line(partition.publish_error)}"
        for partition in progress.partitions
        if partition.publish_failed
    ]
    return reasons or ["the journal gives no reason: see the workers' logs"]
