"""``reconcile``: whether CLEAN holds what the source holds."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime

import click
from rich.console import Console
from rich.progress import Progress

from etl_tasks.cli.assembly import interval_options, open_wiring, read_interval, read_settings
from etl_tasks.cli.outcome import Outcome, as_dict, print_outcome
from etl_tasks.core.reconciling import WindowContent, WindowCounts
from etl_tasks.core.slicing import plan_slices
from etl_tasks.core.windows import Window
from etl_tasks.pipeline.reconcile import ReconcileContext, compare_window, count_windows

DIFFERENT = 1


@click.command("reconcile", short_help="Compare source, RAW and CLEAN by count, or every row (--hash).")
@interval_options(required=True)
@click.option("--hash", "by_hash", is_flag=True, help="Compare every column of every row.")
@click.option("--json", "as_json", is_flag=True, help="Print every slice, as JSON.")
@click.option(
    "--examples", type=click.IntRange(0), default=5, show_default=True, metavar="N", help="Keys shown a slice."
)
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
    with open_wiring(settings).reconciling(examples) as context, _progress(len(windows), as_json) as advance:
        contents: list[WindowContent] = []
        if by_hash:
            for window in windows:
                contents.append(compare_window(window, context))
                advance(window)
            counts = _counts_of(contents, context)
        else:
            counts = count_windows(windows, context, advance)
    outcome = Outcome(plan, counts, contents, by_hash, [*interval.notices, *plan.notices])
    if as_json:
        click.echo(json.dumps(as_dict(outcome), ensure_ascii=False, indent=2))
    else:
        print_outcome(outcome)
    raise click.exceptions.Exit(0 if outcome.exact else DIFFERENT)


@contextmanager
def _progress(windows: int, quiet: bool) -> Iterator[Callable[[Window], None]]:
    """A bar on stderr while the block runs, where that is a terminal."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task("comparing", total=windows)
        yield lambda window: bar.advance(task)


def _counts_of(contents: Sequence[WindowContent], context: ReconcileContext) -> list[WindowCounts]:
    """The counts of what was compared row by row, the source not asked again: distinct keys of what fits."""
    raw = context.target.count_windows(context.raw_table, [each.window for each in contents])
    return [
        WindowCounts(each.window, each.source_keys + each.unfit, in_raw, each.clean_rows)
        for each, in_raw in zip(contents, raw, strict=True)
    ]
