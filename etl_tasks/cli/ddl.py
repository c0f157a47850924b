"""``ddl``: ClickHouse's tables and the settings for any table of Phoenix."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Sequence
from typing import Any

import click

from etl_tasks.cli.assembly import open_wiring, read_settings
from etl_tasks.config import Settings
from etl_tasks.core.batch import SourceColumn
from etl_tasks.core.source_names import split_source_table
from etl_tasks.core.target_table import UNITS, TargetTable, design, has_one_time, time_candidates

ENV_NOTE = (
    "# For an .env of this table's own; what is not here is as in the other tables' .env. One more is to be chosen:",
    "# REDIS_URL with a database number that no other table's workers use.",
)
FORMS = ("replicated", "shards", "node")


def _names(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[str, ...]:
    parts = tuple(part.strip() for part in value.split(",")) if value else ()
    if "" in parts:
        raise click.BadParameter("has an empty name between commas", context, parameter)
    return parts


@click.command("ddl", short_help="ClickHouse tables and settings for any Phoenix table.")
@click.option(
    "--from-source",
    "source",
    required=True,
    metavar="TABLE",
    help='Phoenix table: TABLE, S.T or \'"S"."t"\'; case counts.',
)
@click.option("--key", callback=_names, metavar="A,B", help="The primary key's columns in the order to sort by.")
@click.option("--time-column", default="", metavar="NAME", help="Time column of the windows, one of the primary key.")
@click.option(
    "--units", default="", type=click.Choice(("", *UNITS)), metavar="UNIT", help="millis or seconds, of a BIGINT."
)
@click.option("--leave-out", callback=_names, metavar="A,B", help="Columns not to carry.")
@click.option("--name", "base", default="", metavar="DB.TABLE", help="CLEAN's name, after which the others are named.")
@click.option("--cluster", metavar="NAME", help="Cluster of the Distributed tables instead of CH_CLUSTER.")
@click.option("--form", type=click.Choice(FORMS), help="What the cluster is; ClickHouse is asked when not given.")
@click.option("--ttl-days", type=click.IntRange(1), metavar="N", help="CLEAN forgets rows so old; without it none.")
@click.option("--apply", "applied", is_flag=True, help="Create the tables too.")
@click.option("--env", "env_only", is_flag=True, help="Print the settings only, as lines for .env.")
@click.option("--json", "as_json", is_flag=True, help="Print statements, settings and notes as JSON.")
def ddl_command(
    source: str,
    key: tuple[str, ...],
    time_column: str,
    units: str,
    leave_out: tuple[str, ...],
    base: str,
    cluster: str | None,
    form: str | None,
    ttl_days: int | None,
    applied: bool,
    env_only: bool,
    as_json: bool,
) -> None:
    """Print the DDL of RAW, buffer, CLEAN and the Distributed tables for a table of Phoenix, as its catalog has it, and
    the settings that go with them.

    The settings come last, as comments, so that the output can be fed to clickhouse-client; --env prints them for .env.
    What cannot be carried, and what wants attention, is said on stderr. With several candidates for the time column a
    terminal is asked, and anything else must say --time-column.
    """
    settings = read_settings()
    columns = open_wiring(settings).source_columns(source)
    table = design(
        columns,
        source,
        key=key,
        ts_column=time_column or _asked(columns),
        ts_units=units,
        leave_out=leave_out,
    )
    names = settings_for(source, table, settings.qualified(base or _base(source)), cluster)
    # Settings of their own: what is printed for .env has passed its checks.
    overrides: dict[str, Any] = dict(names)
    wiring = open_wiring(Settings(**overrides))
    statements = wiring.render_tables(table, form, ttl_days)
    notes = [*(f"{each.name} is left out: {each.reason}" for each in table.left_out), *table.notices]
    if as_json:
        said = {"statements": statements, "settings": names, "notes": notes}
        click.echo(json.dumps(said, ensure_ascii=False, indent=2))
    else:
        for note in notes:
            click.echo(f"note: {note}", err=True)
        lines = [f"{name}={shlex.quote(value)}" for name, value in names.items()]
        click.echo("\n".join([*ENV_NOTE, *lines]) if env_only else _as_file(source, statements, lines))
    if applied:
        for line in wiring.create_tables(statements, form):
            click.echo(f"ClickHouse: {line}", err=True)


def _asked(columns: Sequence[SourceColumn]) -> str:
    """The time column that a terminal chose; empty where there is nobody to ask, or nothing to choose."""
    candidates = time_candidates(columns)
    if not candidates or has_one_time(columns) or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return ""
    chosen: str = click.prompt("Time column", type=click.Choice(list(candidates)), err=True)
    return chosen


def _base(source: str) -> str:
    """CLEAN's name from the source's: ``"S"."t-1"`` → ``s_t_1``."""
    name = re.sub(r"\W+", "_", "_".join(filter(None, split_source_table(source))).lower(), flags=re.ASCII)
    return name if re.match(r"[a-z_]", name) else f"t_{name}"


def settings_for(source: str, table: TargetTable, base: str, cluster: str | None) -> dict[str, str]:
    """The settings, by name, that carry ``source`` into the tables named after ``base`` (CLEAN)."""
    names = {
        "PROCESS_NAME": f"{base.rpartition('.')[2]}_increment",
        "HBASE_MAIN_TABLE": source,
        "HBASE_MAIN_TS_COLUMN": table.ts_column,
        "PHX_TS_UNITS": table.ts_units,
        "MAIN_COLUMNS": ",".join(name for name, _ in table.columns),
        "CH_RAW_TABLE": f"{base}_raw_all",
        "CH_CLEAN_TABLE": base,
        "CH_CLEAN_ALL_TABLE": f"{base}_all",
        "CH_DEDUP_BUF_TABLE": f"{base}_dedup_buf",
    }
    return names if cluster is None else {**names, "CH_CLUSTER": cluster}


def _as_file(source: str, statements: Sequence[str], lines: Sequence[str]) -> str:
    head = f"-- ClickHouse tables for {source} of Phoenix."
    settings = "\n".join(f"-- {line}" for line in (*ENV_NOTE, *lines))
    return "\n\n".join([head, *(f"{statement};" for statement in statements), settings])
