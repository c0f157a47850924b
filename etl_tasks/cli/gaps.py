"""``gaps``: what was never loaded, what is loaded and not published, and the commands that fill it."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING

import click

from etl_tasks.cli.assembly import interval_options, open_wiring, read_interval, read_settings
from etl_tasks.cli.gaps_screen import as_dict, print_gaps
from etl_tasks.core.business_time import parse_moment
from etl_tasks.core.gaps import default_interval, due_window, find_gaps
from etl_tasks.errors import UsageError

if TYPE_CHECKING:
    from etl_tasks.config import Settings
    from etl_tasks.core.windows import Window
    from etl_tasks.wiring import Wiring

GAPS = 1


@click.command("gaps", short_help="List what is not loaded or not published, and what fills it.")
@interval_options(required=False)
@click.option("--json", "as_json", is_flag=True, help="Print every interval and partition, as JSON.")
def gaps_command(since: str | None, until: str | None, as_json: bool) -> None:
    """List the intervals of [SINCE, UNTIL) that were never loaded, and those loaded and not published.

    Beside each stands the command that fills it. Without SINCE it begins where loading once began; without UNTIL it
    ends where the schedule had to be by now, and newer than now less the lag is never a gap. What an active run is to
    load or to publish at its end, what PUBLISH_EVERY_MINUTES is about to take, and a publish that is due or under way,
    is shown and is no gap.

    Reads the coverage in PostgreSQL and nothing else. For cron: exit code 0 when there is no gap, 1 when there is one,
    2 when the question cannot be meant.
    """
    settings = read_settings()
    wiring = open_wiring(settings)
    window, notices = _window(since, until, settings, wiring)
    rules = settings.slicing_rules
    gaps = find_gaps(window, wiring.gap_journal.facts(window))
    watermark = wiring.journal.runs.watermark(settings.process_name)
    if as_json:
        shown = as_dict(gaps, wiring.clean_table, rules.shift_min, notices)
        click.echo(json.dumps(shown, ensure_ascii=False, indent=2))
    else:
        print_gaps(gaps, wiring.clean_table, rules.shift_min, watermark, notices)
    if gaps.any:
        raise click.exceptions.Exit(GAPS)


def _window(since: str | None, until: str | None, settings: Settings, wiring: Wiring) -> tuple[Window, list[str]]:
    """The source's time that is asked for, cut at now less the lag, and what is to be said about it."""
    rules, now, zone = settings.slicing_rules, wiring.journal.now(), settings.business_tz or None
    if since is not None and until is not None:
        interval = read_interval(since, until, settings)
        window, notices = due_window(interval.since, interval.until, rules, now)
        return window, [*interval.notices, *notices]
    first, last = _default(wiring, settings, now)
    said: tuple[str, ...] = ()
    if since is not None:
        first, said = parse_moment(since, "since", zone)
    elif until is not None:
        last, said = parse_moment(until, "until", zone)
    window, notices = due_window(first, last, rules, now)
    return window, [*said, *notices]


def _default(wiring: Wiring, settings: Settings, now: datetime) -> tuple[datetime, datetime]:
    covered = wiring.gap_journal.covered()
    if covered is None:
        raise UsageError(
            f"nothing has been loaded for {wiring.clean_table} yet: load an interval with python -m etl_tasks run, or "
            "give --since and --until"
        )
    watermark = wiring.journal.runs.watermark(settings.process_name)
    return default_interval(covered, watermark, settings.slicing_rules, now)
