"""A batch becomes one block in RAW, on every shard before the call returns."""

from __future__ import annotations

import numpy as np

from etl_tasks.adapters.clickhouse.client import Connection, Failover, Setting
from etl_tasks.adapters.clickhouse.config import ClickHouseConfig
from etl_tasks.adapters.clickhouse.identifiers import quote_names
from etl_tasks.adapters.clickhouse.topology import RawTable
from etl_tasks.core.batch import ColumnBatch
from etl_tasks.core.columns import Column, IntegerColumn
from etl_tasks.errors import TerminalError

# Rows of one batch; the block follows.
INSERT = "INSERT INTO {table} ({columns}) VALUES"


def insert_settings(config: ClickHouseConfig, raw: RawTable) -> dict[str, Setting]:
    """How an insert is done: in the foreground, synchronously, without deduplication of our blocks."""
    settings: dict[str, Setting] = {
        # The default queues rows on the initiator: a publish would miss them.
        "distributed_foreground_insert": 1,
        "async_insert": 0,
        # The same block may come again after its rows were removed; it is a repeat that RAW sorts out itself.
        "insert_deduplicate": 0,
        # Half of what an insert costs the server (8.6 µs of CPU a row of 32 columns, 3.6 without), for repeats within
        # one block, which a window hardly has; a publish sorts them out with the others.
        "optimize_on_insert": 0,
    }
    if raw.replicated and config.insert_quorum not in ("", "0"):
        settings["insert_quorum"] = config.insert_quorum
    return settings


def insert_batch(
    config: ClickHouseConfig, failover: Failover, raw: RawTable, batch: ColumnBatch, version_ms: int, *, tag: str
) -> None:
    """Insert ``batch`` with ``version_ms`` as the version of every row; a repeat after a failover does no harm."""
    if not batch.rows:
        return
    lengths = {name: len(column) for name, column in zip(batch.names, batch.columns, strict=True)}
    uneven = {name: length for name, length in lengths.items() if length != batch.rows}
    if uneven:
        raise TerminalError(f"a batch of {batch.rows} rows has columns of other lengths: {uneven}")
    columns: list[Column] = [*batch.columns, IntegerColumn(np.full(batch.rows, version_ms, dtype=np.int64))]
    names = quote_names([*batch.names, config.version_column])
    sql = INSERT.format(table=raw.insert_into.sql, columns=names)
    settings = insert_settings(config, raw)

    def send(connection: Connection) -> None:
        connection.insert(sql, columns, tag=tag, settings=settings)

    failover.run(send)
