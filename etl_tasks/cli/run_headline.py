"""What ``status RUN`` says first: where the run stands, what it could not do, and the command to type next."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from etl_tasks.cli.following import WORKER_COMMAND
from etl_tasks.cli.headline import CLI, Clause, Expectations, Headline, Level
from etl_tasks.cli.texts import count_of, duration, first_line, iso_second, number, rough
from etl_tasks.core.run_report import RunReport, eta_of, overall_rate, recent_rate
from etl_tasks.core.states import RunStatus, SliceState


def run_headline(report: RunReport, expected: Expectations) -> Headline:
    """What the run's state amounts to."""
    run = report.run
    if run.is_publish:
        return Headline([_publish(report)])
    if run.active:
        activity = _activity(report, expected)
        return Headline([activity, *(_pace(report) if activity.level is Level.OK else ()), *_failures(report)])
    if run.status == RunStatus.SKIPPED:
        return Headline([Clause(Level.ATTENTION, f"skipped: {first_line(run.reason) or 'no reason was written'}")])
    return Headline([_end(report), *_failures(report), *_owed(report)])


def eta_words(report: RunReport) -> str:
    """``about 12 min left, until 19:40 UTC``, or ``how long is unknown: …``."""
    eta = eta_of(report)
    if eta.left is None:
        return f"time left unknown: {eta.reason}"
    return f"about {rough(eta.left)} left, until {_clock(report.now + eta.left, report.now)}"


def _clock(moment: datetime, now: datetime) -> str:
    return f"{moment:%H:%M} UTC" if moment.date() == now.date() else f"{moment:%Y-%m-%d %H:%M} UTC"


def _publish(report: RunReport) -> Clause:
    run = report.run
    partition = run.details.get("partition", "?")
    took = duration((run.ended_at or report.now) - run.started_at)
    level = Level.FAILED if run.status == RunStatus.ERROR else Level.OK
    why = f": {first_line(run.reason)}" if run.reason and level is Level.FAILED else ""
    return Clause(level, f"publish of partition {partition}, {run.status}, {took}{why}", f"{CLI} status" if why else "")


def _activity(report: RunReport, expected: Expectations) -> Clause:
    run, work, progress = report.run, report.work, report.progress
    done = f"{number(progress.done)} of {count_of(progress.total, 'slice')}"
    sign = max(moment for moment in (run.heartbeat_at, run.progress_at, run.started_at) if moment is not None)
    quiet = report.now - sign
    if not progress.at_work and quiet.total_seconds() > expected.quiet_s:
        text = f"STOPPED at {done}: no sign of a worker for {rough(quiet)}"
        return Clause(Level.STOPPED, text, WORKER_COMMAND)
    moved = report.now - (run.progress_at or run.started_at)
    due = work.due + work.lost
    if due and not progress.at_work and moved.total_seconds() > expected.stuck_s:
        text = f"STUCK at {done}: a worker lives, but nothing has moved for {rough(moved)}"
        return Clause(Level.STOPPED, text, f"{CLI} doctor")
    if work.waiting and not due and not progress.at_work:
        first = f", the first at {iso_second(work.next_try_at)}" if work.next_try_at else ""
        text = f"WAITING at {done}: {count_of(work.waiting, 'slice')} will be tried again{first}"
        return Clause(Level.ATTENTION, text)
    if run.status == RunStatus.PLANNED:
        return Clause(Level.OK, f"planned, no worker has begun yet: {done}")
    return Clause(Level.OK, f"running: {done}" if progress.done < progress.total else f"publishing: all {done} loaded")


def _pace(report: RunReport) -> Iterator[Clause]:
    rate = recent_rate(report) or overall_rate(report)
    if rate is not None and rate.slices_per_min:
        yield Clause(Level.OK, f"{number(round(rate.rows_per_s))} rows/s")
    yield Clause(Level.OK, eta_words(report))


def _end(report: RunReport) -> Clause:
    run = report.run
    rows = sum(group.rows for group in report.groups)
    took = duration(run.ended_at - run.started_at) if run.ended_at else "-"
    said = f"{count_of(rows, 'row')}, {count_of(report.progress.total, 'slice')}, {took}"
    if run.status == RunStatus.OK:
        reason = f" ({first_line(run.reason)})" if run.reason else ""
        return Clause(Level.OK, f"ok: {said}{reason}")
    mended = report.failed_slices and not report.unloaded
    why = f": {first_line(run.reason, 160)}" if run.reason else ""
    return Clause(Level.ATTENTION if mended or run.cancelled else Level.FAILED, f"ended in error{why} ({said})")


def _failures(report: RunReport) -> Iterator[Clause]:
    if report.rejected_rows:
        yield Clause(Level.ATTENTION, f"{count_of(report.rejected_rows, 'row')} REJECTED")
    failed = report.failed_slices
    if not failed:
        return
    groups = [group for group in report.groups if group.state == SliceState.ERROR and group.error_kind]
    kinds = ", ".join(dict.fromkeys(group.error_kind for group in groups if group.error_kind))
    why = f" ({kinds})" if kinds else ""
    if not report.unloaded:
        yield Clause(Level.ATTENTION, f"{count_of(failed, 'slice')} in error{why}, all loaded by another run since")
        return
    verb = "is" if report.unloaded == 1 else "are"
    text = f"{count_of(report.unloaded, 'window')} {verb} NOT LOADED{why}"
    yield Clause(Level.FAILED, text, "" if report.run.active else f"{CLI} resume {report.run.run_id}")


def _owed(report: RunReport) -> Iterator[Clause]:
    owed = report.unpublished
    if not owed:
        return
    gave_up = [each for each in report.progress.partitions if each.partition in owed and each.publish_failed]
    command = f"{CLI} publish --partition {gave_up[0].partition}" if gave_up else ""
    words = "NOT PUBLISHED" if gave_up else "loaded, the publish is owed"
    text = f"{count_of(len(owed), 'partition')} {words}"
    yield Clause(Level.FAILED if gave_up else Level.ATTENTION, text, command)
