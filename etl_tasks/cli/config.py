"""``config``: print the settings in force."""

from __future__ import annotations

import dataclasses
import json
from itertools import groupby

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from etl_tasks.config import ConfigError, SettingRow, Settings, describe, load_settings

USAGE_ERROR = 2


_PIPED_WIDTH = 400


@click.command("config")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def config_command(as_json: bool) -> None:
    """Print every setting in force and where it comes from; passwords are hidden.

    Exit code 2, with every fault on a line of its own, when a setting is wrong.
    """
    try:
        settings = load_settings()
    except ConfigError as error:
        if as_json:
            faults = [line.strip() for line in str(error).splitlines()[1:]]
            click.echo(json.dumps({"faults": faults}, ensure_ascii=False, indent=2))
        else:
            click.echo(str(error), err=True)
        raise click.exceptions.Exit(USAGE_ERROR) from None
    if as_json:
        click.echo(_json(settings))
        return
    console = Console(soft_wrap=False)
    if not console.is_terminal:
        # For grep: a line a setting.
        console = Console(soft_wrap=False, width=_PIPED_WIDTH)
    console.print(_table(settings))
    for warning in settings.warnings:
        console.print(Text(f"warning: {warning}", style="yellow"), soft_wrap=True)


def _json(settings: Settings) -> str:
    rows = [dataclasses.asdict(row) for row in describe(settings)]
    return json.dumps({"settings": rows, "warnings": settings.warnings}, ensure_ascii=False, indent=2)


def _table(settings: Settings) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("name", no_wrap=True)
    table.add_column("value", overflow="fold", ratio=3)
    table.add_column("origin", overflow="fold")
    table.add_column("meaning", overflow="fold", ratio=4)
    for group, rows in groupby(describe(settings), key=lambda row: row.group):
        table.add_row(Text(group, style="bold cyan"))
        for row in rows:
            style = "" if row.origin == "default" else "bold"
            table.add_row(
                Text(row.name, style=style), Text(_value(row), style=style), Text(row.origin), row.description
            )
    return table


def _value(row: SettingRow) -> str:
    return f"{row.value} {row.unit}" if row.value and row.unit else row.value
