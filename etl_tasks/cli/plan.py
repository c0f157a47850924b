"""``plan``: what a run over an interval would read, and how wide its slices would be, and why."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import groupby

import click
from rich.table import Table
from rich.text import Text

from etl_tasks.cli.assembly import interval_options, open_wiring, read_interval, read_settings
from etl_tasks.cli.texts import count_of, iso, number, short_interval, short_time, wide_console
from etl_tasks.core.slice_sizing import Reason, SizedStretch, Sizing
from etl_tasks.core.slicing import PlannedSlice, SlicingRules, plan_slices
from etl_tasks.core.states import process_for
from etl_tasks.pipeline.sizing import size_plan

MOST_STRETCHES = 60
REASONS = {
    Reason.UNKNOWN: "as first cut: nobody knows its rows",
    Reason.FITS: "as first cut: it fits",
    Reason.WIDENED: "put together: it fits (PHX_SLICE_MAX_MIN)",
    Reason.WIDENED_PARTLY: "put together as far as it fits",
    Reason.NARROWED: "cut narrower, to fit",
    Reason.NARROWEST: "too many rows, and no narrower (PHX_OVERLOAD_MIN_SPLIT_MIN)",
}


@click.command("plan", short_help="Show steps, slices and partitions of an interval, and why.")
@interval_options(required=True)
@click.option("--manual", is_flag=True, help="For the lane of runs by hand, beside the schedule.")
@click.option("--offline", is_flag=True, help="Ask no service: every slice as wide as the first cut.")
@click.option("--json", "as_json", is_flag=True, help="Print every slice, as JSON.")
def plan_command(since: str, until: str, manual: bool, offline: bool, as_json: bool) -> None:
    """Show what a run over [SINCE, UNTIL) would read now: steps, slices and partitions. Nothing is written.

    Slices are windows of the source's time column in UTC: the interval moved by PHX_QUERY_SHIFT_MINUTES, widened to the
    left by PHX_QUERY_OVERLAP_MINUTES, and cut on the grid of PHX_INITIAL_SLICE_MIN and at every UTC midnight.
    With PHX_SLICE_SIZING=auto the journal and the source are asked how many rows the windows have, as a run would ask,
    and slices with too many are cut narrower; what cannot be asked is said.
    """
    settings = read_settings()
    interval = read_interval(since, until, settings)
    rules = settings.slicing_rules
    plan = plan_slices(interval.since, interval.until, rules, datetime.now(UTC))
    process = process_for(settings.process_name, manual)
    sizing = Sizing(plan)
    if plan.slices and settings.sizing_rules.auto and not offline:
        sizing = size_plan(plan, open_wiring(settings).sizing_context())
    plan = sizing.plan
    notices = [*interval.notices, *plan.notices, *sizing.notices]
    if as_json:
        click.echo(plan_json(process, sizing, notices))
        return
    console = wide_console()
    console.print(f"[bold]{process}[/]  {iso(plan.since)} .. {iso(plan.until)}  (business time, in UTC)")
    console.print(_how_cut(rules))
    if sizing.ceiling:
        console.print(
            f"at most {sizing.ceiling.rows:,} rows a slice ({sizing.ceiling.why}); the source was asked "
            f"{count_of(sizing.asked, 'time')} for estimates"
        )
    if plan.slices:
        console.print(_table(plan.slices))
    if sizing.stretches:
        console.print(_sizes(sizing.stretches))
        if len(sizing.stretches) > MOST_STRETCHES:
            console.print(f"… and {len(sizing.stretches) - MOST_STRETCHES:,} stretches more: --json has all")
    console.print(
        f"{count_of(plan.steps, 'step')}, {count_of(len(plan.slices), 'slice')}, "
        f"{count_of(len(plan.partitions), 'partition')}"
    )
    for notice in notices:
        console.print(Text.assemble(("notice:", "yellow"), f" {notice}"), soft_wrap=True)


def plan_json(process: str, sizing: Sizing, notices: Sequence[str]) -> str:
    """The plan for programs; times in UTC, slices in order of time, partitions ascending."""
    plan = sizing.plan
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
            "sizing": _sizing_json(sizing),
            "notices": list(notices),
        },
        ensure_ascii=False,
        indent=2,
    )


def _sizing_json(sizing: Sizing) -> dict[str, object] | None:
    if sizing.ceiling is None:
        return None
    return {
        "most_rows": sizing.ceiling.rows,
        "why": sizing.ceiling.why,
        "estimates": sizing.asked,
        "stretches": [
            {
                "partition": each.partition,
                "from": iso(each.window.start),
                "to": iso(each.window.end),
                "slices": each.slices,
                "shortest_s": each.shortest_s,
                "longest_s": each.longest_s,
                "rows": each.rows,
                "most_rows_a_slice": each.most_rows,
                "known_from": list(each.origins),
                "reason": each.reason,
            }
            for each in sizing.stretches
        ],
    }


def _sizes(stretches: Sequence[SizedStretch]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("partition", "slices", "min each", "rows", "most a slice"):
        table.add_column(title, justify="right")
    table.add_column("source time (UTC)")
    table.add_column("known from")
    table.add_column("so")
    for each in stretches[:MOST_STRETCHES]:
        table.add_row(
            str(each.partition),
            number(each.slices),
            _minutes(each.shortest_s, each.longest_s),
            "-" if each.rows is None else number(each.rows),
            "-" if each.most_rows is None else number(each.most_rows),
            short_interval(each.window.start, each.window.end),
            "; ".join(each.origins) or "-",
            REASONS[each.reason],
        )
    return table


def _minutes(shortest_s: int, longest_s: int) -> str:
    shortest, longest = (f"{seconds / 60:.3g}" for seconds in (shortest_s, longest_s))
    return longest if shortest == longest else f"{shortest}–{longest}"


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
