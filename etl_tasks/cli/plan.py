"""``plan``: what a run over an interval would read, without asking any service."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import groupby

import click
from rich.table import Table
from rich.text import Text

from etl_tasks.cli.assembly import interval_options, read_interval, read_settings
from etl_tasks.cli.texts import count_of, iso, number, short_time, wide_console
from etl_tasks.core.slicing import PlannedSlice, SlicePlan, SlicingRules, plan_slices
from etl_tasks.core.states import process_for


@click.command("plan", short_help="Show steps, slices and partitions of an interval; asks no service.")
@interval_options(required=True)
@click.option("--manual", is_flag=True, help="For the lane of runs by hand, beside the schedule.")
@click.option("--json", "as_json", is_flag=True, help="Print every slice, as JSON.")
def plan_command(since: str, until: str, manual: bool, as_json: bool) -> None:
    """Show what a run over [SINCE, UNTIL) would read now: steps, slices and partitions. No service is asked.

    Slices are windows of the source's time column in UTC: the interval moved by PHX_QUERY_SHIFT_MINUTES, widened to the
    left by PHX_QUERY_OVERLAP_MINUTES, and cut on the grid of PHX_INITIAL_SLICE_MIN and at every UTC midnight.
    """
    settings = read_settings()
    interval = read_interval(since, until, settings)
    rules = settings.slicing_rules
    plan = plan_slices(interval.since, interval.until, rules, datetime.now(UTC))
    process = process_for(settings.process_name, manual)
    notices = [*interval.notices, *plan.notices]
    if as_json:
        click.echo(plan_json(process, plan, notices))
        return
    console = wide_console()
    console.print(f"[bold]{process}[/]  {iso(plan.since)} .. {iso(plan.until)}  (business time, in UTC)")
    console.print(_how_cut(rules))
    if plan.slices:
        console.print(_table(plan.slices))
    console.print(
        f"{count_of(plan.steps, 'step')}, {count_of(len(plan.slices), 'slice')}, "
        f"{count_of(len(plan.partitions), 'partition')}"
    )
    for notice in notices:
        console.print(Text.assemble(("notice:", "yellow"), f" {notice}"), soft_wrap=True)


def plan_json(process: str, plan: SlicePlan, notices: Sequence[str]) -> str:
    """The plan for programs; times in UTC, slices in order of time, partitions ascending."""
    return json.dumps(
        {
            "process": process,
            "since": iso(plan.since),
            "until": iso(plan.until),
            "partitions": list(plan.partitions),
            "slices": [
                {
                    "from": iso(planned.window.start),
                    "to": iso(planned.window.end),
                    "partition": planned.partition,
                    "step": planned.step,
                }
                for planned in plan.slices
            ],
            "notices": list(notices),
        },
        ensure_ascii=False,
        indent=2,
    )


def _how_cut(rules: SlicingRules) -> str:
    grid = f"cut every {rules.initial_slice_min} min" if rules.initial_slice_min else "one slice a step"
    return (
        f"step {rules.step_min} min, {grid}, shift {rules.shift_min:+d} min, overlap {rules.overlap_min} min, "
        f"lag {rules.lag_min} min"
    )


def _table(slices: Sequence[PlannedSlice]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("partition", "slices", "steps"):
        table.add_column(title, justify="right")
    table.add_column("source time from (UTC)")
    table.add_column("to")
    for partition, members in groupby(slices, key=lambda planned: planned.partition):
        planned = list(members)
        table.add_row(
            str(partition),
            number(len(planned)),
            number(len({each.step for each in planned})),
            short_time(planned[0].window.start),
            short_time(planned[-1].window.end),
        )
    return table
