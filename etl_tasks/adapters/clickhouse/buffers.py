"""The fence: buffers of publishes are named by partition and token, and whoever is newer drops what older ones left."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

import structlog

from etl_tasks.adapters.clickhouse import publish_sql
from etl_tasks.adapters.clickhouse.client import Connection, listed
from etl_tasks.adapters.clickhouse.config import ClickHouseConfig
from etl_tasks.adapters.clickhouse.identifiers import TableName, parse_table
from etl_tasks.errors import NewerPublish, ResourceExhausted

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Fence:
    """The names that one publish goes by: its buffer and the tag of its statements."""

    template: TableName
    clean: TableName
    partition: int
    token: int

    @classmethod
    def of(cls, config: ClickHouseConfig, partition: int, token: int) -> Fence:
        """The fence of a publish of CLEAN's ``partition`` under ``token``."""
        return cls(parse_table(config.dedup_buf_table), parse_table(config.clean_table), partition, token)

    @property
    def buffer(self) -> TableName:
        """``<buf>_<partition>_<token>``: an older holder's REPLACE finds no such table once a newer one came."""
        return TableName(self.template.database, f"{self.template.table}_{self.partition:d}_{self.token:d}")

    @property
    def tag_of_table(self) -> str:
        """What the query ids of all publishes of this CLEAN table begin with."""
        return f"etl-publish-{self.clean}-"

    @property
    def tag(self) -> str:
        """What the query ids of this publish begin with."""
        return f"{self.tag_of_table}{self.partition:d}-{self.token:d}"

    def token_of_buffer(self, name: str) -> int | None:
        """The token in a buffer's name, None when the table is no buffer of a publish."""
        found = re.fullmatch(re.escape(self.template.table) + r"_\d+_(\d{1,18})", name)
        return int(found[1]) if found else None

    def token_of_query(self, query_id: str) -> int | None:
        """The token in a query id, None when the statement is none of a publish of this table."""
        found = re.fullmatch(re.escape(self.tag_of_table) + r"\d+-(\d+)-[0-9a-f]+", query_id)
        return int(found[1]) if found else None


def drop_older(connection: Connection, fence: Fence, drain_timeout_s: float) -> None:
    """Drop the buffers of all older publishes on this host, then end their statements and wait until none is left.

    In this order: a statement that is not yet there finds no buffer, one that is already there is ended and waited for.
    Raises NewerPublish when a newer publish has been here, ResourceExhausted when a statement does not end in time.
    """
    there = {"database": fence.template.database, "prefix": f"{fence.template.table}_"}
    for name in listed(connection.execute(publish_sql.BUFFERS, there, tag=fence.tag)):
        token = fence.token_of_buffer(name)
        if token is None:
            continue
        if token > fence.token:
            raise NewerPublish(
                f"a newer publish of {fence.clean} (token {token}, ours is {fence.token}) works on {connection.host}",
                token,
            )
        buffer = TableName(fence.template.database, name)
        connection.execute(
            publish_sql.DROP_BUFFER.format(buffer=buffer.sql), tag=fence.tag, settings={"max_table_size_to_drop": 0}
        )
        log.info("older_buffer_dropped", buffer=name, host=str(connection.host))
    end_statements(connection, fence, drain_timeout_s, below=fence.token)


def end_statements(connection: Connection, fence: Fence, drain_timeout_s: float, *, below: int) -> None:
    """Kill this CLEAN table's publishes with tokens less than ``below`` on this host, and wait until they are gone."""
    deadline = time.monotonic() + drain_timeout_s
    pause = 0.02
    while True:
        running = listed(
            connection.execute(publish_sql.RUNNING_PUBLISHES, {"prefix": fence.tag_of_table}, tag="etl-drain")
        )
        older = [query for query in running if (token := fence.token_of_query(query)) is not None and token < below]
        if not older:
            return
        if time.monotonic() > deadline:
            raise ResourceExhausted(
                f"statements of an older publish still run on {connection.host} after {drain_timeout_s:.0f} s: "
                f"{', '.join(sorted(older))}"
            )
        # Not SYNC: it would wait without an end. A repeated KILL does no harm.
        connection.execute(publish_sql.KILL, {"ids": older}, tag="etl-drain")
        time.sleep(pause)
        pause = min(pause * 2, 1.0)
