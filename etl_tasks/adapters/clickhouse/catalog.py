"""The tables' columns, and whether RAW, buffer and CLEAN agree with each other and with ``MAIN_COLUMNS``."""

from __future__ import annotations

import re
from collections.abc import Sequence

from etl_tasks.adapters.clickhouse import catalog_sql
from etl_tasks.adapters.clickhouse.client import Connection, listed
from etl_tasks.adapters.clickhouse.config import ClickHouseConfig
from etl_tasks.adapters.clickhouse.identifiers import TableName, parse_table
from etl_tasks.adapters.clickhouse.topology import TAG, engine_arguments, table_facts
from etl_tasks.core.batch import TargetColumn


def table_columns(connection: Connection, table: TableName) -> list[TargetColumn]:
    """The columns of ``table`` on this host in order; empty when it is not there."""
    there = {"database": table.database, "table": table.table}
    rows = listed(connection.execute(catalog_sql.COLUMNS, there, tag=TAG))
    return [TargetColumn(name, type_, default_kind) for name, type_, default_kind in rows]


def insertable(column: TargetColumn) -> bool:
    """Whether an INSERT may name the column."""
    return column.default_kind not in ("ALIAS", "MATERIALIZED", "EPHEMERAL")


def stored(column: TargetColumn) -> bool:
    """Whether the column is part of the parts, which REPLACE needs alike on both sides."""
    return column.default_kind not in ("ALIAS", "EPHEMERAL")


def faults_here(
    config: ClickHouseConfig,
    connection: Connection,
    raw_local: TableName,
    main_columns: Sequence[str],
    key: Sequence[str],
) -> list[str]:
    """Everything on this host that would make an insert or a publish fail or lie, a sentence each."""
    tables = (raw_local, parse_table(config.dedup_buf_table), parse_table(config.clean_table))
    faults = column_faults(config, connection, raw_local, main_columns, key)
    if any(table_facts(connection, table) is None for table in tables):
        return faults
    return [*faults, *_engine_faults(config, connection, raw_local, parse_table(config.clean_table), key)]


def column_faults(
    config: ClickHouseConfig,
    connection: Connection,
    raw_local: TableName,
    main_columns: Sequence[str],
    key: Sequence[str],
) -> list[str]:
    """How the columns of RAW, buffer and CLEAN on this host differ from each other and from what is wanted."""
    clean, buffer = parse_table(config.clean_table), parse_table(config.dedup_buf_table)
    columns = {table: table_columns(connection, table) for table in (raw_local, buffer, clean)}
    at = f"on {connection.host}"
    missing = [f"there is no table {table} {at}" for table, there in columns.items() if not there]
    if missing:
        return missing
    faults: list[str] = []
    for table, there in columns.items():
        types = {column.name: column.type for column in there}
        wanted = [*main_columns, *(name for name in key if name not in main_columns), config.version_column]
        absent = [name for name in wanted if name not in types]
        if absent:
            faults.append(f"{table} {at} has no column {', '.join(absent)}")
        for name in (config.version_column, config.ts_column):
            if name in types and not re.fullmatch(r"DateTime64\(3, 'UTC'\)", types[name]):
                faults.append(f"{table}.{name} {at} is {types[name]}; it must be DateTime64(3, 'UTC')")
    faults += _differences(columns[buffer], columns[clean], f"{buffer} and {clean} {at}", names_too=True)
    faults += _differences(columns[raw_local], columns[clean], f"{raw_local} and {clean} {at}", names_too=False)
    return faults


def _differences(
    left: Sequence[TargetColumn], right: Sequence[TargetColumn], which: str, *, names_too: bool
) -> list[str]:
    one = {column.name: column.type for column in left if stored(column)}
    other = {column.name: column.type for column in right if stored(column)}
    faults = [
        f"{which} differ in {name}: {one[name]} and {other[name]}"
        for name in one
        if name in other and one[name] != other[name]
    ]
    if names_too and one.keys() != other.keys():
        faults.append(
            f"{which} must have the same columns; only one of them has {', '.join(sorted(one.keys() ^ other.keys()))}"
        )
    return faults


def _engine_faults(
    config: ClickHouseConfig,
    connection: Connection,
    raw_local: TableName,
    clean: TableName,
    key: Sequence[str],
) -> list[str]:
    faults: list[str] = []
    at = f"on {connection.host}"
    raw_facts, clean_facts = table_facts(connection, raw_local), table_facts(connection, clean)
    assert raw_facts is not None
    assert clean_facts is not None
    arguments = engine_arguments(raw_facts.engine_full)
    if not raw_facts.engine.endswith("ReplacingMergeTree") or config.version_column not in arguments:
        faults.append(
            f"{raw_local} {at} is {raw_facts.engine}({', '.join(arguments)}); "
            f"it must be ReplacingMergeTree({config.version_column})"
        )
    partition_key = f"toYYYYMMDD({config.ts_column})"
    for table, facts in ((raw_local, raw_facts), (clean, clean_facts)):
        if not facts.engine.endswith("MergeTree"):
            faults.append(f"{table} {at} is {facts.engine}; it must be of the MergeTree family")
        if facts.partition_key.replace("`", "") != partition_key:
            faults.append(
                f"{table} {at} is partitioned by {facts.partition_key or 'nothing'}; it must be {partition_key}"
            )
        if sorted(facts.sorted_by) != sorted(key):
            faults.append(
                f"{table} {at} is ordered by {facts.sorting_key or 'nothing'}; it must be ordered by the source's "
                f"primary key ({', '.join(key)}), in any order: else rows of two keys would become one, or one two"
            )
    return faults
