"""How gaps are shown, to people and to programs, in business time: what the commands that fill them take."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from etl_tasks.cli.texts import count_of, duration, first_line, iso, number, short_time, wide_console
from etl_tasks.core.gaps import FailedRun, Gaps, PartitionCoverage, business_span, by_partition
from etl_tasks.core.spans import Span, seconds_of
from etl_tasks.core.states import PublishState
from etl_tasks.core.windows import from_seconds, partition_of

MOST_ROWS = 20
COMMAND = "python -m etl_tasks"


def print_gaps(
    gaps: Gaps, clean_table: str, shift_min: int, watermark: datetime | None, notices: Sequence[str] = ()
) -> None:
    """A table of each kind of gap, and the verdict in the last line."""
    console = wide_console()
    since, until = _times(gaps.span, shift_min)
    console.print(f"[bold]{clean_table}[/]  gaps from {iso(since)} to {iso(until)} (business time, in UTC)")
    for notice in notices:
        console.print(Text.assemble(("notice:", "yellow"), f" {notice}"), soft_wrap=True)
    if gaps.missing:
        _print_missing(console, gaps, shift_min, watermark)
    if gaps.unpublished:
        console.print(f"\n[bold]loaded and not published[/]: {_not_published(gaps, gaps.unpublished)}")
        console.print(_partitions(gaps.unpublished))
    if gaps.loading:
        runs = ", ".join(map(str, gaps.loading_runs))
        console.print(f"\nbeing loaded: {_amount(gaps.loading)}, by run {runs}")
    if gaps.publishing:
        console.print(f"\nbeing published: {_not_published(gaps, gaps.publishing)}")
        console.print(_partitions(gaps.publishing))
    console.print()
    console.print(f"[bold {'red' if gaps.any else 'green'}]{verdict(gaps)}[/]")


def verdict(gaps: Gaps) -> str:
    """The whole answer in one line."""
    found = []
    if gaps.missing:
        found.append(f"{count_of(len(gaps.missing), 'interval')} never loaded ({duration(seconds_of(gaps.missing))})")
    if gaps.unpublished:
        found.append(f"{_not_published(gaps, gaps.unpublished)} loaded and not published")
    return f"gaps: {', '.join(found) or 'none'}"


def fill_command(gap: Span, run: FailedRun | None, shift_min: int) -> str:
    """The command that loads the gap: the run that left it, resumed, or a run by hand over it."""
    if run is not None:
        return f"{COMMAND} resume {run.run_id}"
    since, until = _times(gap, shift_min)
    return f"{COMMAND} run --manual --since {iso(since)} --until {iso(until)}"


def publish_command(partition: int) -> str:
    """The command that publishes the partition now."""
    return f"{COMMAND} publish --partition {partition}"


def as_dict(gaps: Gaps, clean_table: str, shift_min: int, notices: Sequence[str] = ()) -> dict[str, Any]:
    """All of it for programs: times in UTC (business time), durations in seconds; partitions are the source's days."""
    since, until = _times(gaps.span, shift_min)
    return {
        "clean_table": clean_table,
        "since": iso(since),
        "until": iso(until),
        "gaps": gaps.any,
        "not_loaded": [_missing_dict(gap, gaps.runs.get(gap), shift_min) for gap in gaps.missing],
        "not_loaded_s": seconds_of(gaps.missing),
        "not_published": [
            _interval(span, shift_min) for span in gaps.not_published([*gaps.unpublished, *gaps.publishing])
        ],
        "not_published_s": seconds_of(gaps.not_published([*gaps.unpublished, *gaps.publishing])),
        "loading": [_interval(span, shift_min) for span in gaps.loading],
        "loading_runs": list(gaps.loading_runs),
        "partitions": _partition_dicts(gaps, shift_min),
        "notices": list(notices),
    }


def _missing_dict(gap: Span, run: FailedRun | None, shift_min: int) -> dict[str, Any]:
    return {
        **_interval(gap, shift_min),
        "run": run.run_id if run else None,
        "command": fill_command(gap, run, shift_min),
    }


def _partition_dicts(gaps: Gaps, shift_min: int) -> list[dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}

    def entry(partition: int) -> dict[str, Any]:
        return found.setdefault(partition, {"partition": partition})

    for name, spans in (("not_loaded", gaps.missing), ("loading", gaps.loading)):
        for partition, members in by_partition(spans):
            entry(partition)[name] = [_interval(span, shift_min) for span in members]
            entry(partition)[f"{name}_s"] = seconds_of(members)
    for owed in (*gaps.unpublished, *gaps.publishing):
        entry(owed.partition).update(
            not_published=[_interval(span, shift_min) for span in owed.not_published],
            not_published_s=seconds_of(owed.not_published),
            publish=owed.publish_state,
            not_before=iso(owed.not_before) if owed.not_before else None,
            error=owed.error or None,
            command=publish_command(owed.partition) if owed in gaps.unpublished else None,
        )
    return [found[partition] for partition in sorted(found)]


def _print_missing(console: Console, gaps: Gaps, shift_min: int, watermark: datetime | None) -> None:
    console.print(f"\n[bold]never loaded[/]: {_amount(gaps.missing)}")
    table = _table("from (UTC)", "to", "length", "partitions", "fill it with")
    for gap in gaps.missing[:MOST_ROWS]:
        since, until = _times(gap, shift_min)
        run = gaps.runs.get(gap)
        command = fill_command(gap, run, shift_min) + (" (once that run has ended)" if run and run.active else "")
        table.add_row(short_time(since), short_time(until), duration(gap[1] - gap[0]), _days(gap), command)
    console.print(table)
    _print_rest(console, len(gaps.missing))
    if len(gaps.missing) > 1:
        whole = gaps.missing[0][0], gaps.missing[-1][1]
        console.print(
            f"all at once, with what is loaded in between: {fill_command(whole, None, shift_min)}", soft_wrap=True
        )
    per_day = [(partition, seconds_of(spans), len(spans)) for partition, spans in by_partition(gaps.missing)]
    if len(per_day) < len(gaps.missing):
        days = _table("partition", "not loaded", "intervals")
        for partition, seconds, intervals in per_day[:MOST_ROWS]:
            days.add_row(str(partition), duration(seconds), number(intervals))
        console.print(days)
        _print_rest(console, len(per_day))
    if watermark is not None and business_span(gaps.missing[-1], shift_min)[1] > watermark.timestamp():
        console.print(f"the schedule's next run reads what of it is after its watermark, {iso(watermark)}, by itself")


def _partitions(partitions: Sequence[PartitionCoverage]) -> Table:
    table = _table("partition", "length", "intervals", "publish", "fill it with", "why")
    for each in partitions[:MOST_ROWS]:
        by_hand = not each.in_hand
        since = f" from {iso(each.not_before.replace(microsecond=0))}" if each.not_before and not by_hand else ""
        table.add_row(
            str(each.partition),
            duration(seconds_of(each.not_published)),
            number(len(each.not_published)),
            f"{_publish(each)}{since}",
            publish_command(each.partition) if by_hand else "-",
            Text(first_line(each.error, 120) or "-"),
        )
    if len(partitions) > MOST_ROWS:
        table.add_row("…", "", "", f"{len(partitions) - MOST_ROWS} more", "--json lists them all", "")
    return table


def _publish(partition: PartitionCoverage) -> str:
    if partition.publish_state != PublishState.IDLE:
        return partition.publish_state
    return "comes by itself" if partition.awaited else "owed"


def _not_published(gaps: Gaps, partitions: Sequence[PartitionCoverage]) -> str:
    seconds = seconds_of(gaps.not_published(partitions))
    return f"{count_of(len(partitions), 'partition')} ({duration(seconds)})"


def _amount(spans: Sequence[Span]) -> str:
    return f"{count_of(len(spans), 'interval')}, {duration(seconds_of(spans))}"


def _print_rest(console: Console, rows: int) -> None:
    if rows > MOST_ROWS:
        console.print(f"and {rows - MOST_ROWS:,} more: --json lists them all")


def _days(span: Span) -> str:
    first, last = partition_of(from_seconds(span[0])), partition_of(from_seconds(span[1] - 1))
    return str(first) if first == last else f"{first} … {last}"


def _interval(span: Span, shift_min: int) -> dict[str, Any]:
    since, until = _times(span, shift_min)
    return {"since": iso(since), "until": iso(until), "seconds": span[1] - span[0]}


def _times(span: Span, shift_min: int) -> tuple[datetime, datetime]:
    first, last = business_span(span, shift_min)
    return from_seconds(first), from_seconds(last)


def _table(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        right = title in ("length", "intervals", "not loaded")
        table.add_column(title, justify="right" if right else "left", overflow="fold")
    return table
