"""The screen of ``status``: a few tables, and a foot that says what somebody should do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from etl_tasks.cli.texts import count_of, duration, first_line, iso, number, short_time
from etl_tasks.core.states import MANUAL_PREFIX, RunStatus
from etl_tasks.core.status import ProcessView, RunView, StatusReport, lag_of, slices_by_state, with_errors

_STYLES = {"ok": "green", "error": "bold red", "running": "cyan", "planned": "cyan", "skipped": "yellow"}
_MOST_OWED = 12
_MOST_ERRORS = 8
_SLICE_COLUMNS = ("slices", "planned", "running", "done", "split", "error", "overloads", "depth", "rows", "rejected")
_NUMERIC = frozenset({"run", "loads", *_SLICE_COLUMNS})
_NEVER_FOLDED = frozenset({"process", "status", "state", "owed", "publish", "took", "heartbeat"})


def screen_parts(report: StatusReport, shift_min: int) -> Iterator[RenderableType]:
    """What to print, one below the other."""
    if not report.processes:
        yield Text("no run yet; the first one: python -m etl_tasks run --since … --until …")
        return
    yield _runs(report)
    yield Text("\n").join(_watermark(process, report.now, shift_min) for process in report.processes if _lane(process))
    if report.slices:
        yield _slices(report)
    if with_errors(report.slices):
        yield _errors(report)
    yield _owed(report) if report.owed else Text("nothing is owed: everything loaded is published")
    foot = [*_foot(report)]
    if foot:
        yield Text("\n").join(foot)


def _table(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        narrow = title in _NUMERIC or title in _NEVER_FOLDED
        table.add_column(title, justify="right" if title in _NUMERIC else "left", overflow="fold", no_wrap=narrow)
    return table


def _lane(process: ProcessView) -> bool:
    """Whether the process has a watermark worth telling: a lane of runs by hand stands where it was last sent."""
    return not process.process.startswith(MANUAL_PREFIX) and any(not run.is_publish for run in process.runs)


def _runs(report: StatusReport) -> Table:
    table = _table("process", "run", "status", "since (UTC)", "until", "took", "heartbeat", "why")
    for process in report.processes:
        for index, run in enumerate(process.runs):
            table.add_row(
                Text(process.process if index == 0 else "", style="bold"),
                str(run.run_id),
                Text(run.status, style=_STYLES.get(run.status, "")),
                short_time(run.since),
                short_time(run.covered_until or run.until),
                duration((run.ended_at or report.now) - run.started_at),
                f"{duration(report.now - run.heartbeat_at)} ago" if run.active and run.heartbeat_at else "",
                Text(_why(run)),
            )
    return table


def _why(run: RunView) -> str:
    return first_line(run.reason, 120) if run.status != RunStatus.OK else ""


def _watermark(process: ProcessView, now: datetime, shift_min: int) -> Text:
    if process.watermark is None:
        return Text(f"{process.process}: no watermark yet, its first ok run sets it")
    lag = duration(lag_of(process.watermark, now, shift_min))
    return Text(f"{process.process}: watermark {iso(process.watermark)}, lag {lag}")


def _slices(report: StatusReport) -> Table:
    table = _table(
        "run", "slices", "planned", "running", "done", "split", "error", "overloads", "depth", "rows", "rejected"
    )
    for run_id in sorted({group.run_id for group in report.slices}, reverse=True):
        groups = [group for group in report.slices if group.run_id == run_id]
        counts = slices_by_state(groups, run_id)
        rejected = report.rejected.get(run_id, 0)
        table.add_row(
            str(run_id),
            number(sum(counts.values())),
            *(number(counts[state]) for state in ("planned", "running", "done", "split")),
            Text(number(counts["error"]), style=_STYLES["error"] if counts["error"] else ""),
            number(sum(group.overloads for group in groups)),
            str(max(group.deepest for group in groups)),
            number(sum(group.rows for group in groups)),
            Text(count_of(rejected, "row") if rejected else "", style=_STYLES["error"]),
        )
    return table


def _errors(report: StatusReport) -> Table:
    table = _table("run", "state", "slices", "why", "newest window", "its last words")
    found = with_errors(report.slices)
    for group in found[:_MOST_ERRORS]:
        table.add_row(
            str(group.run_id),
            Text(group.state, style=_STYLES.get(group.state, "")),
            number(group.slices),
            group.error_kind or "",
            str(group.window or ""),
            Text(first_line(group.last_error, 200)),
        )
    if len(found) > _MOST_ERRORS:
        table.add_row("", "", "", f"and {len(found) - _MOST_ERRORS} more: --json", "", "")
    return table


def _owed(report: StatusReport) -> Table:
    table = _table("owed", "publish", "loads", "since (UTC)", "not before", "its last words")
    for owed in report.owed[:_MOST_OWED]:
        words = f"{owed.error_kind}: {first_line(owed.last_error, 160)}" if owed.last_error else ""
        table.add_row(
            str(owed.partition),
            Text(owed.state, style=_STYLES.get(owed.state, "")),
            number(owed.generations),
            short_time(owed.waiting_since),
            short_time(owed.not_before) if owed.not_before else "",
            Text(words),
        )
    if len(report.owed) > _MOST_OWED:
        table.add_row(f"and {len(report.owed) - _MOST_OWED} more", "", "", "", "", "")
    return table


def _foot(report: StatusReport) -> Iterator[Text]:
    if report.incomplete:
        yield Text(f"published with a hole: partitions {_listed(report.incomplete)}", style=_STYLES["error"])
    if report.oldest_heartbeat is not None:
        active = count_of(len(report.active), "active run or publish", "active runs and publishes")
        yield Text(f"{active}, the oldest heartbeat {duration(report.now - report.oldest_heartbeat)} ago")


def _listed(partitions: Sequence[int], most: int = 10) -> str:
    shown = ", ".join(str(partition) for partition in partitions[:most])
    return shown if len(partitions) <= most else f"{shown} and {len(partitions) - most} more"
