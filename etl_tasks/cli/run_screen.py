"""The screen of ``status RUN``: a headline, the run's facts, and tables of what is in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from etl_tasks.cli.headline import Headline
from etl_tasks.cli.run_headline import eta_words
from etl_tasks.cli.status_screen import errors_table, headline_lines, rejects_table, slices_table
from etl_tasks.cli.tables import STYLES, plain_table
from etl_tasks.cli.texts import count_of, duration, first_line, iso_second, number, rough, short_interval, short_time
from etl_tasks.core.run_report import Rate, RunReport, overall_rate, recent_rate
from etl_tasks.core.status import PartitionProgress, with_errors

_MOST_PARTITIONS = 31
_MOST_WINDOWS = 5


def run_parts(report: RunReport, said: Headline) -> Iterator[RenderableType]:
    """What to print, one below the other."""
    yield headline_lines(said)
    yield Text("\n").join(_facts(report))
    if report.run.is_publish:
        yield _stages(report)
        return
    if report.progress.partitions:
        yield _partitions(report)
    if report.groups:
        yield slices_table(report.groups, {report.run.run_id: report.rejected_rows})
    if with_errors(report.groups):
        yield errors_table(report.groups)
    if report.rejects:
        yield rejects_table(report.rejects)
    if report.slowest:
        yield _slowest(report)
    if report.most_split:
        yield _most_split(report)


def _facts(report: RunReport) -> Iterator[Text]:
    run, now = report.run, report.now
    interval = short_interval(run.since, run.covered_until or run.until)
    clipped = ""
    if run.until and run.covered_until and run.covered_until < run.until:
        clipped = f", asked until {short_time(run.until)}: the rest was too young (PHX_QUERY_LAG_MINUTES)"
    times = "UTC" if run.is_publish else "UTC, business time"
    yield Text(f"{run.process}: interval {interval} {times}{clipped}")
    if run.ended_at is not None:
        end = f"ended {iso_second(run.ended_at)}, took {duration(run.ended_at - run.started_at)}"
    else:
        heartbeat = f"heartbeat {rough(now - run.heartbeat_at)} ago" if run.heartbeat_at else "no heartbeat yet"
        progress = f", progress {rough(now - run.progress_at)} ago" if run.progress_at else ""
        end = f"for {duration(now - run.started_at)}, {heartbeat}{progress}"
    resumes = f", resumes run {run.details['resumes']}" if run.details.get("resumes") else ""
    yield Text(f"{run.status} since {iso_second(run.started_at)}, {end}{resumes}".replace(" since", ", started", 1))
    for notice in run.details.get("notices") or ():
        yield Text(f"notice: {notice}", style="yellow")
    overall, recent = overall_rate(report), recent_rate(report)
    if overall is not None:
        # Of a run younger than the recent minutes both are one.
        lately = f"; lately {_rate_words(recent)}" if recent is not None and recent.span_s < overall.span_s - 1 else ""
        yield Text(f"throughput: {_rate_words(overall)}{lately}")
    work = report.work
    if run.active and not run.is_publish:
        under_way = f"{count_of(work.running, 'slice')} under way on {count_of(work.workers, 'worker')}"
        rest = [
            f"{number(count)} {words}"
            for count, words in (
                (work.due, "due"),
                (work.lost, "lost by a worker and due again"),
                (work.waiting, "to be tried again later"),
                (work.held_back, "of later partitions (PARTITIONS_IN_FLIGHT)"),
            )
            if count
        ]
        yield Text("; ".join([f"work: {', '.join([under_way, *rest])}", eta_words(report)]))


def _rate_words(rate: Rate) -> str:
    return (
        f"{number(round(rate.rows_per_s))} rows/s, {rate.slices_per_min:,.1f} slices/min over {duration(rate.span_s)}"
    )


def _stages(report: RunReport) -> Table:
    """What a publish did, one after the other and side by side on the shards."""
    table = plain_table("stage", "took", whole=("stage", "took"))
    for stage in report.run.details.get("stages") or ():
        table.add_row(Text(str(stage.get("stage", "?"))), duration(float(stage.get("ms", 0)) / 1000))
    return table


def _partitions(report: RunReport) -> Table:
    titles = ["partition", "state", "slices", "open", "failed", "rows", "splits", "loading", "publish", "in CLEAN"]
    whole = [*titles]
    said = any(_publish_error(each) for each in report.progress.partitions)
    titles += ["the publish's last words"] if said else []
    numeric = ("slices", "open", "failed", "rows", "splits", "in CLEAN")
    table = plain_table(*titles, numeric=numeric, whole=whole)
    shown = _worth_showing(report.progress.partitions)
    for each in shown:
        table.add_row(
            str(each.partition),
            Text(each.state, style="cyan" if each.state in ("loading", "publishing") else ""),
            number(each.slices),
            number(each.open_slices),
            Text(number(each.failed_slices), style=STYLES["error"] if each.failed_slices else ""),
            number(each.rows),
            number(each.splits),
            duration(each.loading_s),
            _publish_words(each),
            number(each.clean_rows) if each.published and each.clean_rows is not None else "",
            *([Text(_publish_error(each))] if said else []),
        )
    left_out = len(report.progress.partitions) - len(shown)
    if left_out:
        table.add_row(f"and {number(left_out)} more: --json")
    return table


def _worth_showing(partitions: Sequence[PartitionProgress]) -> list[PartitionProgress]:
    """No more than fit on a screen: what failed first, then what is under way, what is done, what waits."""
    order = {"loading": 1, "publishing": 1, "done": 2, "waiting": 3}
    ranked = sorted(
        partitions,
        key=lambda each: (0 if each.failed_slices or each.publish_failed else order.get(each.state, 1), each.partition),
    )
    return sorted(ranked[:_MOST_PARTITIONS], key=lambda each: each.partition)


def _publish_error(each: PartitionProgress) -> str:
    return first_line(each.publish_error, 120) if each.publish_error and not each.published else ""


def _publish_words(each: PartitionProgress) -> Text:
    if each.publish_failed:
        return Text("gave up", style=STYLES["error"])
    if each.published:
        took = f" in {duration(each.publish_ms / 1000)}" if each.publish_ms is not None else ""
        return Text(f"done{took}, a hole" if each.failed_slices else f"done{took}")
    if not each.loaded:
        return Text("nothing loaded" if each.state == "done" else "")
    later = ", later" if each.publish_waits else ""
    owed = "owed" if each.publish_state == "idle" else f"owed, {each.publish_state}"
    return Text(f"{owed}{later}", style=STYLES["attention"] if each.state == "done" else "")


def _slowest(report: RunReport) -> Table:
    numeric = ("took", "rows", "attempts", "overloads")
    titles = ("slowest windows (UTC)", "state", "took", "rows", "attempts", "overloads", "mostly", "worker")
    table = plain_table(*titles, numeric=numeric, whole=titles[:-1])
    for each in report.slowest[:_MOST_WINDOWS]:
        stage = each.longest_stage
        table.add_row(
            short_interval(each.window.start, each.window.end),
            Text(each.state, style=STYLES.get(each.state, "")),
            duration(each.took_s),
            number(each.rows),
            number(each.attempts),
            number(each.overloads),
            f"{stage[0]} {duration(stage[1] / 1000)}" if stage else "",
            Text(each.worker or ""),
        )
    return table


def _most_split(report: RunReport) -> Table:
    numeric = ("parts", "depth", "done", "failed", "open")
    titles = ("most split windows (UTC)", "parts", "depth", "done", "failed", "open", "why", "the first refusal")
    table = plain_table(*titles, numeric=numeric, whole=titles[:-1])
    for each in report.most_split[:_MOST_WINDOWS]:
        table.add_row(
            short_interval(each.window.start, each.window.end),
            number(each.descendants),
            str(each.deepest),
            number(each.done),
            Text(number(each.failed), style=STYLES["error"] if each.failed else ""),
            number(each.open),
            each.error_kind,
            Text(first_line(each.last_error, 120)),
        )
    return table
