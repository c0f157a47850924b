"""The screen of ``status``: a headline with what to type next, then a few tables that say why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from etl_tasks.cli.headline import CLI, Expectations, Headline, schedule_lanes, why_owed
from etl_tasks.cli.tables import STYLES, plain_table
from etl_tasks.cli.texts import count_of, duration, first_line, iso_second, number, rough, short_interval, short_time
from etl_tasks.core.read_limit import SourceReads
from etl_tasks.core.states import RunStatus, SliceState
from etl_tasks.core.status import (
    NEWEST_REJECTS,
    ProcessView,
    ReconcileView,
    RejectGroup,
    SliceGroup,
    StatusReport,
    lag_of,
    slices_by_state,
    with_errors,
)

_MOST_OWED = 12
_MOST_ERRORS = 8
_MOST_REJECTS = 8
_SLICE_COLUMNS = ("slices", "planned", "running", "done", "split", "error", "overloads", "depth", "rows", "rejected")


def screen_parts(report: StatusReport, said: Headline, expected: Expectations) -> Iterator[RenderableType]:
    """What to print, one below the other."""
    yield headline_lines(said)
    if not report.processes:
        return
    yield Text("\n").join(_facts(report, expected))
    yield _runs(report)
    if report.slices:
        yield slices_table(report.slices, report.rejected)
    if report.unloaded:
        yield _unloaded(report)
    # What is in error is told by what is not loaded: the rest of it has been loaded since.
    others = [group for group in report.slices if group.state != SliceState.ERROR]
    if with_errors(others):
        yield errors_table(others)
    if report.rejects:
        yield rejects_table(report.rejects)
    yield _owed(report) if report.owed else Text("nothing is owed: everything loaded is published")


def headline_lines(said: Headline) -> Text:
    """The headline, and below it what to type next, if anything."""
    text = Text(said.text, style=f"bold {STYLES.get(said.level, '')}".strip())
    return Text.assemble(text, "\n  next: ", (said.command, "bold")) if said.command else text


def _facts(report: StatusReport, expected: Expectations) -> Iterator[Text]:
    for process in schedule_lanes(report, expected):
        yield _watermark(process, report.now, expected)
    yield Text(_activity(report))
    yield from (Text(_reads_words(each)) for each in report.reads)
    yield from _reconciled(report, expected)
    if report.incomplete:
        yield Text(f"published with a hole: partitions {_listed(report.incomplete)}", style=STYLES["error"])


def _watermark(process: ProcessView, now: datetime, expected: Expectations) -> Text:
    if process.watermark is None:
        return Text(f"{process.process}: no watermark yet, its first ok run sets it")
    lag = lag_of(process.watermark, now, expected.shift_min)
    text = f"{process.process}: watermark {iso_second(process.watermark)}, lag {duration(lag)}"
    if lag.total_seconds() <= expected.behind_after_s:
        return Text(text)
    normal = rough(timedelta(seconds=expected.behind_after_s))
    return Text(f"{text} (up to {normal} is normal)", style=STYLES["attention"])


def _activity(report: StatusReport) -> str:
    work, now = report.work, report.now
    said = []
    if work.running:
        since = f", the longest for {duration(now - work.oldest_start)}" if work.oldest_start else ""
        said.append(f"{count_of(work.running, 'slice')} under way on {count_of(work.workers, 'worker')}{since}")
    for count, words in ((work.due, "due"), (work.lost, "lost by a worker, due again"), (work.held_back, "held back")):
        if count:
            said.append(f"{number(count)} {words}")
    if work.waiting:
        first = f", the first at {iso_second(work.next_try_at)}" if work.next_try_at else ""
        said.append(f"{number(work.waiting)} to be tried again{first}")
    if report.last_progress is not None:
        said.append(f"last progress {rough(now - report.last_progress)} ago")
    if report.active and report.last_sign is not None and report.oldest_heartbeat is not None:
        active = count_of(len(report.active), "active run or publish", "active runs and publishes")
        said.append(f"{active}, the oldest heartbeat {rough(now - report.oldest_heartbeat)} ago")
    return "work: " + (", ".join(said) or "none yet")


def _reads_words(reads: SourceReads) -> str:
    """How many slices read the source at once, and may; and that others wait, where they do."""
    text = f"source {reads.source}: {number(reads.in_use)} of {count_of(reads.limit, 'read')} at once"
    if reads.waiting:
        text += f", {count_of(reads.waiting, 'slice')} waiting for a turn"
    if reads.halvings:
        text += f"; the limit was halved {count_of(reads.halvings, 'time')} by overloads"
    return text


def _reconciled(report: StatusReport, expected: Expectations) -> Iterator[Text]:
    """The newest reconcile, and where that has compared nothing, also the newest that has."""
    if not report.reconciles:
        yield Text(f"never reconciled with the source: {CLI} reconcile --since … --until …")
        return
    newest = report.reconciles[0]
    compared = next((each for each in report.reconciles if each.compared), None)
    for view in [newest] if newest is compared or compared is None else [newest, compared]:
        state = "error" if view.died else view.status
        style = STYLES.get("different" if report.differing and view.compared else state, "")
        yield Text(_reconcile_words(view, report.now, expected), style=style)


def _reconcile_words(view: ReconcileView, now: datetime, expected: Expectations) -> str:
    shift = timedelta(minutes=expected.shift_min)
    how = "every row" if view.by_hash else "by count"
    what = f"[{iso_second(view.since - shift)}, {iso_second(view.until - shift)}) {how}"
    if view.died:
        begun = rough(now - view.started_at)
        return (
            f"reconcile begun {begun} ago DIED after {count_of(view.windows, 'window')}, the next one ends it: {what}"
        )
    if view.status == "error":
        ended = rough(now - (view.ended_at or view.started_at))
        why = first_line(view.error, 160) or "no reason was written"
        return f"reconcile FAILED {ended} ago after {count_of(view.windows, 'window')}, {what}: {why}"
    if view.status == "running":
        return f"reconcile under way since {rough(now - view.started_at)}: {what}"
    found = [f"{count_of(view.windows, 'window')}"]
    if view.source_rows is not None and view.clean_rows is not None:
        found.append(f"source {number(view.source_rows)} rows, CLEAN {number(view.clean_rows)}")
    if view.differing:
        found.append(f"{count_of(len(view.differing), 'window')} {'differs' if len(view.differing) == 1 else 'differ'}")
    for count, words in ((view.missing, "missing"), (view.extra, "extra"), (view.changed, "changed")):
        if count:
            found.append(f"{number(count)} {words}")
    return (
        f"reconciled {rough(now - (view.ended_at or view.started_at))} ago: {view.status}, {what}, {', '.join(found)}"
    )


def _runs(report: StatusReport) -> Table:
    titles = ("process", "run", "status", "interval (UTC)", "took", "heartbeat", "why")
    table = plain_table(*titles, numeric=("run",), whole=("status", "took", "heartbeat"))
    for process in report.processes:
        for index, run in enumerate(process.runs):
            table.add_row(
                Text(process.process if index == 0 else "", style="bold"),
                str(run.run_id),
                Text(run.status, style=STYLES.get(run.status, "")),
                short_interval(run.since, run.covered_until or run.until),
                duration((run.ended_at or report.now) - run.started_at),
                f"{rough(report.now - run.heartbeat_at)} ago" if run.active and run.heartbeat_at else "",
                Text(first_line(run.reason, 120) if run.status != RunStatus.OK else ""),
            )
    return table


def slices_table(slices: Sequence[SliceGroup], rejected_rows: Mapping[int, int]) -> Table:
    """Slices by state, a row a run; ``rejected_rows`` is by run."""
    table = plain_table("run", *_SLICE_COLUMNS, numeric=("run", *_SLICE_COLUMNS))
    for run_id in sorted({group.run_id for group in slices}, reverse=True):
        groups = [group for group in slices if group.run_id == run_id]
        counts = slices_by_state(groups, run_id)
        rejected = rejected_rows.get(run_id, 0)
        table.add_row(
            str(run_id),
            number(sum(counts.values())),
            *(number(counts[state]) for state in ("planned", "running", "done", "split")),
            Text(number(counts["error"]), style=STYLES["error"] if counts["error"] else ""),
            number(sum(group.overloads for group in groups)),
            str(max(group.deepest for group in groups)),
            number(sum(group.rows for group in groups)),
            Text(count_of(rejected, "row") if rejected else "", style=STYLES["error"]),
        )
    return table


def _unloaded(report: StatusReport) -> Table:
    titles = ("not loaded", "run", "why", "windows between (UTC)", "the last words on one of them")
    table = plain_table(*titles, numeric=("not loaded", "run"), whole=("why", "windows between (UTC)"))
    for each in report.unloaded[:_MOST_ERRORS]:
        table.add_row(
            number(each.windows),
            str(each.run_id),
            Text(each.error_kind, style=STYLES["error"]),
            short_interval(each.since, each.until),
            Text(first_line(each.last_error, 200)),
        )
    _and_more(table, len(report.unloaded) - _MOST_ERRORS)
    return table


def errors_table(slices: Sequence[SliceGroup]) -> Table:
    """Why slices failed, wait or were split: by state and kind of error, with an example."""
    table = plain_table(
        "run",
        "state",
        "slices",
        "why",
        "newest window (UTC)",
        "its last words",
        numeric=("run", "slices"),
        whole=("state", "why", "newest window (UTC)"),
    )
    found = with_errors(slices)
    for group in found[:_MOST_ERRORS]:
        table.add_row(
            str(group.run_id),
            Text(group.state, style=STYLES.get(group.state, "")),
            number(group.slices),
            group.error_kind or "",
            short_interval(group.window.start, group.window.end) if group.window else "",
            Text(first_line(group.last_error, 200)),
        )
    _and_more(table, len(found) - _MOST_ERRORS)
    return table


def rejects_table(rejects: Sequence[RejectGroup]) -> Table:
    """Rows that were not moved, by column and reason, with an example."""
    table = plain_table(
        "rejected", "column", "reason", "last by run", "for example", numeric=("rejected", "last by run")
    )
    for each in rejects[:_MOST_REJECTS]:
        table.add_row(
            number(each.rows),
            Text(each.column),
            Text(first_line(each.reason, 80)),
            str(each.run_id),
            Text(f"{first_line(each.value, 60)} in row {first_line(each.row_key, 100)}"),
        )
    _and_more(table, len(rejects) - _MOST_REJECTS)
    if sum(each.rows for each in rejects) >= NEWEST_REJECTS:
        table.add_row("", "", f"counted over the newest {number(NEWEST_REJECTS)} only")
    return table


def _owed(report: StatusReport) -> Table:
    titles = ("owed", "publish", "loads", "since (UTC)", "why", "its last words")
    table = plain_table(*titles, numeric=("loads",), whole=titles[:4])
    for owed in report.owed[:_MOST_OWED]:
        table.add_row(
            str(owed.partition),
            Text(owed.state, style=STYLES.get(owed.state, "")),
            number(owed.generations),
            short_time(owed.waiting_since),
            Text(why_owed(owed, report.now)),
            Text(f"{owed.error_kind}: {first_line(owed.last_error, 160)}" if owed.last_error else ""),
        )
    _and_more(table, len(report.owed) - _MOST_OWED)
    return table


def _and_more(table: Table, more: int) -> None:
    if more > 0:
        table.add_row(*([""] * (len(table.columns) - 1)), f"and {number(more)} more: --json")


def _listed(partitions: Sequence[int], most: int = 10) -> str:
    shown = ", ".join(str(partition) for partition in partitions[:most])
    return shown if len(partitions) <= most else f"{shown} and {len(partitions) - most} more"
