"""The statements sent to Phoenix, as text: names quoted, window edges as literals, nothing bound.

Literals, because a bound time shifts on a Query Server whose JVM is not in UTC (FACTS), and because EXPLAIN takes none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from etl_tasks.core.source_names import split_source_table
from etl_tasks.core.windows import Window
from etl_tasks.errors import ConfigError

_UNIT_MS: Final[Mapping[str, int]] = {"millis": 1, "seconds": 1_000}
_HINT: Final = re.compile(r'[\w\s"(),.$:-]*')


def quote_identifier(name: str) -> str:
    """The name in double quotes, its case kept; raises ConfigError for one that cannot be quoted.

    Unquoted, Phoenix turns a name into upper case, and the real source's columns are lower-case (FACTS).
    """
    bare = name[1:-1] if len(name) > 2 and name[0] == name[-1] == '"' else name
    if not bare or bare != bare.strip() or '"' in bare or any(ord(letter) < 32 for letter in bare):
        raise ConfigError(f"{name!r} cannot be the name of a Phoenix table or column")
    return f'"{bare}"'


def split_table(name: str) -> tuple[str, str]:
    """Schema ('' when there is none) and table of ``table``, ``schema.table`` or ``"s"."t"``; raises ConfigError."""
    try:
        schema, table = split_source_table(name)
    except ValueError as error:
        raise ConfigError(f"{name!r} is not the name of a Phoenix table: {error}") from None
    for part in filter(None, (schema, table)):
        quote_identifier(part)
    return schema, table


def quote_table(name: str) -> str:
    """The table's name ready for a statement; raises ConfigError. Case is kept, quoted or not."""
    schema, table = split_table(name)
    return f"{quote_identifier(schema)}.{quote_identifier(table)}" if schema else quote_identifier(table)


def checked_hint(hint: str) -> str:
    """The hint as a comment with a trailing space ('' for none), such as ``/*+ INDEX("T" "I") */ ``; raises
    ConfigError.
    """
    bare = hint.strip()
    if bare.startswith("/*+") and bare.endswith("*/"):
        bare = bare[3:-2].strip()
    if not _HINT.fullmatch(bare):
        raise ConfigError(
            f"the query hint {hint!r} holds more than names, quotes, commas and brackets (PHX_QUERY_HINT)"
        )
    return f"/*+ {bare} */ " if bare else ""


def edge_literal(edge: datetime, ts_units: str) -> str:
    """A window's edge as Phoenix reads it: a TIMESTAMP literal, or an integer for a time column of integers."""
    if ts_units == "timestamp":
        # Not strftime: %Y of a year before 1000 has no leading zeros on Linux.
        return f"TIMESTAMP '{edge.replace(tzinfo=None).isoformat(sep=' ', timespec='milliseconds')}'"
    milliseconds = int(edge.timestamp()) * 1_000
    return str(milliseconds // _UNIT_MS[ts_units])


def _condition(window: Window, ts_column: str, ts_units: str) -> str:
    column = quote_identifier(ts_column)
    since, until = edge_literal(window.start, ts_units), edge_literal(window.end, ts_units)
    return f"WHERE {column} >= {since} AND {column} < {until}"


def count_statement(table: str, window: Window, ts_column: str, ts_units: str, hint: str = "") -> str:
    """``SELECT COUNT(*)`` of the half-open window."""
    # S608: every name is quoted and checked, every value a number or a time of ours.
    return f"SELECT {checked_hint(hint)}COUNT(*) FROM {quote_table(table)} {_condition(window, ts_column, ts_units)}"  # noqa: S608


def read_statement(
    table: str,
    columns: Sequence[str],
    window: Window,
    ts_column: str,
    ts_units: str,
    hint: str = "",
    as_timestamp: frozenset[str] = frozenset(),
) -> str:
    """The window's rows. Columns in ``as_timestamp`` are cast: the protocol cuts a DATE to its day and a TIME to its
    hour.

    No ORDER BY: it costs a third more and nine times the wait for the first row (FACTS).
    """
    selected = (
        f"CAST({quote_identifier(name)} AS TIMESTAMP)" if name in as_timestamp else quote_identifier(name)
        for name in columns
    )
    condition = _condition(window, ts_column, ts_units)
    return f"SELECT {checked_hint(hint)}{', '.join(selected)} FROM {quote_table(table)} {condition}"  # noqa: S608
