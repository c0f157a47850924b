"""What a rebuild must show before it may replace anything: CLEAN is made of RAW alone, and RAW forgets."""

from __future__ import annotations

from collections.abc import Sequence

from etl_tasks.adapters.clickhouse import reading
from etl_tasks.adapters.clickhouse.buffers import Fence
from etl_tasks.adapters.clickhouse.client import Connection
from etl_tasks.adapters.clickhouse.identifiers import TableName
from etl_tasks.adapters.clickhouse.shard_work import ShardWork
from etl_tasks.core.publishing import PublishRequest
from etl_tasks.core.rebuilding import losses_not_agreed, minutes_of, rebuild_outlook
from etl_tasks.errors import TerminalError


def count_minutes(
    connection: Connection, fence: Fence, table: TableName, ts_column: str
) -> tuple[list[int], list[int]]:
    """One shard's rows of each minute of the day: in CLEAN, and in the ``table`` that is to replace it."""
    minutes = minutes_of(fence.partition)

    def count(each: TableName) -> list[int]:
        return reading.count_windows(connection, each.sql, ts_column, minutes, tag=fence.tag)

    return count(fence.clean), count(table)


def check_rebuild(request: PublishRequest, clean: TableName, shards: Sequence[ShardWork]) -> None:
    """Raise TerminalError unless RAW has as many keys as were agreed to, some on every shard where CLEAN has rows, and
    CLEAN loses rows only of windows that somebody has agreed to lose some of.

    Every shard's buffer has been checked, none has been put in place.
    """
    partition = request.partition
    if all(work.skipped for work in shards):
        raise TerminalError(
            f"RAW has no rows of {partition} on any shard: a rebuild would leave nothing, so CLEAN stays as it is"
        )
    for work in shards:
        if work.skipped and work.rows_before:
            # A REPLACE of nothing is refused, and a DROP could not be fenced against a newer publish.
            raise TerminalError(
                f"CLEAN has {work.rows_before} rows of {partition} on {work.connection.host} and RAW none: CLEAN stays "
                f"as it is; if those rows are to go, first run there: ALTER TABLE {clean} DROP PARTITION {partition}"
            )
    left = sum(work.rows_after for work in shards)
    if left < request.least_rows:
        raise TerminalError(
            f"RAW has {left} keys of {partition} by now, and had {request.least_rows} when the rebuild was asked for: "
            "its TTL has passed for some, so CLEAN stays as it is; ask again"
        )
    # By the same minutes as when it was asked for: what one hour has gained since must not hide what another has lost.
    there = [sum(rows) for rows in zip(*(work.minute_rows[0] for work in shards), strict=True)]
    coming = [sum(rows) for rows in zip(*(work.minute_rows[1] for work in shards), strict=True)]
    outlook = rebuild_outlook(partition, minutes_of(partition), there, coming)
    surplus = losses_not_agreed(outlook, request.lost)
    if surplus:
        raise TerminalError(
            f"RAW has fewer keys of {partition} than CLEAN has rows in {len(surplus)} windows (first {surplus[0]}) "
            "of which nothing was to go when the rebuild was asked for: its TTL has passed for some, so CLEAN stays "
            "as it is; ask again"
        )
