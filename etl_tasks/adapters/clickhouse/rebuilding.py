"""What a rebuild must show before it may replace anything: CLEAN is made of RAW alone, and RAW forgets."""

from __future__ import annotations

from collections.abc import Sequence

from etl_tasks.adapters.clickhouse.identifiers import TableName
from etl_tasks.adapters.clickhouse.shard_work import ShardWork
from etl_tasks.core.publishing import PublishRequest
from etl_tasks.errors import TerminalError


def check_rebuild(request: PublishRequest, clean: TableName, shards: Sequence[ShardWork]) -> None:
    """Raise TerminalError unless RAW has as many keys as were agreed to, and some on every shard where CLEAN has rows.

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
