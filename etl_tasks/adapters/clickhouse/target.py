"""The ``Target`` port: what the pipeline asks of ClickHouse, put together from this folder's modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

from etl_tasks.adapters.clickhouse import catalog_sql, reading
from etl_tasks.adapters.clickhouse.catalog import faults_here, table_columns
from etl_tasks.adapters.clickhouse.client import Connection, Failover, Row, probe, single
from etl_tasks.adapters.clickhouse.config import ClickHouseConfig, Host
from etl_tasks.adapters.clickhouse.identifiers import parse_table
from etl_tasks.adapters.clickhouse.insert import insert_batch
from etl_tasks.adapters.clickhouse.publish import PartitionPublish
from etl_tasks.adapters.clickhouse.topology import (
    TAG,
    RawTable,
    Shard,
    Topology,
    discover,
    locate_raw,
    pin,
    table_facts,
)
from etl_tasks.adapters.clickhouse.ttl import ttl_seconds
from etl_tasks.core.batch import ColumnBatch, TargetColumn
from etl_tasks.core.publishing import PublishRequest, PublishResult, StageMetric
from etl_tasks.core.windows import Window
from etl_tasks.errors import SchemaError, Unreachable

SIDE_TIMEOUT_S = 60.0
"""How long a publish waits for the short statements that clear the way on other replicas."""


class ClickHouseTarget:
    """ClickHouse behind ``CH_HOSTS``. One instance a thread; made after fork; the first call connects.

    ``tag`` begins the query id of every insert and read, so that ``kill_queries(tag)`` finds them: the run or slice.
    Statements of a publish begin with ``etl-publish-<CLEAN table>-`` instead.
    """

    def __init__(self, config: ClickHouseConfig, tag: str = "etl") -> None:
        self.tag = tag
        self._config = config
        self._failover = Failover(config)
        self._raw_table: RawTable | None = None

    def columns(self, table: str) -> Sequence[TargetColumn]:
        """The columns of ``database.table`` in order; raises SchemaError when the table is missing."""
        name = parse_table(table)
        columns = self._failover.run(lambda connection: table_columns(connection, name))
        if not columns:
            raise SchemaError(f"there is no table {table} in ClickHouse: run `python -m etl_tasks migrate`")
        return columns

    def check_tables(self, main_columns: Sequence[str], key: Sequence[str]) -> Sequence[TargetColumn]:
        """Check RAW, buffer and CLEAN on every shard; return RAW's columns. Raises SchemaError with all faults.

        ``key`` is the source's primary key: RAW and CLEAN must be sorted by these columns, in whatever order.
        """
        topology = discover(self._config, self._failover)
        faults: list[str] = []
        with ExitStack() as stack:
            for _, connection in self._pin_all(topology, stack):
                faults += faults_here(self._config, connection, topology.raw_local, main_columns, key)
        if faults:
            raise SchemaError("ClickHouse's tables do not fit: " + "; ".join(faults))
        return self.columns(self._config.raw_table)

    def datetime64_range_ms(self) -> tuple[int, int]:
        """The first and last millisecond that DateTime64(3) holds on this server."""
        first, last = single(
            self._failover.run(lambda connection: connection.execute(catalog_sql.DATETIME64_RANGE, tag=TAG))
        )
        return int(first), int(last)

    def clean_ttl_s(self) -> int | None:
        """Seconds for which CLEAN keeps a row by its own time; None for ever, or when its TTL is of another form."""
        clean = parse_table(self._config.clean_table)
        facts = self._failover.run(lambda connection: table_facts(connection, clean))
        return None if facts is None else ttl_seconds(facts.engine_full, self._config.ts_column)

    def insert(self, batch: ColumnBatch, version_ms: int) -> None:
        """Insert one block into RAW with ``ingested_at = version_ms`` for all rows; returns when every shard has it."""
        insert_batch(self._config, self._failover, self._raw(), batch, version_ms, tag=self.tag)

    def replicas(self) -> Sequence[str]:
        """The replica (``host:port``) of each shard that a publish would work on now. Raises Unreachable."""
        with ExitStack() as stack:
            pins = self._pin_all(discover(self._config, self._failover), stack)
            return [str(connection.host) for _, connection in pins]

    def publish(
        self,
        request: PublishRequest,
        *,
        checkpoint: Callable[[], None],
        before_replace: Callable[[], None],
        on_stage: Callable[[StageMetric], None],
        predecessor_replicas: Sequence[str] = (),
    ) -> PublishResult:
        """DESIGN's six steps for one partition on every shard; the callbacks run in this thread.

        ``predecessor_replicas`` are the replicas of the publish before, if it may still run: one of them that does not
        answer raises Unreachable. Raises LostOwnership, CountMismatch, or what the hosts said; on each
        shard CLEAN is as it was or as it is to be.
        """
        topology = discover(self._config, self._failover)
        with ExitStack() as stack:
            pins = self._pin_all(topology, stack)
            publish = PartitionPublish(self._config, topology, pins, request, self._connect, predecessor_replicas)
            return publish.run(checkpoint=checkpoint, before_replace=before_replace, on_stage=on_stage)

    def count_windows(self, table: str, windows: Sequence[Window]) -> list[int]:
        """The rows of each window in ``database.table``; RAW is counted without its repeats."""
        name, final = parse_table(table), self._has_repeats(table)
        return self._failover.run(
            lambda connection: reading.count_windows(
                connection, name.sql, self._config.ts_column, windows, tag=self.tag, final=final
            )
        )

    def rows(self, table: str, window: Window, columns: Sequence[str]) -> Iterator[Row]:
        """The window's rows in no order, times as milliseconds; of RAW the latest version of each key."""
        name = parse_table(table)
        types = {column.name: column.type for column in self.columns(table)}
        missing = [column for column in columns if column not in types]
        if missing:
            raise SchemaError(f"{table} has no column {', '.join(missing)}")
        expressions = [reading.in_milliseconds(column, types[column]) for column in columns]
        # self.columns found a host that answers; reading goes there, and is not repeated elsewhere once rows came.
        connection = self._failover.run(lambda answering: answering)
        yield from reading.rows(
            connection,
            name.sql,
            self._config.ts_column,
            window,
            expressions,
            tag=self.tag,
            final=self._has_repeats(table),
        )

    def kill_queries(self, tag: str) -> None:
        """End the queries whose id begins with ``tag`` on every host; raises Unreachable naming deaf ones."""
        if not tag.strip():
            raise ValueError("an empty tag would end every query of every user")
        deaf: list[str] = []
        for host, connection in self._failover.each():
            try:
                if isinstance(connection, Unreachable):
                    raise connection
                connection.execute(catalog_sql.KILL_BY_TAG, {"tag": tag}, tag="etl-kill")
            except Unreachable as error:
                self._failover.drop(host)
                deaf.append(str(error))
        if deaf:
            raise Unreachable(f"queries {tag}… may still run: {'; '.join(deaf)}")

    def interrupt(self) -> None:
        """From another thread: what waits for ClickHouse ends with Unreachable, and so does whatever comes after."""
        self._failover.interrupt()

    def close(self) -> None:
        """Drop the connections; never raises."""
        self._failover.close()

    def _connect(self, host: Host) -> Connection:
        probe(self._config, host)
        return Connection(self._config, host, read_timeout_s=SIDE_TIMEOUT_S, local=True)

    def _pin_all(self, topology: Topology, stack: ExitStack) -> list[tuple[Shard, Connection]]:
        pins = []
        for shard in topology.shards:
            connection = pin(self._config, topology, shard)
            stack.callback(connection.close)
            pins.append((shard, connection))
        return pins

    def _has_repeats(self, table: str) -> bool:
        return parse_table(table) in (parse_table(self._config.raw_table), self._raw().local)

    def _raw(self) -> RawTable:
        if self._raw_table is None:
            self._raw_table = locate_raw(self._config, self._failover)
        return self._raw_table
