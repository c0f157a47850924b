"""Checks of the tables on both sides: columns, types, engines, TTLs, shards, settings, and who else writes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, timedelta

from etl_tasks.core.coerce import CoercionPlan
from etl_tasks.core.doctor import tables
from etl_tasks.core.doctor.findings import Opinion, fail, ok
from etl_tasks.core.windows import Window
from etl_tasks.errors import EtlError, SchemaError
from etl_tasks.pipeline.doctor.ports import DoctorContext

PARTITIONS_SETTING = "max_partitions_per_insert_block"
MIGRATE = "run: python -m etl_tasks migrate"


def user_settings_opinions(context: DoctorContext) -> Sequence[Opinion]:
    """Settings that the profile forbids or the server does not know."""
    wanted = context.ask.clickhouse.wanted_settings()
    found = [
        opinion
        for host, there in context.ask.clickhouse.settings().items()
        for opinion in tables.setting_opinions(
            host, there, wanted, context.ask.older_settings, context.ask.optional_settings
        )
    ]
    return found or [ok(f"the {len(wanted)} settings of inserts and publishes are known and allowed")]


def insert_partitions_opinion(context: DoctorContext) -> Opinion:
    """How many partitions a block may have."""
    values = {
        host: int(there[PARTITIONS_SETTING].value)
        for host, there in context.ask.clickhouse.settings().items()
        if PARTITIONS_SETTING in there
    }
    return tables.partitions_opinion(values)


def raw_engine_opinion(context: DoctorContext) -> Opinion:
    """RAW's engine."""
    return tables.raw_engine_opinion(context.ask.clickhouse.tables()["raw"], context.ask.version_column)


def clean_version_opinion(context: DoctorContext) -> Opinion:
    """CLEAN's and the buffer's version."""
    found = context.ask.clickhouse.tables()
    return tables.clean_version_opinion([*found["clean"], *found["buffer"]], context.ask.version_column)


def target_columns_opinions(context: DoctorContext) -> Sequence[Opinion]:
    """Columns of RAW, buffer and CLEAN against each other and MAIN_COLUMNS."""
    faults = [
        fault
        for fault in context.ask.clickhouse.column_faults(context.settings.main_columns)
        # Told by clean-version, with a cure of its own.
        if not fault.endswith(f"has no column {context.ask.version_column}")
    ]
    cure = (
        f"{MIGRATE} for what is missing; ALTER TABLE … MODIFY COLUMN for another type, alike in RAW, buffer and CLEAN"
    )
    return [fail(fault, cure) for fault in faults] or [ok("RAW, buffer and CLEAN agree with MAIN_COLUMNS")]


def ttl_opinions(context: DoctorContext) -> Sequence[Opinion]:
    """TTLs of the three tables."""
    settings, found = context.settings, context.ask.clickhouse.tables()
    if not (found["raw"] and found["clean"]):
        return [fail("RAW or CLEAN is missing", MIGRATE)]
    return tables.ttl_opinions(
        found["raw"],
        found["buffer"],
        found["clean"],
        context.ask.ttl_seconds,
        ts_column=settings.hbase_main_ts_column,
        version_column=context.ask.version_column,
        raw_ttl_hours=settings.ch_raw_ttl_hours,
        cadence_min=max(settings.step_min, settings.publish_every_minutes),
    )


def sharding_opinion(context: DoctorContext) -> Opinion:
    """Whether the same key always goes to the same shard."""
    cluster, sharding = context.ask.clickhouse.sharding()
    if cluster is None:
        return ok("RAW is not Distributed: there is one shard")
    table = context.settings.ch_raw_table
    try:
        context.ask.check_sharding(sharding, context.ask.clickhouse.key(), table)
    except SchemaError as error:
        return fail(
            str(error), f"DROP TABLE {table} (it holds no rows) and {MIGRATE}, which makes it with cityHash64(c)"
        )
    return ok(f"{table} is spread over {cluster} by {sharding}")


def misplaced_opinion(context: DoctorContext) -> Opinion:
    """Keys of the newest partitions on a wrong shard."""
    cluster, sharding = context.ask.clickhouse.sharding()
    if cluster is None or sharding is None:
        return ok("there is one shard")
    return tables.misplaced_opinion(context.ask.clickhouse.misplaced(cluster, sharding), sharding)


def source_columns_opinion(context: DoctorContext) -> Opinion:
    """MAIN_COLUMNS in Phoenix's table."""
    settings = context.settings
    try:
        columns = context.ask.source.columns()
    except SchemaError as error:
        return fail(str(error), "correct MAIN_COLUMNS or HBASE_MAIN_TABLE (case counts), or add the column in Phoenix")
    return ok(f"{settings.hbase_main_table} has the {len(columns)} columns of MAIN_COLUMNS")


def types_opinion(context: DoctorContext) -> Opinion:
    """Whether every column's type of the source goes into that of the target."""
    settings = context.settings
    key, ordered_by = context.ask.source.key(), context.ask.clickhouse.key()
    if sorted(key) != sorted(ordered_by):
        return fail(
            f"{settings.ch_clean_table} is ordered by ({', '.join(ordered_by)}), the source's primary key is "
            f"({', '.join(key)}): rows of two keys would become one, or one two",
            "make RAW, buffer and CLEAN anew with ORDER BY the source's key: python -m etl_tasks ddl --from-source "
            f"{settings.hbase_main_table}",
        )
    try:
        CoercionPlan.build(
            context.ask.source.columns(),
            context.ask.target.columns(settings.qualified(settings.ch_raw_table)),
            key=key,
            partition_column=settings.hbase_main_ts_column,
            datetime64_range_ms=context.ask.target.datetime64_range_ms(),
        )
    except SchemaError as error:
        return fail(
            str(error),
            "ALTER TABLE … MODIFY COLUMN in RAW, buffer, CLEAN and the tables over all shards, to a type that takes it",
        )
    return ok("every column of Phoenix goes into its column of ClickHouse")


def read_path_opinion(context: DoctorContext) -> Opinion:
    """EXPLAIN of the read of the last minutes."""
    settings = context.settings
    until = context.now.astimezone(UTC).replace(second=0, microsecond=0)
    window = Window(until - timedelta(minutes=settings.phx_initial_slice_min or settings.step_min), until)
    path = context.ask.source.access_path(window)
    return tables.read_path_opinion(
        path, settings.hbase_main_table, settings.hbase_main_ts_column, settings.phx_query_hint
    )


def old_job_opinion(context: DoctorContext) -> Opinion:
    """Whoever else writes into RAW, CLEAN or the journal."""
    given = context.ask.journal.newest_version_ms
    # Where nothing was loaded yet, whatever is there is the old job's: only what comes now is a sign that it lives.
    lately = context.now - 2 * timedelta(minutes=context.settings.step_min)
    before_ms = given(context.clean_table) or int(lately.timestamp() * 1000)
    versions = context.ask.clickhouse.versions_after(before_ms)
    # Asked again, after ClickHouse: what the workers have loaded meanwhile has a version of ours too.
    ours_ms = max(before_ms, given(context.clean_table) or 0)
    try:
        inserts = context.ask.clickhouse.strange_inserts()
        log_note = ""
    except EtlError as error:
        # Without the right to read it, or switched off: the other signs remain.
        inserts, log_note = [], f" (system.query_log could not be read: {error})"
    opinion = tables.old_job_opinion(versions, ours_ms, inserts, context.ask.journal.old_rows())
    return Opinion(opinion.verdict, opinion.found + log_note, opinion.cure)
