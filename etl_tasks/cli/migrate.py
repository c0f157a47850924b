"""``migrate``: the journal's and ClickHouse's tables, created or completed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from etl_tasks.cli.assembly import open_wiring, read_settings
from etl_tasks.cli.texts import count_of, iso

if TYPE_CHECKING:
    from etl_tasks.wiring import Wiring


@click.command("migrate", short_help="Create or complete the tables; as often as you like.")
@click.option("--only", type=click.Choice(("journal", "clickhouse")), help="Leave the other one alone.")
@click.option("--phoenix", is_flag=True, help="Create the source's table too: for development only.")
def migrate_command(only: str | None, phoenix: bool) -> None:
    """Create what is missing of the journal (PostgreSQL) and of RAW, buffer and CLEAN (ClickHouse).

    May be run again and again; what is there stays, an old system's journal with its watermark too.
    """
    wiring = open_wiring(read_settings())
    if only in (None, "journal"):
        _migrate_journal(wiring)
    if only in (None, "clickhouse"):
        for line in wiring.migrate_clickhouse():
            click.echo(f"ClickHouse: {line}")
    if phoenix:
        click.echo(f"Phoenix: {wiring.migrate_phoenix()}")


def _migrate_journal(wiring: Wiring) -> None:
    status, settings = wiring.status_journal, wiring.settings
    before = status.columns()
    wiring.journal.ensure()
    click.echo(f"PostgreSQL: the journal {settings.journal_table}: {what_changed(before, status.columns())}")
    watermark = wiring.journal.runs.watermark(settings.process_name)
    if watermark is not None:
        click.echo(f"PostgreSQL: the watermark of {settings.process_name} is {iso(watermark)}")


def what_changed(before: Mapping[str, int | None], after: Mapping[str, int | None]) -> str:
    """In a few words what came between two looks at the journal's columns."""
    created = [name for name in after if before.get(name) is None]
    added = sum((after[name] or 0) - (before[name] or 0) for name in after if name not in created)
    said = []
    if created:
        said.append(f"{count_of(len(created), 'table')} created ({', '.join(created)})")
    if added:
        said.append(f"{count_of(added, 'column')} added")
    return ", ".join(said) or f"complete already ({count_of(len(after), 'table')})"
