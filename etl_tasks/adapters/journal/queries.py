"""The named queries of ``sql/*.sql`` and the journal's DDL, rendered for the table names in force."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from etl_tasks.errors import ConfigError

_SQL = Path(__file__).with_name("sql")
_DDL = Path(__file__).parents[3] / "ddl" / "journal.sql"
_NAME = re.compile(r"^-- name: (\w+)\s*$", re.MULTILINE)
# A table with its schema, or the bare name of an index or constraint.
_DERIVED = re.compile(r"\b(public\.)?inc_processing(\w*)")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

# What the longest derived name adds; PostgreSQL cuts identifiers at 63 bytes in silence.
_LONGEST_SUFFIX = "_run_partitions_open_idx"


def quote_identifier(name: str) -> str:
    """``name`` as a quoted PostgreSQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def split_table_name(table: str) -> tuple[str, str]:
    """Schema (``public`` when none is named) and base name of ``JOURNAL_TABLE``; else raises ConfigError."""
    parts = table.split(".")
    if len(parts) == 1:
        parts = ["public", *parts]
    if len(parts) != 2 or not all(_IDENTIFIER.fullmatch(part) for part in parts):
        raise ConfigError(f"JOURNAL_TABLE={table}: must be a table or schema.table of letters, digits and underscores")
    if len(parts[1]) + len(_LONGEST_SUFFIX) > 63:
        raise ConfigError(f"JOURNAL_TABLE={table}: too long, its indexes' names would pass PostgreSQL's 63 bytes")
    return parts[0], parts[1]


def render_names(sql: str, journal_table: str) -> str:
    """``sql``, written for ``public.inc_processing``, for the names derived from ``journal_table``."""
    schema, base = split_table_name(journal_table)

    def derived(match: re.Match[str]) -> str:
        name = quote_identifier(base + match.group(2))
        return f"{quote_identifier(schema)}.{name}" if match.group(1) else name

    return _DERIVED.sub(derived, sql)


@cache
def load_queries(journal_table: str) -> dict[str, str]:
    """All named queries for the names derived from ``journal_table``; raises ValueError when two have one name."""
    queries: dict[str, str] = {}
    for path in sorted(_SQL.glob("*.sql")):
        parts = _NAME.split(path.read_text(encoding="utf-8"))
        for name, body in zip(parts[1::2], parts[2::2], strict=True):
            if name in queries:
                raise ValueError(f"{path.name}: the query name {name} is taken")
            queries[name] = render_names(body.strip(), journal_table)
    return queries


def journal_ddl(journal_table: str) -> str:
    """``ddl/journal.sql`` for the names derived from ``journal_table``, its schema included."""
    schema, _ = split_table_name(journal_table)
    create_schema = "" if schema == "public" else f"CREATE SCHEMA IF NOT EXISTS {quote_identifier(schema)};\n"
    return create_schema + render_names(_DDL.read_text(encoding="utf-8"), journal_table)
