"""The table's columns as Phoenix's catalog tells them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from etl_tasks.adapters.phoenix.connection import QueryServerConnection
from etl_tasks.adapters.phoenix.decode import cell_value, decodable
from etl_tasks.adapters.phoenix.settings import PhoenixConfig
from etl_tasks.adapters.phoenix.sql import split_table
from etl_tasks.core.batch import SourceColumn, key_columns
from etl_tasks.errors import SchemaError

CAST_TYPES: Final = frozenset({"DATE", "TIME", "UNSIGNED_DATE", "UNSIGNED_TIME"})
"""Read through CAST(… AS TIMESTAMP): Avatica cuts a DATE to its day and a TIME to its time of day, Phoenix holds both
whole.
"""
_TIME_TYPES: Final = CAST_TYPES | {"TIMESTAMP", "UNSIGNED_TIMESTAMP"}
_ASKED: Final = (
    "TABLE_SCHEM", "TABLE_NAME", "COLUMN_NAME", "TYPE_NAME", "KEY_SEQ", "COLUMN_SIZE", "DECIMAL_DIGITS", "NULLABLE",
)  # fmt: skip
NOT_NULL: Final = 0
"""In NULLABLE, as JDBC's DatabaseMetaData.columnNoNulls."""
_INTEGER_TYPES: Final = frozenset({"BIGINT", "UNSIGNED_LONG", "INTEGER", "UNSIGNED_INT"})


@dataclass(frozen=True, slots=True)
class TableColumns:
    """``columns`` as the port gives them, ``read_as`` with the types the read statement returns, ``cast`` by name;
    ``key`` is the whole primary key in its order.
    """

    columns: tuple[SourceColumn, ...]
    read_as: tuple[SourceColumn, ...]
    cast: frozenset[str]
    key: tuple[str, ...]


def read_columns(connection: QueryServerConnection, config: PhoenixConfig) -> TableColumns:
    """Ask for the table's columns and check the configured ones; raises SchemaError with all faults at once.

    The metadata call is used, not SELECT from SYSTEM.CATALOG, because that does not hold the columns a view inherits.
    """
    _, table = split_table(config.table)
    found = {column.name: column for column in all_columns(connection, config)}
    faults = []
    missing = [name for name in config.columns if name not in found]
    if missing:
        faults.append(
            f"Undefined column {', '.join(f'{table}.{name}' for name in missing)}: MAIN_COLUMNS must name columns of "
            f"the table in their own case; it has {', '.join(found)}"
        )
    unreadable = [name for name in config.columns if name in found and not decodable(found[name].type)]
    if unreadable:
        faults.append(
            "the Query Server cannot send "
            + ", ".join(f"{name} ({found[name].type})" for name in unreadable)
            + ": leave it out of MAIN_COLUMNS"
        )
    time_column = found.get(config.ts_column)
    if time_column is not None:
        faults += _time_faults(time_column, config)
    if faults:
        raise SchemaError(f"{config.place}: " + "; ".join(faults))
    known = tuple(found[name] for name in config.columns)
    cast = frozenset(column.name for column in known if column.type in CAST_TYPES)
    shown = tuple(
        SourceColumn(column.name, "TIMESTAMP", column.key_position) if column.name == config.ts_column else column
        for column in known
    )
    return TableColumns(shown, known, cast, key_columns(found.values()))


def all_columns(connection: QueryServerConnection, config: PhoenixConfig) -> list[SourceColumn]:
    """Every column of ``config.table`` in its order, whatever is configured; raises SchemaError for no such table.

    A name in two column families comes twice.
    """
    schema, table = split_table(config.table)
    columns = list(_ask(connection, config, schema, table))
    if not columns:
        raise SchemaError(
            f"Table undefined: Phoenix has no table {config.place}: "
            "write its name in its own case, with its schema (HBASE_MAIN_TABLE, or ddl --from-source)"
        )
    return columns


def _time_faults(column: SourceColumn, config: PhoenixConfig) -> Iterable[str]:
    if column.key_position is None:
        yield f"the time column {column.name} is not in the primary key: a row whose time changes would become two rows"
    wanted = _TIME_TYPES if config.ts_units == "timestamp" else _INTEGER_TYPES
    if column.type not in wanted:
        yield f"the time column {column.name} is {column.type}, which does not go with PHX_TS_UNITS={config.ts_units}"


def _ask(connection: QueryServerConnection, config: PhoenixConfig, schema: str, table: str) -> Iterable[SourceColumn]:
    """Every column of the table, in its order."""
    context = f"asking for the columns of {config.place}"

    def ask(requests_pb2: Any, connection_id: str) -> Any:
        # The names are LIKE patterns, so `_` fits any letter: the answer is filtered below.
        return requests_pb2.ColumnsRequest(connection_id=connection_id, schema_pattern=schema, table_name_pattern=table)

    for signature, rows in connection.metadata(ask, "ResultSetResponse", context):
        position = {column.label or column.column_name: index for index, column in enumerate(signature.columns)}
        wanted = [position[name] for name in _ASKED]
        for row in rows:
            in_schema, in_table, name, type_name, key_position, size, scale, nullable = (
                cell_value(row.value[index]) for index in wanted
            )
            if (in_schema or "") == schema and in_table == table and name is not None:
                yield SourceColumn(name, type_name, key_position or None, size, scale, nullable != NOT_NULL)
