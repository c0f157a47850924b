"""The composition root: the only place that puts adapters into the pipeline, from the settings in force."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cached_property

from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded

from etl_tasks.adapters.celery_queue import CeleryDispatcher
from etl_tasks.adapters.clickhouse import ClickHouseConfig, ClickHouseTarget
from etl_tasks.adapters.clickhouse import ddl as clickhouse_ddl
from etl_tasks.adapters.clickhouse.config import Host
from etl_tasks.adapters.examinations import Examinations
from etl_tasks.adapters.journal import Journal, JournalConfig
from etl_tasks.adapters.journal.asking import AskJournal
from etl_tasks.adapters.journal.cancelling import CancelJournal
from etl_tasks.adapters.journal.deserted import evict_deserted_lock
from etl_tasks.adapters.journal.gaps import GapJournal
from etl_tasks.adapters.journal.metrics import MetricsJournal
from etl_tasks.adapters.journal.pins import PublishPins
from etl_tasks.adapters.journal.report import ReportJournal
from etl_tasks.adapters.journal.status import StatusJournal
from etl_tasks.adapters.phoenix import PhoenixConfig, PhoenixSource
from etl_tasks.adapters.phoenix import ddl as phoenix_ddl
from etl_tasks.config import Settings
from etl_tasks.core.batch import SourceColumn
from etl_tasks.core.coerce import CoercionPlan
from etl_tasks.core.expiry import expiry_notice
from etl_tasks.core.records import SanitizeRules
from etl_tasks.core.slicing import SlicePlan
from etl_tasks.core.target_table import TargetTable, design
from etl_tasks.core.windows import Window
from etl_tasks.errors import TransientError
from etl_tasks.log import this_worker
from etl_tasks.pipeline.ask_publish import AskContext
from etl_tasks.pipeline.cancel import CancelContext
from etl_tasks.pipeline.doctor.ports import DoctorContext
from etl_tasks.pipeline.extract import ExtractContext
from etl_tasks.pipeline.load import Loader, LoadRules
from etl_tasks.pipeline.plan import PlanContext
from etl_tasks.pipeline.publish import PublishContext
from etl_tasks.pipeline.reconcile import ReconcileContext
from etl_tasks.pipeline.reconciliation import ReconciliationContext
from etl_tasks.pipeline.scheduled_reconcile import ScheduledReconcileContext
from etl_tasks.pipeline.stopping import StopFlag
from etl_tasks.pipeline.sweep import SweepContext, SweepRules

# Bounds a worker child's memory whatever the rows' width: two blocks and a frame are alive at once.
INSERT_BYTES = 12 * 1024 * 1024

# Time-outs of ClickHouse, in seconds, where the tasks' soft limits do not ask for shorter ones: an answer, a statement,
# a statement of a publish.
ANSWER_S, STATEMENT_S, PUBLISH_STATEMENT_S = 300.0, 600, 7200

# Of a task's soft time limit: after this a scheduled reconcile stops by itself, between two windows.
RECONCILE_SHARE = 0.8


class Wiring:
    """Adapters and contexts of one process, made at first use. Make it after fork, and use it from one thread.

    ``stop`` is set when this process's worker is asked to stop.
    """

    def __init__(self, settings: Settings, app: Celery, stop: StopFlag | None = None) -> None:
        self.settings = settings
        self._app = app
        self._stop = stop or StopFlag()
        self._loader: Loader | None = None

    @cached_property
    def worker(self) -> str:
        """This process, as the journal names it."""
        return this_worker()

    @cached_property
    def clean_table(self) -> str:
        """CLEAN as ``database.table``: the key of coverage, fences and locks."""
        return self.settings.qualified(self.settings.ch_clean_table)

    def open_journal(self) -> Journal:
        """A journal with a connection of its own."""
        settings = self.settings
        config = JournalConfig(
            dsn=settings.pg_dsn.get_secret_value(),
            lock_dsn=settings.pg_lock_dsn.get_secret_value() or None,
            table=settings.journal_table,
        )
        return Journal(config, self.clean_table, settings.cadence_rules, application_name=f"etl_tasks {self.worker}")

    @cached_property
    def journal(self) -> Journal:
        """The journal of this thread."""
        return self.open_journal()

    @cached_property
    def status_journal(self) -> StatusJournal:
        """What the operators' commands read, over this thread's connection."""
        return StatusJournal(self.journal.database)

    def metrics_journal(self, gaps_since: datetime | None) -> MetricsJournal:
        """What ``metrics`` reads, over this thread's connection; gaps count from ``gaps_since`` in source time."""
        shift_min = self.settings.phx_query_shift_minutes
        return MetricsJournal(self.journal.database, self.clean_table, shift_min, gaps_since)

    @cached_property
    def report_journal(self) -> ReportJournal:
        """What ``report`` reads, over this thread's connection."""
        return ReportJournal(self.journal.database)

    @cached_property
    def gap_journal(self) -> GapJournal:
        """The coverage, as ``gaps`` asks for it, over this thread's connection."""
        return GapJournal(self.journal.database, self.clean_table)

    @cached_property
    def dispatcher(self) -> CeleryDispatcher:
        """Who tells the workers."""
        return CeleryDispatcher(self._app)

    @cached_property
    def phoenix_config(self) -> PhoenixConfig:
        """How to reach the source, and what to read of it."""
        settings = self.settings
        return PhoenixConfig(
            url=settings.pqs_url.get_secret_value(),
            table=settings.hbase_main_table,
            ts_column=settings.hbase_main_ts_column,
            columns=settings.main_columns,
            ts_units=settings.phx_ts_units,
            fetch_rows=settings.phx_fetchmany_size,
            probe_timeout_ms=settings.phx_tcp_probe_timeout_ms,
            connect_timeout_s=settings.phx_connect_timeout_s,
            read_timeout_s=settings.phx_read_timeout_s,
            query_hint=settings.phx_query_hint or None,
            auth=settings.pqs_auth,
            user=settings.pqs_user or None,
            password=settings.pqs_password.get_secret_value() or None,
            ca_file=settings.pqs_ca_file or None,
            verify=settings.pqs_verify,
        )

    def open_source(self) -> PhoenixSource:
        """A source with connections of its own."""
        return PhoenixSource(self.phoenix_config)

    @cached_property
    def clickhouse_config(self) -> ClickHouseConfig:
        """How to reach ClickHouse, and the names of its tables."""
        settings = self.settings
        # Time-outs < soft limits, whatever those are set to: a task is to fail by itself, not to be stopped.
        soft_s, publish_soft_s = settings.task_soft_time_limit_min * 60, settings.publish_soft_time_limit_min * 60
        return ClickHouseConfig(
            hosts=tuple(Host(name, port) for name, port in settings.ch_endpoints),
            user=settings.ch_user,
            password=settings.ch_password.get_secret_value(),
            database=settings.ch_db,
            raw_table=settings.qualified(settings.ch_raw_table),
            clean_table=self.clean_table,
            clean_all_table=settings.qualified(settings.ch_clean_all_table),
            dedup_buf_table=settings.qualified(settings.ch_dedup_buf_table),
            cluster=settings.ch_cluster or None,
            secure=settings.ch_secure,
            verify=settings.ch_verify,
            ca_file=settings.ch_ca_file or None,
            compression=settings.ch_compression,
            insert_max_retries=settings.ch_insert_max_retries,
            insert_quorum=settings.ch_insert_quorum,
            send_receive_timeout_s=min(ANSWER_S, soft_s / 2),
            max_execution_time_s=min(STATEMENT_S, soft_s * 3 // 4),
            ts_column=settings.hbase_main_ts_column,
            publish_statement_timeout_s=min(PUBLISH_STATEMENT_S, publish_soft_s * 3 // 4),
        )

    def open_target(self) -> ClickHouseTarget:
        """A target with connections of its own."""
        return ClickHouseTarget(self.clickhouse_config)

    @cached_property
    def target(self) -> ClickHouseTarget:
        """The target of this thread."""
        return self.open_target()

    def migrate_phoenix(self) -> str:
        """Create the source's table of a development stack; what was done."""
        return phoenix_ddl.apply(self.phoenix_config)

    def migrate_clickhouse(self) -> list[str]:
        """Create what is missing in ClickHouse; a line a host says what was done.

        Columns other than those of the shipped table are asked of Phoenix, if a table is missing.
        """
        settings = self.settings
        if clickhouse_ddl.is_shipped(settings.main_columns, settings.hbase_main_ts_column):
            return clickhouse_ddl.apply(self.clickhouse_config)
        return clickhouse_ddl.apply(self.clickhouse_config, table=self._table_of_settings)

    def _table_of_settings(self) -> TargetTable:
        """What ``ddl --from-source`` would make of the source's table and MAIN_COLUMNS."""
        settings = self.settings
        columns = self.source_columns()
        return design(
            columns,
            settings.hbase_main_table,
            ts_column=settings.hbase_main_ts_column,
            ts_units=settings.phx_ts_units,
            leave_out=[column.name for column in columns if column.name not in settings.main_columns],
        )

    def source_columns(self, table: str | None = None) -> Sequence[SourceColumn]:
        """Every column of a table of the source (None: HBASE_MAIN_TABLE), whatever MAIN_COLUMNS says."""
        config = self.phoenix_config
        source = PhoenixSource(config if table is None else replace(config, table=table))
        try:
            source.probe()
            return source.all_columns()
        finally:
            source.close()

    def render_tables(self, table: TargetTable, form: str | None, clean_ttl_days: int | None) -> list[str]:
        """The statements that create ``table`` under the settings' names; ClickHouse is asked for the form if None."""
        return clickhouse_ddl.render(
            self.clickhouse_config, table, clickhouse_ddl.Form(form) if form else None, clean_ttl_days
        )

    def create_tables(self, statements: Sequence[str], form: str | None) -> list[str]:
        """Run them wherever they belong; a line a host says what was done."""
        return clickhouse_ddl.run(self.clickhouse_config, statements, clickhouse_ddl.Form(form) if form else None)

    def loader(self) -> Loader:
        """Source, target and coercion of this child, kept from slice to slice until ``drop_loader``."""
        if self._loader is None:
            source, target = self.open_source(), self.open_target()
            try:
                source.probe()
                self._loader = Loader(source, target, self._coercion(source, target), self.load_rules)
            except BaseException:
                source.discard()
                target.close()
                raise
        return self._loader

    def drop_loader(self) -> None:
        """Forget the loader and its connections; the next slice asks for the columns anew."""
        loader, self._loader = self._loader, None
        if loader is not None:
            loader.close()

    def abandon_loader(self) -> None:
        """Break the loader's connections, from whatever thread: who waits for an answer gets an error instead."""
        if self._loader is not None:
            self._loader.close()

    def _coercion(self, source: PhoenixSource, target: ClickHouseTarget) -> CoercionPlan:
        """Columns of both sides, checked against each other; raises SchemaError with all faults."""
        columns, key = source.columns(), source.key()
        return CoercionPlan.build(
            columns,
            target.check_tables(self.settings.main_columns, key),
            key=key,
            partition_column=self.settings.hbase_main_ts_column,
            datetime64_range_ms=target.datetime64_range_ms(),
        )

    @cached_property
    def load_rules(self) -> LoadRules:
        """Bounds of the work on a slice."""
        settings = self.settings
        return LoadRules(
            clean_table=self.clean_table,
            lease_s=settings.lease_s,
            max_attempts=settings.slice_max_attempts,
            insert_rows=settings.ch_insert_batch,
            insert_bytes=INSERT_BYTES,
            max_rejected_rows=settings.max_rejected_rows,
        )

    @cached_property
    def sanitize_rules(self) -> SanitizeRules:
        """TTLs of stale runs."""
        settings = self.settings
        return SanitizeRules(
            planned_ttl_min=settings.sanitize_planned_ttl_min,
            heartbeat_ttl_min=settings.sanitize_heartbeat_ttl_min,
            hard_ttl_min=settings.sanitize_hard_ttl_min,
        )

    def check_services(self, plan: SlicePlan, now: datetime) -> list[str]:
        """Columns and types of source and target, all faults as errors; what is merely unwise as notices."""
        notices: list[str] = []
        source = self.open_source()
        try:
            source.probe()
            self._coercion(source, self.target)
            if plan.source_windows:
                notices += self._access_notices(source, plan.source_windows[0])
        finally:
            source.close()
        expiry = expiry_notice(plan.partitions, self.target.clean_ttl_s(), now)
        return [*notices, expiry] if expiry else notices

    @staticmethod
    def _access_notices(source: PhoenixSource, window: Window) -> list[str]:
        try:
            path = source.access_path(window)
        except TransientError as error:
            # An overloaded server may refuse the question too; the plan does not hang on it.
            return [f"how the source is read could not be asked: {error}"]
        if "FULL SCAN" not in path:
            return []
        return [
            "the source is read by a FULL SCAN: every window costs the whole table and splitting cures no overload; "
            "an index on the time column and PHX_QUERY_HINT cure it"
        ]

    def plan_context(self) -> PlanContext:
        """For planning."""
        settings = self.settings
        return PlanContext(
            journal=self.journal,
            dispatcher=self.dispatcher,
            rules=settings.slicing_rules,
            sanitize=self.sanitize_rules,
            process_name=settings.process_name,
            clean_table=self.clean_table,
            publish_at_end=settings.always_publish_at_end,
            partitions_in_flight=settings.partitions_in_flight,
            check_services=self.check_services,
        )

    def cancel_context(self) -> CancelContext:
        """For cancelling a run."""
        return CancelContext(
            journal=self.journal,
            cancelling=CancelJournal(self.journal.database),
            dispatcher=self.dispatcher,
            kill_queries=lambda tag: self.target.kill_queries(tag),
            clean_table=self.clean_table,
        )

    def ask_context(self) -> AskContext:
        """For publishes by hand."""
        settings = self.settings
        return AskContext(
            journal=self.journal,
            asking=AskJournal(self.journal.database, self.clean_table),
            dispatcher=self.dispatcher,
            target=self.target,
            clean_table=self.clean_table,
            raw_table=settings.qualified(settings.ch_raw_table),
            clean_all_table=settings.qualified(settings.ch_clean_all_table),
            shift_min=settings.phx_query_shift_minutes,
        )

    def extract_context(self) -> ExtractContext:
        """For work on slices."""
        return ExtractContext(
            journal=self.journal,
            open_journal=self.open_journal,
            open_loader=self.loader,
            drop_loader=self.drop_loader,
            abandon_loader=self.abandon_loader,
            dispatcher=self.dispatcher,
            rules=self.load_rules,
            overload=self.settings.overload_rules,
            worker=self.worker,
            soft_limit=SoftTimeLimitExceeded,
            check_stop=self._stop.check,
            interrupt=_raise_soft_limit,
        )

    def publish_context(self) -> PublishContext:
        """For publishes."""
        settings = self.settings
        return PublishContext(
            journal=self.journal,
            pins=PublishPins(self.journal.database),
            evict_deserted_lock=lambda: evict_deserted_lock(self.journal.database, self.clean_table, settings.lease_s),
            open_journal=self.open_journal,
            open_target=lambda: self.target,
            dispatcher=self.dispatcher,
            process_name=settings.process_name,
            clean_table=self.clean_table,
            lease_s=settings.lease_s,
            hard_limit_s=settings.publish_time_limit_min * 60,
            max_attempts=settings.publish_max_attempts,
            worker=self.worker,
            soft_limit=SoftTimeLimitExceeded,
            check_stop=self._stop.check,
        )

    @contextmanager
    def reconciling(self, most_examples: int) -> Iterator[ReconcileContext]:
        """For comparing source and target; their connections are closed at the end of the block."""
        source, target, settings = self.open_source(), self.open_target(), self.settings
        try:
            source.probe()
            types = {column.name: column for column in target.check_tables(settings.main_columns, source.key())}
            yield ReconcileContext(
                source=source,
                target=target,
                coercion=self._coercion(source, target),
                target_columns=[types[name] for name in settings.main_columns],
                raw_table=settings.qualified(settings.ch_raw_table),
                clean_table=settings.qualified(settings.ch_clean_all_table),
                most_examples=most_examples,
            )
        finally:
            source.close()
            target.close()

    @contextmanager
    def doctor_context(self) -> Iterator[DoctorContext]:
        """For ``doctor``; its connections are closed at the end of the block."""
        settings, url = self.settings, self.settings.redis_url
        examinations = Examinations(
            self.journal.config,
            self.clickhouse_config,
            self.phoenix_config,
            url.get_secret_value(),
            settings.redis_tls(url),
            self._app,
        )
        with closing(examinations):
            yield DoctorContext(settings, self.clean_table, examinations, datetime.now(UTC))

    def reconciliation_context(self, most_examples: int = 0) -> ReconciliationContext:
        """For reconciles, which keep their outcome in the journal."""
        return ReconciliationContext(
            journal=self.journal,
            open_sides=lambda: self.reconciling(most_examples),
            clean_table=self.clean_table,
            raw_ttl_s=self.settings.ch_raw_ttl_hours * 3600,
            worker=self.worker,
        )

    def scheduled_reconcile_context(self) -> ScheduledReconcileContext:
        """For the reconcile that beat starts."""
        settings = self.settings
        return ScheduledReconcileContext(
            reconciling=self.reconciliation_context(),
            planning=self.plan_context(),
            last=timedelta(hours=settings.reconcile_last_hours),
            by_hash=settings.reconcile_by_hash,
            repair=settings.reconcile_repair,
            budget_s=settings.task_soft_time_limit_min * 60 * RECONCILE_SHARE,
            check_stop=self._stop.check,
        )

    def sweep_context(self) -> SweepContext:
        """For the sweeper."""
        settings = self.settings
        return SweepContext(
            journal=self.journal,
            dispatcher=self.dispatcher,
            rules=SweepRules(
                clean_table=self.clean_table,
                every_s=settings.sweep_every_s,
                resend_after_s=settings.resend_after_s,
                slice_max_attempts=settings.slice_max_attempts,
                publish_max_attempts=settings.publish_max_attempts,
                patience_s=settings.source_patience_s,
                retention_days=settings.journal_retention_days,
                sanitize=self.sanitize_rules,
            ),
        )


def _raise_soft_limit() -> None:
    """Raise SoftTimeLimitExceeded in this process's main thread, as the worker's main does when the limit has passed.

    Only a pool's child knows how to; anywhere else the signal would end the process, and nothing happens.
    """
    if callable(signal.getsignal(signal.SIGUSR1)):
        os.kill(os.getpid(), signal.SIGUSR1)


def wiring_factory(settings: Callable[[], Settings], app: Celery, stop: StopFlag) -> Callable[[], Wiring]:
    """A getter that makes one Wiring a process and thread-owner: a fork gets its own."""
    made: dict[int, Wiring] = {}

    def current() -> Wiring:
        pid = os.getpid()
        if pid not in made:
            # What the parent made stays referenced: closing its sockets here would end the parent's sessions.
            made[pid] = Wiring(settings(), app, stop)
        return made[pid]

    return current
