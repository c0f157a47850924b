"""``status``: the journal on one screen, or one run whole."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
from rich.console import Group, RenderableType
from rich.text import Text

from etl_tasks.cli.assembly import open_wiring, read_settings
from etl_tasks.cli.headline import QUIET_S, Expectations, headline_of
from etl_tasks.cli.run_headline import run_headline
from etl_tasks.cli.run_json import run_as_dict
from etl_tasks.cli.run_screen import run_parts
from etl_tasks.cli.status_json import as_dict
from etl_tasks.cli.status_screen import screen_parts
from etl_tasks.cli.texts import iso_second, wide_console
from etl_tasks.cli.watching import open_display, watch
from etl_tasks.core.run_report import RunReport
from etl_tasks.core.status import StatusReport

if TYPE_CHECKING:
    from etl_tasks.config import Settings

WATCH_EVERY_S = 2.0


@dataclass(frozen=True, slots=True)
class _View:
    """What is looked at: how to read it, its screen, its JSON, and whether there is nothing more to wait for."""

    look: Callable[[], Any]
    screen: Callable[[Any], RenderableType]
    as_dict: Callable[[Any], dict[str, Any]]
    over: Callable[[Any], bool]


@click.command("status", short_help="Is it running, behind, failing? With RUN: one run whole.")
@click.argument("run_id", metavar="[RUN]", required=False, type=click.IntRange(1, 2**63 - 1))
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a screen.")
@click.option(
    "--watch",
    "every_s",
    is_flag=False,
    flag_value=WATCH_EVERY_S,
    type=click.FloatRange(0.1, 3600),
    metavar="[SECONDS]",
    show_default=False,
    help=f"Look again every {WATCH_EVERY_S:g} s, or --watch=SECONDS, until Ctrl-C or until RUN has ended.",
)
def status_command(run_id: int | None, as_json: bool, every_s: float | None) -> None:
    """Say whether it runs, is behind or has failed, and what to type next; below, why: runs, slices, what is not
    loaded, errors, splits, rejects, what waits for publishing, the last reconcile.

    With RUN, the number of a run or publish, show that one whole: partitions, errors, the slowest and the most split
    windows, throughput and time left.

    Reads the journal in PostgreSQL and nothing else. Exits 0 whatever it finds (the "level" of --json tells: ok,
    attention, failed or stopped), 2 when there is no RUN. With --json, --watch prints a line of JSON each time.
    """
    settings = read_settings()
    view = _everything(settings) if run_id is None else _one_run(run_id, settings)
    console = wide_console()
    if every_s is not None:
        with open_display(console, as_json) as display:
            watch(view.look, view.as_dict if as_json else view.screen, view.over, display, every_s)
    elif as_json:
        click.echo(json.dumps(view.as_dict(view.look()), ensure_ascii=False, indent=2))
    else:
        console.print(view.screen(view.look()))


def expectations(settings: Settings) -> Expectations:
    """What is normal under these settings."""
    return Expectations(
        step_s=settings.step_min * 60,
        lag_s=settings.phx_query_lag_minutes * 60,
        shift_min=settings.phx_query_shift_minutes,
        quiet_s=max(QUIET_S, 6.0 * settings.sweep_every_s),
        process=settings.process_name,
    )


def _everything(settings: Settings) -> _View:
    wiring = open_wiring(settings)
    expected = expectations(settings)

    def screen(report: StatusReport) -> RenderableType:
        top = Text(f"{wiring.clean_table}  journal {settings.journal_table}  {iso_second(report.now)}")
        return _stacked([top, *screen_parts(report, headline_of(report, expected), expected)])

    return _View(
        look=lambda: wiring.status_journal.report(wiring.clean_table, settings.process_name, expected.shift_min),
        screen=screen,
        as_dict=lambda report: as_dict(report, wiring.clean_table, expected),
        over=lambda report: False,
    )


def _one_run(run_id: int, settings: Settings) -> _View:
    wiring = open_wiring(settings)
    expected = expectations(settings)

    def screen(report: RunReport) -> RenderableType:
        table = report.clean_table or "of the old system"
        top = Text(f"run {run_id}  {table}  journal {settings.journal_table}  {iso_second(report.now)}")
        return _stacked([top, *run_parts(report, run_headline(report, expected))])

    return _View(
        look=lambda: wiring.status_journal.run_report(run_id),
        screen=screen,
        as_dict=lambda report: run_as_dict(report, expected),
        over=lambda report: not report.run.active,
    )


def _stacked(parts: Iterable[RenderableType]) -> RenderableType:
    """One below the other: title and headline together, an empty line before everything else."""
    title, headline, *rest = parts
    return Group(title, headline, *(line for part in rest for line in (Text(), part)))
