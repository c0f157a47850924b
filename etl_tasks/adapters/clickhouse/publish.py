"""RAW → CLEAN for one partition, on every shard, in the order of DESIGN's Publish.

A stage runs on all shards side by side, each with a connection of its own; callbacks of the caller run in the caller's
thread only. Nothing touches CLEAN before every shard's buffer has been checked and ``before_replace`` has agreed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import structlog

from etl_tasks.adapters.clickhouse import filling, publish_sql, reading
from etl_tasks.adapters.clickhouse.buffers import Fence, drop_older, end_statements
from etl_tasks.adapters.clickhouse.client import Connection, GivenUp, Setting, probe
from etl_tasks.adapters.clickhouse.config import ClickHouseConfig, Host
from etl_tasks.adapters.clickhouse.errors import ErrorCode, code_of
from etl_tasks.adapters.clickhouse.rebuilding import check_rebuild, count_minutes
from etl_tasks.adapters.clickhouse.shard_work import ShardWork
from etl_tasks.adapters.clickhouse.stages import Stages
from etl_tasks.adapters.clickhouse.statements import ENOUGH_FOR_ANY_SIZE, Statements
from etl_tasks.adapters.clickhouse.topology import Shard, Topology, table_facts
from etl_tasks.core.publishing import LoadedWindow, PublishRequest, PublishResult, StageMetric
from etl_tasks.errors import (
    CountMismatch,
    EtlError,
    ResourceExhausted,
    SchemaError,
    TerminalError,
    TransientError,
    Unreachable,
)
from etl_tasks.failpoints import Failpoint, reach
from etl_tasks.threads import Crew

log = structlog.get_logger(__name__)

SIGNS_OF_A_NEWER_PUBLISH = (ErrorCode.UNKNOWN_TABLE, ErrorCode.TABLE_IS_DROPPED, ErrorCode.QUERY_WAS_CANCELLED)

SYNC_REPLICA_S = 300
"""How long a replica may take to come up to the others before it is synced again by the next attempt: ClickHouse's
receive_timeout bounds SYNC REPLICA as well, and this is its default.
"""

OPTIMIZE_TRIES = 5
"""A background merge may be in OPTIMIZE's way; it ends."""


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
        self._statements = Statements(config, self._raw, self._fence, request)
        self._work = [self._start(shard, connection) for shard, connection in pins]
        self._stages: list[StageMetric] = []

    def run(
        self,
        *,
        checkpoint: Callable[[], None],
        before_replace: Callable[[], None],
        on_stage: Callable[[StageMetric], None],
    ) -> PublishResult:
        """All steps; see ``Target.publish``. On any failure the buffers go and CLEAN is as the last REPLACE left it."""
        with Crew(len(self._work), "publish") as crew, crew:
            stages = Stages(crew, self._request.partition, on_stage, self._stages, self._answers)
            try:
                short = self._prepare(stages, checkpoint)
                if short:
                    stages.run("drop_buf_cleanup", self._owned("drop_buf_cleanup", self._drop_buffer), self._active())
                else:
                    before_replace()
                    self._replace(stages)
            except BaseException:
                self._abandon(stages)
                raise
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
                    filling.require_buffer(self._statements, work, error)
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

    # --- one shard's steps, each in a thread of its own

    def _drop_older(self, work: ShardWork) -> None:
        for host in work.shard.replicas:
            if host == work.connection.host:
                drop_older(work.connection, self._fence, self._config.publish_drain_timeout_s)
                continue
            try:
                work.side = self._connect(host)
                drop_older(work.side, self._fence, self._config.publish_drain_timeout_s)
            except GivenUp:
                raise
            except Unreachable as error:
                if str(host) in self._predecessor_replicas:
                    raise Unreachable(
                        f"an earlier publish worked on {host}, which must be asked before the next one: {error}"
                    ) from error
                log.warning("replica_not_asked", host=str(host), error=str(error))
            finally:
                side, work.side = work.side, None
                if side is not None:
                    side.close()
        for table, facts in ((self._raw, work.raw_facts), (self._fence.clean, work.clean_facts)):
            if facts.replicated:
                sync = publish_sql.SYNC_REPLICA.format(table=table.sql)
                self._statements.execute(work, sync, settings={"receive_timeout": SYNC_REPLICA_S})

    def _attach_clean(self, work: ShardWork) -> None:
        work.new_rows = self._statements.count(work, publish_sql.COUNT_NEW, table=self._raw)
        if not work.new_rows:
            work.skipped = True
            work.rows_before = work.rows_after = self._statements.count(
                work, publish_sql.COUNT_PARTITION, table=self._fence.clean
            )
            return
        filling.create_buffer(self._statements, work)
        work.has_buffer = True
        filling.attach_clean(self._statements, work)

    def _insert_new(self, work: ShardWork) -> None:
        if not filling.attach_raw(self._statements, work):
            filling.insert_new(self._statements, work)
        if self._statements.parts(work) == (0, 0):
            filling.require_buffer(self._statements, work)
            # RAW's rows expired between the count and the read, and CLEAN has none.
            work.skipped = True
            self._drop_buffer(work)

    def _optimize(self, work: ShardWork) -> None:
        settings: dict[str, Setting] = {**self._statements.heavy(), "optimize_throw_if_noop": 1}
        for attempt in range(1, OPTIMIZE_TRIES + 1):
            try:
                self._statements.execute(work, self._statements.of(publish_sql.OPTIMIZE), settings=settings)
            except ResourceExhausted as error:
                if code_of(error) != ErrorCode.CANNOT_ASSIGN_OPTIMIZE or attempt == OPTIMIZE_TRIES:
                    raise
                log.info("optimize_repeated", host=str(work.connection.host), error=str(error))
            parts, _ = self._statements.parts(work)
            if parts == 1:
                return
            filling.require_buffer(self._statements, work)
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
        work.rows_after = self._statements.count(work, publish_sql.COUNT_PARTITION, table=self._fence.buffer)
        repeated = self._repeated_keys(work)
        if repeated:
            raise CountMismatch(
                f"the buffer of {where} has {repeated} keys in more than one row: CLEAN was left as it was"
            )
        if self._request.rebuild or work.rows_after >= work.rows_before:
            return
        keys = self._statements.count(work, publish_sql.DISTINCT_KEYS, table=self._fence.clean)
        if work.rows_after < keys:
            raise CountMismatch(
                f"CLEAN has {keys} keys of {where} and the buffer only {work.rows_after}: CLEAN was left as it was"
            )
        log.warning("clean_repeats_removed", host=str(work.connection.host), rows_before=work.rows_before, keys=keys)

    def _repeated_keys(self, work: ShardWork) -> int:
        """Keys of the buffer in more than one row; counted only where the quick look did not show each once."""
        try:
            if not self._statements.count(work, publish_sql.NOT_ASCENDING, table=self._fence.buffer):
                return 0
        except (ResourceExhausted, TerminalError) as error:
            # An old server sorts for it, or does not know it; what needs neither decides, or fails by itself.
            log.info("keys_counted_by_groups", host=str(work.connection.host), error=str(error))
        return self._statements.count(work, publish_sql.REPEATED_KEYS, table=self._fence.buffer)

    def _replace_partition(self, work: ShardWork) -> None:
        try:
            self._statements.execute(
                work, self._statements.of(publish_sql.REPLACE), settings={"alter_sync": 1, **ENOUGH_FOR_ANY_SIZE}
            )
        except TransientError as error:
            if code_of(error) != ErrorCode.UNFINISHED:
                raise
            log.warning("replace_applied_on_one_replica", host=str(work.connection.host), error=str(error))
        rows = self._statements.count(work, publish_sql.COUNT_PARTITION, table=self._fence.clean)
        if rows != work.rows_after:
            raise TransientError(
                f"CLEAN has {rows} rows of {self._request.partition} on {work.connection.host} after REPLACE, "
                f"the buffer had {work.rows_after}: publish again"
            )

    def _materialize_ttl(self, work: ShardWork) -> None:
        if work.clean_facts.has_ttl:
            self._statements.execute(
                work, self._statements.of(publish_sql.MATERIALIZE_TTL), settings={"mutations_sync": 0, "alter_sync": 1}
            )

    def _drop_buffer(self, work: ShardWork) -> None:
        self._statements.execute(
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

    def _abandon(self, stages: Stages[ShardWork]) -> None:
        """End what still runs of this publish and drop its buffers where hosts answer; the next one does the rest."""
        stages.end(ShardWork.interrupt)
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
