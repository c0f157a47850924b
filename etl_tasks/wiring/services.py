"""The adapters as the settings in force describe them: how to reach each service, and what is made there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from functools import cached_property

from celery import Celery

from etl_tasks.adapters.celery_queue import CeleryDispatcher
from etl_tasks.adapters.clickhouse import ClickHouseConfig, ClickHouseTarget
from etl_tasks.adapters.clickhouse import ddl as clickhouse_ddl
from etl_tasks.adapters.clickhouse.config import Host
from etl_tasks.adapters.journal import Journal, JournalConfig
from etl_tasks.adapters.journal.gaps import GapJournal
from etl_tasks.adapters.journal.metrics import MetricsJournal
from etl_tasks.adapters.journal.report import ReportJournal
from etl_tasks.adapters.journal.status import StatusJournal
from etl_tasks.adapters.phoenix import PhoenixConfig, PhoenixSource
from etl_tasks.adapters.phoenix import ddl as phoenix_ddl
from etl_tasks.config import Settings
from etl_tasks.core.batch import SourceColumn
from etl_tasks.core.coerce import CoercionPlan
from etl_tasks.core.target_table import TargetTable, design
from etl_tasks.log import this_worker

# Time-outs of ClickHouse, in seconds, where the tasks' soft limits do not ask for shorter ones: an answer, a statement,
# a statement of a publish.
ANSWER_S, STATEMENT_S, PUBLISH_STATEMENT_S = 300.0, 600, 7200


class Services:
    """Adapters of one process, made at first use. Make it after fork, and use it from one thread."""

    def __init__(self, settings: Settings, app: Celery) -> None:
        self.settings = settings
        self._app = app

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
        """What ``metrics`` reads, over this thread's connection; gaps count from ``gaps_since`` in business time."""
        settings = self.settings
        return MetricsJournal(
            self.journal.database, self.clean_table, settings.process_name, settings.slicing_rules, gaps_since
        )

    @cached_property
    def report_journal(self) -> ReportJournal:
        """What ``report`` reads, over this thread's connection."""
        return ReportJournal(self.journal.database)

    @cached_property
    def gap_journal(self) -> GapJournal:
        """The coverage, as ``gaps`` asks for it, over this thread's connection."""
        return GapJournal(self.journal.database, self.clean_table, self.settings.cadence_rules)

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
            publish_max_threads=settings.publish_max_threads,
            publish_max_memory_bytes=settings.publish_max_memory_mb * 1_000_000,
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

    def coercion(self, source: PhoenixSource, target: ClickHouseTarget) -> CoercionPlan:
        """Columns of both sides, checked against each other; raises SchemaError with all faults."""
        columns, key = source.columns(), source.key()
        return CoercionPlan.build(
            columns,
            target.check_tables(self.settings.main_columns, key),
            key=key,
            partition_column=self.settings.hbase_main_ts_column,
            datetime64_range_ms=target.datetime64_range_ms(),
        )
