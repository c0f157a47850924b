"""The statements of ``ddl/stg_daily_codes_history.sql`` with another table's columns, key and time column in them.

The file stays the one definition of engines, order of statements and settings; here its columns are replaced.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

from etl_tasks.adapters.clickhouse.identifiers import quote_name, quote_names
from etl_tasks.core.target_table import VERSION_COLUMN, TargetTable
from etl_tasks.errors import SchemaError

_COLUMNS: Final = re.compile(r"(?<=\n)\(\n    c String,.*?\n\)(?=\nENGINE)", re.DOTALL)
_CLEAN_TTL: Final = re.compile(r"\nTTL toDateTime\(opd\) \+ INTERVAL \d+ DAY DELETE")
_REPLACED: Final[tuple[tuple[str, Callable[[TargetTable], str]], ...]] = (
    ("toYYYYMMDD(opd)", lambda table: f"toYYYYMMDD({quote_name(table.ts_column)})"),
    ("ORDER BY (c, opd, t)", lambda table: f"ORDER BY ({quote_names(table.key)})"),
    ("cityHash64(c)", lambda table: f"cityHash64({quote_names(table.sharded_by)})"),
)


def for_table(rendered: Sequence[str], table: TargetTable, clean_ttl_days: int | None = None) -> list[str]:
    """The ``rendered`` statements of the file for ``table``. CLEAN keeps its rows for ever unless ``clean_ttl_days``
    says for how many days by their own time: what is loaded first is usually the past.

    Raises SchemaError when the file no longer has what is to be replaced.
    """
    text = "\0".join(rendered)
    for pattern, _ in _REPLACED:
        # One plain node has no Distributed table, and so no sharding.
        if pattern not in text and ("Distributed(" in text or not pattern.startswith("cityHash64")):
            raise SchemaError(
                f"ddl/stg_daily_codes_history.sql has no {pattern} any more, which is replaced by {__name__}"
            )
    done = []
    for statement in rendered:
        # The names of the table's own columns come last: nothing in them may be taken for the file's.
        columns = _COLUMNS.search(statement)
        parts = [statement] if columns is None else [statement[: columns.start()], statement[columns.end() :]]
        parts = [_replaced(part, table, clean_ttl_days) for part in parts]
        done.append(_columns(table).join(parts))
    if not any(_COLUMNS.search(statement) for statement in rendered):
        raise SchemaError(f"ddl/stg_daily_codes_history.sql has no list of columns any more that {__name__} knows")
    return done


def _replaced(text: str, table: TargetTable, clean_ttl_days: int | None) -> str:
    ttl = ""
    if clean_ttl_days is not None:
        ttl = f"\nTTL toDateTime({quote_name(table.ts_column)}) + INTERVAL {clean_ttl_days:d} DAY DELETE"
    replacements = {pattern: make(table) for pattern, make in _REPLACED}
    either = "|".join([_CLEAN_TTL.pattern, *map(re.escape, replacements)])
    # In one pass, so that what was put in is not looked at again.
    return re.sub(either, lambda found: replacements.get(found[0], ttl), text)


def _columns(table: TargetTable) -> str:
    lines = [f"    {quote_name(name)} {type_}" for name, type_ in table.columns]
    lines.append(f"    {VERSION_COLUMN} DateTime64(3, 'UTC') DEFAULT now64(3)")
    return "(\n" + ",\n".join(lines) + "\n)"
