"""``report``: one run as one page that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click
import jinja2

from etl_tasks.cli.assembly import open_wiring, read_settings
from etl_tasks.cli.texts import count_of, duration, iso_second, number, short_time
from etl_tasks.core.report import ReportPage, page_of
from etl_tasks.core.report_timeline import Bar
from etl_tasks.errors import UsageError

_TEMPLATES = Path(__file__).with_name("templates")


@click.command("report", short_help="Write one run as a web page that needs nothing else.")
@click.argument("run_id", metavar="RUN", type=click.IntRange(1, 2**63 - 1))
@click.option(
    "--html",
    "target",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="The file to write; one that is there is replaced.",
)
def report_command(run_id: int, target: Path) -> None:
    """Write what became of RUN: its slices over time and workers, coverage, throughput, errors, partitions.

    The page loads nothing from anywhere and can be mailed, printed and read on a phone. Reads the journal and nothing
    else; of a run that goes on it shows the state of now. A run is known until it is pruned (JOURNAL_RETENTION_DAYS).
    """
    settings = read_settings()
    wiring = open_wiring(settings)
    page = page_of(wiring.report_journal.record(wiring.status_journal.progress(run_id)))
    text = render(page, wiring.clean_table)
    try:
        target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {target}: {error.strerror or error}; name another file with --html") from error
    click.echo(f"run {run_id}: {target} ({number(len(text.encode()) // 1024)} KiB)")
    for sentence in page.left_out:
        click.echo(f"note: {sentence}", err=True)


def render(page: ReportPage, clean_table: str) -> str:
    """The page as HTML; every value in it is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, duration=duration, iso=iso_second, short_time=short_time)
    environment.globals.update(count_of=count_of, bar_title=_bar_title)
    return environment.get_template("report.html.j2").render(
        page=page, record=page.record, run=page.record.progress.run, clean_table=clean_table
    )


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number(count)} {state}" for state, count in counts.items() if count)


def _bar_title(bar: Bar) -> str:
    """What hovering over a bar says."""
    each = bar.only
    if each is None:
        return f"{_counts(bar.counts) or 'slices that go on'} here"
    parts = [f"slice {each.slice_id} {each.window}", each.state]
    if each.took_s is not None:
        parts.append(duration(each.took_s))
    if each.rows:
        parts.append(count_of(each.rows, "row"))
    if each.overloads:
        parts.append(count_of(each.overloads, "rejection"))
    if each.error_kind and each.state != "done":
        parts.append(each.error_kind)
    return f"{', '.join(parts)}, attempt {each.attempt}"
