"""RAW → CLEAN for one partition, on every shard, in the order of DESIGN's Publish.

A stage runs on all shards side by side, each with a connection of its own; callbacks of the caller run in the caller's
thread only. Nothing touches CLEAN before every shard's buffer has been checked and ``before_replace`` has agreed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import structlog

from etl_tasks.adapters.clickhouse import publish_sql, reading
from etl_tasks.adapters.clickhouse.buffers import Fence, drop_older, end_statements
from etl_tasks.adapters.clickhouse.catalog import insertable, table_columns
from etl_tasks.adapters.clickhouse.client import Connection, Row, Setting, probe, single
from etl_tasks.adapters.clickhouse.config import ClickHouseConfig, Host
from etl_tasks.adapters.clickhouse.errors import ErrorCode, code_of
from etl_tasks.adapters.clickhouse.identifiers import TableName, beside_parameters, quote_name, quote_names, quote_text
from etl_tasks.adapters.clickhouse.rebuilding import check_rebuild, count_minutes
from etl_tasks.adapters.clickhouse.shard_work import ShardWork
from etl_tasks.adapters.clickhouse.stages import Stages
from etl_tasks.adapters.clickhouse.topology import Shard, Topology, table_facts
from etl_tasks.core.publishing import LoadedWindow, PublishRequest, PublishResult, StageMetric
from etl_tasks.core.windows import merge
from etl_tasks.errors import (
    CountMismatch,
    EtlError,
    LostOwnership,
    ResourceExhausted,
    SchemaError,
    TransientError,
    Unreachable,
)
from etl_tasks.failpoints import Failpoint, reach

log = structlog.get_logger(__name__)

SIGNS_OF_A_NEWER_PUBLISH = (ErrorCode.UNKNOWN_TABLE, ErrorCode.TABLE_IS_DROPPED, ErrorCode.QUERY_WAS_CANCELLED)

OPTIMIZE_TRIES = 5
"""A background merge may be in OPTIMIZE's way; it ends."""

ENOUGH_FOR_ANY_SIZE: Mapping[str, Setting] = {"max_table_size_to_drop": 0, "max_partition_size_to_drop": 0}
"""Buffers and partitions of more than 50 GB may go too: what replaces them has been checked."""


class PartitionPublish:
    """One publish of one partition. Made for one call of ``run``."""

    def __init__(
        self,
        config: ClickHouseConfig,
        topology: Topology,
        pins: Sequence[tuple[Shard, Connection]],
        request: PublishRequest,
        connect: Callable[[Host], Connection],
        predecessor_replicas: Sequence[str],
    ) -> None:
        self._config = config
        self._raw = topology.raw_local
        self._request = request
        self._fence = Fence.of(config, request.partition, request.token)
        self._connect = connect
        self._predecessor_replicas = frozenset(predecessor_replicas)
        self._ts = quote_name(config.ts_column)
        self._windows_sql = self._window_condition()
        self._work = [self._start(shard, connection) for shard, connection in pins]
        self._stages: list[StageMetric] = []
        self._abandoned = threading.Event()

    def run(
        self,
        *,
        checkpoint: Callable[[], None],
        before_replace: Callable[[], None],
        on_stage: Callable[[StageMetric], None],
    ) -> PublishResult:
        """All steps; see ``Target.publish``. On any failure the buffers go and CLEAN is as the last REPLACE left it."""
        with ThreadPoolExecutor(max_workers=len(self._work), thread_name_prefix="publish") as pool:
            stages = Stages(pool, self._request.partition, on_stage, self._stages, self._answers)
            try:
                short = self._prepare(stages, checkpoint)
                if not short:
                    before_replace()
                    self._replace(stages)
            except BaseException:
                self._abandon()
                raise
            if short:
                stages.run("drop_buf_cleanup", self._owned("drop_buf_cleanup", self._drop_buffer), self._active())
        return PublishResult(tuple(work.outcome() for work in self._work), tuple(self._stages), tuple(short))

    def _prepare(self, stages: Stages[ShardWork], checkpoint: Callable[[], None]) -> list[LoadedWindow]:
        """Everything up to the check; returns the windows that fall short."""
        checkpoint()
        stages.run("drop_buf", self._owned("drop_buf", self._drop_older), self._work, checkpoint)
        stages.run("attach_clean", self._owned("attach_clean", self._attach_clean), self._work, checkpoint)
        stages.run("insert_dedup", self._owned("insert_dedup", self._insert_new), self._active(), checkpoint)
        stages.run("optimize_buf", self._owned("optimize_buf", self._optimize), self._active(), checkpoint)
        stages.run("check", self._owned("check", self._check), self._work, checkpoint)
        if self._request.rebuild:
            check_rebuild(self._request, self._fence.clean, self._work)
        totals = [sum(counts) for counts in zip(*(work.window_rows for work in self._work), strict=True)]
        short = [
            loaded for loaded, rows in zip(self._request.windows, totals, strict=True) if rows < loaded.distinct_rows
        ]
        for loaded, rows in zip(self._request.windows, totals, strict=True):
            if rows < loaded.distinct_rows:
                log.warning("window_fell_short", window=str(loaded.window), keys=rows, keys_loaded=loaded.distinct_rows)
        return short

    def _replace(self, stages: Stages[ShardWork]) -> None:
        stages.run("replace_clean", self._owned("replace_clean", self._replace_partition), self._active())
        stages.run("materialize_ttl", self._owned("materialize_ttl", self._materialize_ttl), self._active())
        stages.run("drop_buf_cleanup", self._owned("drop_buf_cleanup", self._drop_buffer_quietly), self._active())

    def _active(self) -> list[ShardWork]:
        return [work for work in self._work if not work.skipped]

    def _owned(self, stage: str, step: Callable[[ShardWork], None]) -> Callable[[ShardWork], None]:
        """``step``, which raises LostOwnership when it fails because a newer publish dropped our buffer."""

        def run(work: ShardWork) -> None:
            try:
                self._reach(stage, "before", work)
                step(work)
                self._reach(stage, "after", work)
            except EtlError as error:
                if code_of(error) in SIGNS_OF_A_NEWER_PUBLISH and work.has_buffer:
                    self._require_buffer(work, error)
                raise

        return run

    def _reach(self, stage: str, when: str, work: ShardWork) -> None:
        partition, token = self._request.partition, self._request.token
        reach(
            Failpoint.PUBLISH_STAGE,
            partition=partition,
            token=token,
            stage=stage,
            when=when,
            shard=work.shard.number,
        )

    def _require_buffer(self, work: ShardWork, error: EtlError | None = None) -> None:
        if table_facts(work.connection, self._fence.buffer) is None:
            raise LostOwnership(
                f"{self._fence.buffer} is gone on {work.connection.host}: a newer publish dropped it"
            ) from error

    # --- one shard's steps, each in a thread of its own

    def _drop_older(self, work: ShardWork) -> None:
        for host in work.shard.replicas:
            if host == work.connection.host:
                drop_older(work.connection, self._fence, self._config.publish_drain_timeout_s)
                continue
            other: Connection | None = None
            try:
                other = self._connect(host)
                drop_older(other, self._fence, self._config.publish_drain_timeout_s)
            except Unreachable as error:
                if str(host) in self._predecessor_replicas:
                    raise Unreachable(
                        f"an earlier publish worked on {host}, which must be asked before the next one: {error}"
                    ) from error
                log.warning("replica_not_asked", host=str(host), error=str(error))
            finally:
                if other is not None:
                    other.close()
        for table, facts in ((self._raw, work.raw_facts), (self._fence.clean, work.clean_facts)):
            if facts.replicated:
                self._execute(work, publish_sql.SYNC_REPLICA.format(table=table.sql))

    def _attach_clean(self, work: ShardWork) -> None:
        new = self._count(work, publish_sql.COUNT_NEW, table=self._raw)
        if not new:
            work.skipped = True
            work.rows_before = work.rows_after = self._count(work, publish_sql.COUNT_PARTITION, table=self._fence.clean)
            return
        facts = work.clean_facts
        self._execute(
            work,
            publish_sql.CREATE_BUFFER.format(
                buffer=self._fence.buffer.sql,
                template=self._fence.template.sql,
                version=quote_name(self._config.version_column),
                partition_key=facts.partition_key,
                primary_key=facts.primary_key,
                sorting_key=facts.sorting_key,
                storage_policy=quote_text(facts.storage_policy or "default"),
            ),
        )
        work.has_buffer = True
        if self._request.rebuild:
            work.rows_before = self._count(work, publish_sql.COUNT_PARTITION, table=self._fence.clean)
            return
        self._execute(work, self._sql(publish_sql.ATTACH))
        # Counted in the buffer: CLEAN's own rows may expire at any time.
        work.rows_before = self._count(work, publish_sql.COUNT_PARTITION, table=self._fence.buffer)

    def _insert_new(self, work: ShardWork) -> None:
        columns = self._columns(work)
        sql = publish_sql.INSERT_NEW.format(
            buffer=self._fence.buffer.sql,
            columns=quote_names(columns),
            raw=self._raw.sql,
            ts=self._ts,
            windows=self._windows_sql,
        )
        self._execute(work, sql, {"partition": self._request.partition}, self._heavy())
        if self._parts(work) == (0, 0):
            self._require_buffer(work)
            # RAW's rows expired between the count and the read, and CLEAN has none.
            work.skipped = True
            self._drop_buffer(work)

    def _optimize(self, work: ShardWork) -> None:
        for attempt in range(1, OPTIMIZE_TRIES + 1):
            try:
                self._execute(
                    work, self._sql(publish_sql.OPTIMIZE), settings={**self._heavy(), "optimize_throw_if_noop": 1}
                )
            except ResourceExhausted as error:
                if code_of(error) != ErrorCode.CANNOT_ASSIGN_OPTIMIZE or attempt == OPTIMIZE_TRIES:
                    raise
                log.info("optimize_repeated", host=str(work.connection.host), error=str(error))
            parts, _ = self._parts(work)
            if parts == 1:
                return
            self._require_buffer(work)
            time.sleep(min(0.1 * 2**attempt, 2.0))
        raise ResourceExhausted(f"OPTIMIZE FINAL left {parts} parts in {self._fence.buffer} on {work.connection.host}")

    def _check(self, work: ShardWork) -> None:
        table = self._fence.clean if work.skipped else self._fence.buffer
        work.window_rows = reading.count_windows(
            work.connection,
            table.sql,
            self._config.ts_column,
            [loaded.window for loaded in self._request.windows],
            tag=self._fence.tag,
        )
        if self._request.rebuild:
            work.minute_rows = count_minutes(work.connection, self._fence, table, self._config.ts_column)
        if work.skipped:
            return
        where = f"{self._request.partition} on {work.connection.host}"
        work.rows_after = self._count(work, publish_sql.COUNT_PARTITION, table=self._fence.buffer)
        repeated = self._count(work, publish_sql.REPEATED_KEYS, table=self._fence.buffer)
        if repeated:
            raise CountMismatch(
                f"the buffer of {where} has {repeated} keys in more than one row: CLEAN was left as it was"
            )
        if self._request.rebuild or work.rows_after >= work.rows_before:
            return
        keys = self._count(work, publish_sql.DISTINCT_KEYS, table=self._fence.clean)
        if work.rows_after < keys:
            raise CountMismatch(
                f"CLEAN has {keys} keys of {where} and the buffer only {work.rows_after}: CLEAN was left as it was"
            )
        log.warning("clean_repeats_removed", host=str(work.connection.host), rows_before=work.rows_before, keys=keys)

    def _replace_partition(self, work: ShardWork) -> None:
        try:
            self._execute(work, self._sql(publish_sql.REPLACE), settings={"alter_sync": 1, **ENOUGH_FOR_ANY_SIZE})
        except TransientError as error:
            if code_of(error) != ErrorCode.UNFINISHED:
                raise
            log.warning("replace_applied_on_one_replica", host=str(work.connection.host), error=str(error))
        rows = self._count(work, publish_sql.COUNT_PARTITION, table=self._fence.clean)
        if rows != work.rows_after:
            raise TransientError(
                f"CLEAN has {rows} rows of {self._request.partition} on {work.connection.host} after REPLACE, "
                f"the buffer had {work.rows_after}: publish again"
            )

    def _materialize_ttl(self, work: ShardWork) -> None:
        if work.clean_facts.has_ttl:
            self._execute(work, self._sql(publish_sql.MATERIALIZE_TTL), settings={"mutations_sync": 0, "alter_sync": 1})

    def _drop_buffer(self, work: ShardWork) -> None:
        self._execute(
            work, publish_sql.DROP_BUFFER_NOW.format(buffer=self._fence.buffer.sql), settings=ENOUGH_FOR_ANY_SIZE
        )

    def _drop_buffer_quietly(self, work: ShardWork) -> None:
        """After the REPLACE the buffer is only litter: the next publish drops it when this one cannot."""
        try:
            self._drop_buffer(work)
        except EtlError as error:
            log.warning("buffer_left", buffer=str(self._fence.buffer), error=str(error))

    # --- what the steps are made of

    def _answers(self, work: ShardWork) -> None:
        probe(self._config, work.connection.host)

    def _start(self, shard: Shard, connection: Connection) -> ShardWork:
        clean, raw = table_facts(connection, self._fence.clean), table_facts(connection, self._raw)
        if clean is None or raw is None:
            raise SchemaError(
                f"ClickHouse {connection.host} has no {self._fence.clean} or {self._raw}: "
                "run `python -m etl_tasks migrate`"
            )
        if sorted(clean.sorted_by) != sorted(raw.sorted_by):
            raise SchemaError(
                f"{self._fence.clean} on {connection.host} is ordered by {clean.sorting_key}, but {self._raw} by "
                f"{raw.sorting_key}: both must be ordered by the source's primary key"
            )
        return ShardWork(shard, connection, clean, raw)

    def _execute(
        self,
        work: ShardWork,
        sql: str,
        params: Mapping[str, int | str] | None = None,
        settings: Mapping[str, Setting] | None = None,
    ) -> list[Row]:
        limits: dict[str, Setting] = {
            "max_execution_time": self._config.publish_statement_timeout_s,
            **(settings or {}),
        }
        return work.connection.execute(sql, params, tag=self._fence.tag, settings=limits)

    def _heavy(self) -> dict[str, Setting]:
        settings: dict[str, Setting] = {}
        if self._config.publish_max_threads:
            settings["max_threads"] = self._config.publish_max_threads
        if self._config.publish_max_memory_bytes:
            settings["max_memory_usage"] = self._config.publish_max_memory_bytes
        return settings

    def _sql(self, statement: str) -> str:
        return statement.format(
            buffer=self._fence.buffer.sql, clean=self._fence.clean.sql, partition=f"{self._request.partition:d}"
        )

    def _count(self, work: ShardWork, statement: str, *, table: TableName) -> int:
        sql = statement.format(
            table=table.sql,
            raw=table.sql,
            buffer=table.sql,
            ts=self._ts,
            key=beside_parameters(work.clean_facts.sorting_key),
            windows=self._windows_sql,
        )
        settings: dict[str, Setting] = {**self._heavy(), "optimize_aggregation_in_order": 1}
        (count,) = single(self._execute(work, sql, {"partition": self._request.partition}, settings))
        return int(count)

    def _parts(self, work: ShardWork) -> tuple[int, int]:
        buffer = self._fence.buffer
        names: dict[str, int | str] = {
            "database": buffer.database,
            "table": buffer.table,
            "partition": f"{self._request.partition:d}",
        }
        parts, rows = single(self._execute(work, publish_sql.PARTS, names))
        return int(parts), int(rows)

    def _columns(self, work: ShardWork) -> list[str]:
        """The columns that are copied: all of the buffer's that are stored and not computed. RAW must have them."""
        there = {column.name for column in table_columns(work.connection, self._raw)}
        wanted = [column for column in table_columns(work.connection, self._fence.buffer) if insertable(column)]
        if not wanted:
            self._require_buffer(work)
        missing = [column.name for column in wanted if column.name not in there and column.default_kind != "DEFAULT"]
        if missing:
            raise SchemaError(
                f"{self._raw} on {work.connection.host} lacks {', '.join(missing)}, which {self._fence.clean} has"
            )
        return [column.name for column in wanted if column.name in there]

    def _window_condition(self) -> str:
        if self._request.rebuild:
            return "1"
        windows = merge(loaded.window for loaded in self._request.windows)
        each = (
            publish_sql.WINDOW.format(ts=self._ts, start=f"{window.start_ms:d}", end=f"{window.end_ms:d}")
            for window in windows
        )
        return f"({' OR '.join(each)})" if windows else "0"

    def _abandon(self) -> None:
        """End what still runs of this publish and drop its buffers where hosts answer; the next one does the rest."""
        self._abandoned.set()
        for work in self._work:
            other: Connection | None = None
            try:
                other = self._connect(work.connection.host)
                end_statements(other, self._fence, 5.0, below=self._fence.token + 1)
                drop = publish_sql.DROP_BUFFER.format(buffer=self._fence.buffer.sql)
                other.execute(drop, tag="etl-drain", settings={"max_table_size_to_drop": 0})
            except EtlError as error:
                log.warning("publish_not_cleared", host=str(work.connection.host), error=str(error))
            finally:
                if other is not None:
                    other.close()
                # Wakes the shard's thread if it still waits for an answer.
                work.connection.close()
