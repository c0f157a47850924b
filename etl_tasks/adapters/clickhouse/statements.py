"""How one publish puts its statements together and runs them: names, windows, limits, and counts that come back."""

from __future__ import annotations

from collections.abc import Mapping

from etl_tasks.adapters.clickhouse import publish_sql
from etl_tasks.adapters.clickhouse.buffers import Fence
from etl_tasks.adapters.clickhouse.client import Row, Setting, single
from etl_tasks.adapters.clickhouse.config import ClickHouseConfig
from etl_tasks.adapters.clickhouse.identifiers import TableName, beside_parameters, quote_name
from etl_tasks.adapters.clickhouse.shard_work import ShardWork
from etl_tasks.core.publishing import PublishRequest
from etl_tasks.core.windows import merge

ENOUGH_FOR_ANY_SIZE: Mapping[str, Setting] = {"max_table_size_to_drop": 0, "max_partition_size_to_drop": 0}
"""Buffers and partitions of more than 50 GB may go too: what replaces them has been checked."""

INSERT_BLOCK_BYTES = 64_000_000
"""A block of the buffer's INSERT, uncompressed; it is held some five times over while it is sorted and written.

Measured with 32 columns: 700 MB at this size, 480 MB at 16 MB, of which most are the columns' write buffers, and
1,650 MB at the server's own 256 MB.
"""

BLOCKS_A_BOUND = 32
"""PUBLISH_MAX_MEMORY_MB is divided by this for the size of a block, where that is less."""


class Statements:
    """The statements of one publish, for any of its shards."""

    def __init__(self, config: ClickHouseConfig, raw: TableName, fence: Fence, request: PublishRequest) -> None:
        self.config = config
        self.raw = raw
        self.fence = fence
        self.request = request
        self.ts = quote_name(config.ts_column)
        self.windows_sql = self._window_condition()

    def execute(
        self,
        work: ShardWork,
        sql: str,
        params: Mapping[str, int | str] | None = None,
        settings: Mapping[str, Setting] | None = None,
    ) -> list[Row]:
        """The rows of one statement on the shard, under the publish's tag and time limit."""
        limits: dict[str, Setting] = {
            "max_execution_time": self.config.publish_statement_timeout_s,
            **(settings or {}),
        }
        return work.connection.execute(sql, params, tag=self.fence.tag, settings=limits)

    def heavy(self) -> dict[str, Setting]:
        """The settings that bound a statement over many rows (PUBLISH_MAX_THREADS, PUBLISH_MAX_MEMORY_MB)."""
        settings: dict[str, Setting] = {}
        if self.config.publish_max_threads:
            settings["max_threads"] = self.config.publish_max_threads
        if self.config.publish_max_memory_bytes:
            settings["max_memory_usage"] = self.config.publish_max_memory_bytes
        return settings

    def inserting(self) -> dict[str, Setting]:
        """The same, and blocks whose size bounds the memory of an INSERT … SELECT whatever the number of rows."""
        most = self.config.publish_max_memory_bytes
        block_bytes = min(INSERT_BLOCK_BYTES, most // BLOCKS_A_BOUND) if most else INSERT_BLOCK_BYTES
        return {**self.heavy(), "min_insert_block_size_bytes": block_bytes}

    def of(self, statement: str) -> str:
        """A statement that names the tables and the partition and nothing else."""
        return statement.format(
            buffer=self.fence.buffer.sql,
            clean=self.fence.clean.sql,
            raw=self.raw.sql,
            partition=f"{self.request.partition:d}",
        )

    def count(self, work: ShardWork, statement: str, *, table: TableName) -> int:
        """The number that a counting statement over ``table`` answers."""
        sql = statement.format(
            table=table.sql,
            raw=table.sql,
            buffer=table.sql,
            ts=self.ts,
            key=beside_parameters(work.clean_facts.sorting_key),
            windows=self.windows_sql,
        )
        settings: dict[str, Setting] = {
            **self.heavy(),
            "optimize_aggregation_in_order": 1,
            "optimize_read_in_window_order": 1,
        }
        (count,) = single(self.execute(work, sql, {"partition": self.request.partition}, settings))
        return int(count)

    def parts(self, work: ShardWork) -> tuple[int, int]:
        """Parts and rows that the buffer has of the partition."""
        parts, rows = single(self.execute(work, publish_sql.PARTS, self.buffer_names()))
        return int(parts), int(rows)

    def buffer_names(self) -> dict[str, int | str]:
        """The buffer and the partition as parameters for questions to the catalog."""
        buffer = self.fence.buffer
        return {
            "database": buffer.database,
            "table": buffer.table,
            "partition": f"{self.request.partition:d}",
        }

    def _window_condition(self) -> str:
        if self.request.rebuild:
            return "1"
        windows = merge(loaded.window for loaded in self.request.windows)
        each = (
            publish_sql.WINDOW.format(ts=self.ts, start=f"{window.start_ms:d}", end=f"{window.end_ms:d}")
            for window in windows
        )
        return f"({' OR '.join(each)})" if windows else "0"
