"""``reconcile``: whether CLEAN holds what the source holds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import click
from rich.console import Console
from rich.progress import track
from rich.table import Table

from etl_tasks.cli.assembly import interval_options, open_wiring, read_interval, read_settings
from etl_tasks.cli.texts import count_of, iso, number, short_time
from etl_tasks.core.reconciling import WindowContent, WindowCounts
from etl_tasks.core.slicing import SlicePlan, plan_slices
from etl_tasks.core.windows import Window
from etl_tasks.pipeline.reconcile import ReconcileContext, compare_window, count_windows, example_text

DIFFERENT = 1
MOST_WINDOWS = 20


@click.command("reconcile", short_help="Compare source, RAW and CLEAN by count a slice, or every row with --hash.")
@interval_options(required=True)
@click.option("--hash", "by_hash", is_flag=True, help="Compare the content of every row as well.")
@click.option("--json", "as_json", is_flag=True, help="Print every slice, as JSON.")
@click.option("--examples", type=click.IntRange(0), default=5, show_default=True, metavar="N", help="Keys shown a slice.")
def reconcile_command(since: str, until: str, by_hash: bool, as_json: bool, examples: int) -> None:
    """Compare the source with RAW and CLEAN over the business interval [SINCE, UNTIL), a slice at a time.

    Prints "reconciled: exact" and exits 0 when the source and CLEAN are equal, else 1. RAW forgets by its TTL and does
    not decide. What the lag keeps back (PHX_QUERY_LAG_MINUTES) is not compared.
    """
    settings = read_settings()
    interval = read_interval(since, until, settings)
    # Without the overlap: what lies before the interval is not what was asked.
    rules = replace(settings.slicing_rules, overlap_min=0)
    plan = plan_slices(interval.since, interval.until, rules, datetime.now(UTC))
    windows = [planned.window for planned in plan.slices]
    notices = [*interval.notices, *plan.notices]
    with open_wiring(settings).reconciling(examples) as context:
        counts = count_windows(windows, context) if not by_hash else []
        contents = [compare_window(window, context) for window in _tracked(windows, as_json)] if by_hash else []
        if by_hash:
            counts = _counts_of(contents, context)
    exact = all(each.equal for each in counts) if not by_hash else all(each.equal for each in contents)
    if as_json:
        click.echo(json.dumps(_as_dict(plan, counts, contents, notices, exact), ensure_ascii=False, indent=2))
    else:
        _print(counts, contents, notices, exact)
    raise click.exceptions.Exit(0 if exact else DIFFERENT)


def _tracked(windows: Sequence[Window], quiet: bool) -> Iterator[Window]:
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield from windows
    else:
        yield from track(windows, "comparing", console=console, transient=True)


def _counts_of(contents: Sequence[WindowContent], context: ReconcileContext) -> list[WindowCounts]:
    """The counts of what was compared row by row, the source not asked again: distinct keys of what fits."""
    raw = context.target.count_windows(context.raw_table, [each.window for each in contents])
    return [
        WindowCounts(each.window, each.source_keys + each.unfit, in_raw, each.clean_rows)
        for each, in_raw in zip(contents, raw, strict=True)
    ]


def _print(
    counts: Sequence[WindowCounts], contents: Sequence[WindowContent], notices: Sequence[str], exact: bool
) -> None:
    console = Console(highlight=False)
    for notice in notices:
        console.print(f"[yellow]notice:[/] {notice}", soft_wrap=True)
    console.print(_totals(counts))
    raw, source = sum(each.raw for each in counts), sum(each.source for each in counts)
    if raw < source:
        console.print(f"RAW has {number(source - raw)} rows less: past its TTL it forgets, which does not count here")
    collisions = sum(each.collisions for each in contents)
    if collisions:
        console.print(f"{count_of(collisions, 'source row')} share a key with another to the millisecond; CLEAN has one of each")
    wrong = [each for each in contents if not each.equal]
    if contents and wrong:
        console.print(_content_table(wrong))
        for content in wrong[:MOST_WINDOWS]:
            for example in content.examples:
                console.print(f"  {content.window} {example_text(example)}", soft_wrap=True, markup=False)
    unequal = [each for each in counts if not each.equal]
    if not contents and unequal:
        console.print(_count_table(unequal))
    what = "every column of every row" if contents else "the count of every slice"
    if exact:
        console.print(f"[bold green]reconciled: exact[/] ({what})")
    else:
        console.print(f"[bold red]reconciled: DIFFERENT[/] ({what})")


def _totals(counts: Sequence[WindowCounts]) -> Table:
    table = _table("slices", "source", "RAW", "CLEAN_ALL", "slices that differ")
    table.add_row(
        number(len(counts)),
        number(sum(each.source for each in counts)),
        number(sum(each.raw for each in counts)),
        number(sum(each.clean for each in counts)),
        number(sum(not each.equal for each in counts)),
    )
    return table


def _count_table(unequal: Sequence[WindowCounts]) -> Table:
    table = _table("window from (UTC)", "to", "source", "RAW", "CLEAN_ALL", "CLEAN - source")
    for each in unequal[:MOST_WINDOWS]:
        table.add_row(
            short_time(each.window.start),
            short_time(each.window.end),
            number(each.source),
            number(each.raw),
            number(each.clean),
            f"{each.clean - each.source:+,}",
        )
    if len(unequal) > MOST_WINDOWS:
        table.add_row(f"and {len(unequal) - MOST_WINDOWS} more: --json")
    return table


def _content_table(wrong: Sequence[WindowContent]) -> Table:
    table = _table("window from (UTC)", "to", "keys", "missing", "extra", "differing", "repeated", "unfit")
    for each in wrong[:MOST_WINDOWS]:
        numbers = (each.source_keys, each.missing, each.extra, each.differing, each.repeated, each.unfit)
        table.add_row(short_time(each.window.start), short_time(each.window.end), *map(number, numbers))
    if len(wrong) > MOST_WINDOWS:
        table.add_row(f"and {len(wrong) - MOST_WINDOWS} more: --json")
    return table


def _table(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        table.add_column(title, justify="left" if title in ("window from (UTC)", "to") else "right")
    return table


def _as_dict(
    plan: SlicePlan,
    counts: Sequence[WindowCounts],
    contents: Sequence[WindowContent],
    notices: Sequence[str],
    exact: bool,
) -> dict[str, Any]:
    by_window = {content.window: content for content in contents}
    return {
        "since": iso(plan.since),
        "until": iso(plan.until),
        "exact": exact,
        "compared": "rows" if contents else "counts",
        "source": sum(each.source for each in counts),
        "raw": sum(each.raw for each in counts),
        "clean": sum(each.clean for each in counts),
        "notices": list(notices),
        "slices": [
            {
                "from": iso(each.window.start),
                "to": iso(each.window.end),
                "source": each.source,
                "raw": each.raw,
                "clean": each.clean,
                **_content_dict(by_window.get(each.window)),
            }
            for each in counts
        ],
    }


def _content_dict(content: WindowContent | None) -> dict[str, Any]:
    if content is None:
        return {}
    return {
        "missing": content.missing,
        "extra": content.extra,
        "differing": content.differing,
        "repeated": content.repeated,
        "unfit": content.unfit,
        "collisions": content.collisions,
        "examples": [
            {
                "kind": example.kind,
                "key": list(example.key),
                "columns": {name: [repr(ours), repr(theirs)] for name, (ours, theirs) in example.columns.items()},
            }
            for example in content.examples
        ],
    }
