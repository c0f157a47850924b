"""One shard's part of a publish: who works on it and what has been found out so far."""

from __future__ import annotations

from dataclasses import dataclass, field

from etl_tasks.adapters.clickhouse.client import Connection
from etl_tasks.adapters.clickhouse.topology import Shard, TableFacts
from etl_tasks.core.publishing import ShardOutcome


@dataclass(slots=True)
class ShardWork:
    """One shard's part of a publish, and what is known of it so far.

    ``new_rows`` are those that RAW has of the windows, repeats and all. ``minute_rows``, of a rebuild: the rows of each
    minute of the day in CLEAN and in what is to replace it. ``side`` is a connection to another replica of the shard.
    """

    shard: Shard
    connection: Connection
    clean_facts: TableFacts
    raw_facts: TableFacts
    new_rows: int = 0
    rows_before: int = 0
    rows_after: int = 0
    skipped: bool = False
    has_buffer: bool = False
    window_rows: list[int] = field(default_factory=list)
    minute_rows: tuple[list[int], list[int]] = ([], [])
    side: Connection | None = None

    def interrupt(self) -> None:
        """From another thread: what the shard's thread waits for ends, and it begins nothing more."""
        for connection in (self.connection, self.side):
            if connection is not None:
                connection.interrupt()

    def outcome(self) -> ShardOutcome:
        """The values of the report."""
        return ShardOutcome(
            self.shard.number, str(self.connection.host), self.rows_before, self.rows_after, self.skipped
        )
