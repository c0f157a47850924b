"""Faults that ``doctor`` must find, each planted for real and taken back again."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import redis

from devstack.deployment import Deployment, midnight
from devstack.relay import Relay
from devstack.worker import Worker, beat_command

Plant = Callable[[Deployment], AbstractContextManager[Mapping[str, str]]]
"""Plants the fault for the length of a block; gives the settings with which doctor is to be asked."""


@dataclass(frozen=True)
class Fault:
    """What is planted, the check that must find it and how, and words that its finding and its cure must have."""

    name: str
    check: str
    verdict: str
    found: str
    cure: str
    plant: Plant


FAULTS: list[Fault] = []


def fault(check: str, verdict: str, *, found: str, cure: str) -> Callable[[Plant], Plant]:
    """Register the function below as a fault, under its name."""

    def register(plant: Plant) -> Plant:
        FAULTS.append(Fault(plant.__name__.replace("_", " "), check, verdict, found, cure, plant))
        return plant

    return register


def settings_only(name: str, check: str, verdict: str, *, found: str, cure: str, **settings: str) -> None:
    """Register a fault that lies in the settings alone."""

    @contextmanager
    def plant(_: Deployment) -> Iterator[Mapping[str, str]]:
        yield settings

    FAULTS.append(Fault(name, check, verdict, found, cure, plant))


# -- settings ----------------------------------------------------------------------------------------------------------

settings_only(
    "a shift beside a zone with summer time", "shift", "warn", found="Europe/Berlin", cure="PHX_QUERY_SHIFT_MINUTES",
    BUSINESS_TZ="Europe/Berlin", PHX_QUERY_SHIFT_MINUTES="-60",
)  # fmt: skip
settings_only(
    "time-outs upside down", "time-outs", "fail", found="PHX_CONNECT_TIMEOUT_S (30 s)", cure="PHX_READ_TIMEOUT_S",
    PHX_CONNECT_TIMEOUT_S="30", PHX_READ_TIMEOUT_S="20",
)  # fmt: skip
settings_only(
    "frames too large", "settings", "warn", found="PHX_FETCHMANY_SIZE=200000", cure=".env",
    PHX_FETCHMANY_SIZE="200000",
)  # fmt: skip
settings_only(
    "a read without its index", "read-path", "warn", found="FULL SCAN", cure='CREATE INDEX … ON ACC_DOCTOR ("opd")',
    PHX_QUERY_HINT="",
)  # fmt: skip
settings_only(
    "a column that Phoenix does not have", "source-columns", "fail", found="no_such", cure="MAIN_COLUMNS",
    MAIN_COLUMNS="c,t,opd,no_such",
)  # fmt: skip


# -- PostgreSQL and the journal ----------------------------------------------------------------------------------------


def _index(deployment: Deployment) -> str:
    schema, base = deployment.settings["JOURNAL_TABLE"].split(".")
    return f"{schema}.{base}_slices_running_idx"


@fault(
    "journal-indexes",
    "fail",
    found="inc_processing_slices_running_idx is missing",
    cure="inc_processing_slices_running_idx",
)
@contextmanager
def an_index_of_the_journal_dropped(deployment: Deployment) -> Iterator[Mapping[str, str]]:
    deployment.journal(f"DROP INDEX {_index(deployment)}")
    try:
        yield {}
    finally:
        deployment.cli("migrate", "--only", "journal")


@fault("journal-indexes", "fail", found="invalid", cure="REINDEX INDEX inc_processing_slices_running_idx")
@contextmanager
def an_index_of_the_journal_invalid(deployment: Deployment) -> Iterator[Mapping[str, str]]:
    statement = f"UPDATE pg_index SET indisvalid = %s WHERE indexrelid = '{_index(deployment)}'::regclass"
    deployment.journal(statement, False)
    try:
        yield {}
    finally:
        deployment.journal(statement, True)


@fault("journal", "fail", found="inc_processing_reconciles lacks the column repairs", cure="migrate")
@contextmanager
def a_column_of_the_journal_dropped(deployment: Deployment) -> Iterator[Mapping[str, str]]:
    deployment.journal("ALTER TABLE {j}_reconciles DROP COLUMN repairs")
    try:
        yield {}
    finally:
        deployment.journal("ALTER TABLE {j}_reconciles ADD COLUMN repairs bigint")


@fault("pooler", "fail", found="PG_DSN", cure="PG_LOCK_DSN")
@contextmanager
def a_pooler_before_postgresql(deployment: Deployment) -> Iterator[Mapping[str, str]]:
    dsn = deployment.settings["PG_DSN"]
    port = re.search(r":(\d+)/", dsn)
    assert port is not None
    with Relay(int(port[1])) as relay:
        # BackendKeyData, 12 bytes long: a pooler answers cancel requests itself, and so announces a number of its own.
        relay.alter_answers(
            lambda data: re.sub(rb"(?s)K\x00\x00\x00\x0c....", b"K\x00\x00\x00\x0c\x00\x01\x02\x03", data)
        )
        yield {"PG_DSN": dsn.replace(port[0], f":{relay.port}/")}


@fault("publish-cost", "warn", found="960.0 s", cure="PUBLISH_EVERY_MINUTES=")
@contextmanager
def publishes_slower_than_the_cadence(deployment: Deployment) -> Iterator[Mapping[str, str]]:
    before = deployment.journal("SELECT clean_table, partition, last_duration_ms FROM {j}_partitions")
    deployment.journal("UPDATE {j}_partitions SET last_duration_ms = 960000 WHERE last_published_at IS NOT NULL")
    try:
        yield {}
    finally:
        for row in before:
            deployment.journal(
                "UPDATE {j}_partitions SET last_duration_ms = %s WHERE clean_table = %s AND partition = %s",
                row.last_duration_ms, row.clean_table, row.partition,
            )  # fmt: skip


@fault("old-job", "fail", found="the_old_increment began at", cure="stop it")
@contextmanager
def an_old_job_in_the_journal(deployment: Deployment) -> Iterator[Mapping[str, str]]:
    deployment.journal("INSERT INTO {j} (process_name, status, ts_end) VALUES ('the_old_increment', 'ok', now())")
    try:
        yield {}
    finally:
        deployment.journal("DELETE FROM {j} WHERE process_name = 'the_old_increment'")


# -- Redis and the workers ---------------------------------------------------------------------------------------------


@contextmanager
def _redis(deployment: Deployment) -> Iterator[Any]:
    with redis.Redis.from_url(deployment.settings["REDIS_URL"]) as client:
        yield client


@contextmanager
def _configured(deployment: Deployment, name: str, value: str) -> Iterator[Mapping[str, str]]:
    with _redis(deployment) as client:
        before = client.config_get(name)[name]
        client.config_set(name, value)
        try:
            yield {}
        finally:
            client.config_set(name, before)


@fault("redis-eviction", "fail", found="allkeys-lru", cure="maxmemory-policy noeviction")
def a_redis_that_evicts(deployment: Deployment) -> AbstractContextManager[Mapping[str, str]]:
    return _configured(deployment, "maxmemory-policy", "allkeys-lru")


@fault("redis-persistence", "warn", found="neither append-only file nor snapshots", cure="appendonly yes")
def a_redis_that_keeps_nothing(deployment: Deployment) -> AbstractContextManager[Mapping[str, str]]:
    return _configured(deployment, "appendonly", "no")


@fault("neighbours", "warn", found="invoices", cure="REDIS_URL")
@contextmanager
def another_application_on_the_same_redis(deployment: Deployment) -> Iterator[Mapping[str, str]]:
    with _redis(deployment) as client:
        client.sadd("_kombu.binding.invoices", "invoices\x06\x16\x06\x16invoices")
        try:
            yield {}
        finally:
            client.delete("_kombu.binding.invoices")


@contextmanager
def _worker(deployment: Deployment, queues: str = "plan,extract,backfill,publish", **settings: str) -> Iterator[None]:
    """A worker for the length of the block, which has said that it is ready."""
    worker = deployment.start_worker(1, queues, **settings)
    try:
        deployment.until(lambda: " ready." in worker.log.read_text(errors="replace"), "the worker is ready", 120)
        yield
    finally:
        worker.stop()
        deployment.workers.remove(worker)
        worker.log.unlink()


@fault("workers", "fail", found="no worker answers", cure="celery -A etl_tasks worker")
@contextmanager
def no_worker(_: Deployment) -> Iterator[Mapping[str, str]]:
    yield {}


@fault("queues", "fail", found="no worker takes the queue publish, where 3 messages wait", cure="-Q publish")
@contextmanager
def a_queue_that_nobody_reads(deployment: Deployment) -> Iterator[Mapping[str, str]]:
    with _worker(deployment, "plan,extract,backfill"), _redis(deployment) as client:
        client.rpush("publish", "1", "2", "3")
        try:
            yield {}
        finally:
            client.delete("publish")


@fault("neighbours", "fail", found="journal acc_other.inc_processing", cure="REDIS_URL")
@contextmanager
def a_second_installation_on_the_same_redis(deployment: Deployment) -> Iterator[Mapping[str, str]]:
    with _worker(deployment, "plan", JOURNAL_TABLE="acc_other.inc_processing"):
        yield {}
    for suffix in ("", "_slices", "_run_partitions", "_partitions", "_rejects", "_fences", "_reconciles", "_totals"):
        deployment.journal(f"DROP TABLE IF EXISTS acc_other.inc_processing{suffix}")


@fault("time-outs", "fail", found="visibility_timeout 14400 instead of 43200", cure="restart worker0@")
@contextmanager
def a_worker_with_a_shorter_visibility_time_out(deployment: Deployment) -> Iterator[Mapping[str, str]]:
    with _worker(deployment, "plan", VISIBILITY_TIMEOUT_H="4"):
        yield {}


@fault("beat", "fail", found="has planned nothing", cure="celery -A etl_tasks beat")
@contextmanager
def no_beat(_: Deployment) -> Iterator[Mapping[str, str]]:
    yield {"PROCESS_NAME": "codes_without_beat"}


@fault("beat", "fail", found="within 3 × STEP_MIN=10 minutes", cure="stop all but one")
@contextmanager
def three_beats(deployment: Deployment) -> Iterator[Mapping[str, str]]:
    # Their steps have one minute, and are looked at as if they had ten: the same rows, sooner.
    beats: list[Worker] = []
    with _worker(deployment, "plan"):
        count = len(_planned(deployment))
        try:
            for number in (1, 2, 3):
                schedule = deployment.scratch / f"beat{number}"
                environment = {**deployment.process_env, "STEP_MIN": "1"}
                log = deployment.scratch / f"beat{number}.log"
                beats.append(Worker(beat_command(schedule), environment, log))
            deployment.until(lambda: len(_planned(deployment)) >= count + 6, "six plans of three beats", 300)
            yield {}
        finally:
            for beat in beats:
                beat.stop()
    deployment.journal("DELETE FROM {j} WHERE task_id IS NOT NULL")


def _planned(deployment: Deployment) -> list[Any]:
    return deployment.journal("SELECT id FROM {j} WHERE task_id IS NOT NULL AND NOT manual")


# -- ClickHouse --------------------------------------------------------------------------------------------------------


def _db(deployment: Deployment) -> str:
    return deployment.settings["CH_DB"]


@fault("raw-engine", "fail", found="acc_doctor.codes_raw on 127.0.0.1", cure="RENAME TABLE acc_doctor.codes_raw TO")
@contextmanager
def raw_without_replacing(deployment: Deployment) -> Iterator[Mapping[str, str]]:
    name = f"{_db(deployment)}.codes_raw"
    deployment.query(f"RENAME TABLE {name} TO {name}_kept", shard=1)
    deployment.query(
        f"CREATE TABLE {name} AS {name}_kept ENGINE = MergeTree PARTITION BY toYYYYMMDD(opd) ORDER BY (c, opd, t) "
        "TTL toDateTime(ingested_at) + INTERVAL 5 DAY",
        shard=1,
    )
    try:
        yield {}
    finally:
        deployment.query(f"DROP TABLE {name} SYNC", shard=1)
        deployment.query(f"RENAME TABLE {name}_kept TO {name}", shard=1)


@contextmanager
def _altered(deployment: Deployment, table: str, change: str, back: str) -> Iterator[Mapping[str, str]]:
    """A table of the second shard, changed."""
    name = f"{_db(deployment)}.{table}"
    deployment.query(f"ALTER TABLE {name} {change}", shard=1)
    try:
        yield {}
    finally:
        deployment.query(f"ALTER TABLE {name} {back}", shard=1)


@fault("ttl", "fail", found="codes_dedup_buf", cure="ALTER TABLE acc_doctor.codes_dedup_buf REMOVE TTL")
def a_buffer_that_forgets(deployment: Deployment) -> AbstractContextManager[Mapping[str, str]]:
    return _altered(deployment, "codes_dedup_buf", "MODIFY TTL toDateTime(opd) + INTERVAL 5 DAY", "REMOVE TTL")


@fault("ttl", "fail", found="keeps rows for 24 h", cure="CH_RAW_TTL_HOURS=24")
def raw_forgets_too_soon(deployment: Deployment) -> AbstractContextManager[Mapping[str, str]]:
    back = "MODIFY TTL toDateTime(ingested_at) + INTERVAL 5 DAY"
    return _altered(deployment, "codes_raw", "MODIFY TTL toDateTime(ingested_at) + INTERVAL 1 DAY", back)


@fault("ttl", "fail", found="expires by toDateTime(ingested_at)", cure="ALTER TABLE acc_doctor.codes MODIFY TTL")
def clean_expires_by_the_time_of_loading(deployment: Deployment) -> AbstractContextManager[Mapping[str, str]]:
    back = "MODIFY TTL toDateTime(opd) + INTERVAL 5 DAY"
    return _altered(deployment, "codes", "MODIFY TTL toDateTime(ingested_at) + INTERVAL 9 DAY", back)


@fault("target-columns", "fail", found="differ in pg: Nullable(UInt16) and Nullable(UInt32)", cure="MODIFY COLUMN")
def a_column_of_another_type_in_clean(deployment: Deployment) -> AbstractContextManager[Mapping[str, str]]:
    return _altered(deployment, "codes", "MODIFY COLUMN pg Nullable(UInt32)", "MODIFY COLUMN pg Nullable(UInt16)")


@fault("clean-version", "fail", found="acc_doctor.codes on 127.0.0.1", cure="adds ingested_at to acc_doctor.codes")
def clean_without_version(deployment: Deployment) -> AbstractContextManager[Mapping[str, str]]:
    back = "ADD COLUMN ingested_at DateTime64(3, 'UTC') DEFAULT now64(3) AFTER ag"
    return _altered(deployment, "codes", "DROP COLUMN ingested_at", back)


@fault("types", "fail", found="tt: BIGINT of Phoenix does not go into Nullable(UUID)", cure="MODIFY COLUMN")
@contextmanager
def a_type_that_the_source_does_not_fit(deployment: Deployment) -> Iterator[Mapping[str, str]]:
    tables = ("codes", "codes_dedup_buf", "codes_raw", "codes_raw_all", "codes_all")

    def make(type_name: str) -> None:
        for table in tables:
            deployment.each_shard(f"ALTER TABLE {_db(deployment)}.{table} DROP COLUMN tt")
            deployment.each_shard(f"ALTER TABLE {_db(deployment)}.{table} ADD COLUMN tt Nullable({type_name}) AFTER b")

    make("UUID")
    try:
        yield {}
    finally:
        make("Int64")


@fault("sharding", "fail", found="rand()", cure="DROP TABLE acc_doctor.codes_raw_all")
@contextmanager
def rows_spread_at_random(deployment: Deployment) -> Iterator[Mapping[str, str]]:
    database = _db(deployment)

    def make(expression: str) -> None:
        deployment.each_shard(f"DROP TABLE {database}.codes_raw_all SYNC")
        deployment.each_shard(
            f"CREATE TABLE {database}.codes_raw_all AS {database}.codes_raw "
            f"ENGINE = Distributed('devstack', '{database}', 'codes_raw', {expression})"
        )

    make("rand()")
    try:
        yield {}
    finally:
        make("cityHash64(c)")


@fault("misplaced-keys", "fail", found="key-of-the-first-shard", cure="wrong shard")
@contextmanager
def a_key_on_the_wrong_shard(deployment: Deployment) -> Iterator[Mapping[str, str]]:
    name = f"{_db(deployment)}.codes"
    moment = f"'{midnight(1):%Y-%m-%d %H:%M:%S}'"
    deployment.query(
        f"INSERT INTO {name} (c, t, opd, ingested_at) SELECT 'key-of-the-first-shard-' || toString(number) AS key, 1, "
        f"{moment}, {moment} FROM numbers(100) WHERE cityHash64(key) %% 2 = 0 LIMIT 1".replace("%%", "%"),
        shard=1,
    )
    try:
        yield {}
    finally:
        condition = "startsWith(c, 'key-of-the-first-shard')"
        deployment.query(f"ALTER TABLE {name} DELETE WHERE {condition} SETTINGS mutations_sync = 1", shard=1)


@fault("old-job", "fail", found="codes on 127.0.0.1", cure="old job")
@contextmanager
def an_old_job_that_writes_into_clean(deployment: Deployment) -> Iterator[Mapping[str, str]]:
    name = f"{_db(deployment)}.codes"
    moment = f"'{midnight(1):%Y-%m-%d %H:%M:%S}'"
    # Its row belongs on this shard, and has the column's default for a version: the time of the insert.
    deployment.query(
        f"INSERT INTO {name} (c, t, opd) SELECT 'of-the-old-job-' || toString(number) AS key, 1, {moment} "
        "FROM numbers(100) WHERE cityHash64(key) % 2 = 0 LIMIT 1"
    )
    try:
        yield {}
    finally:
        deployment.query(f"ALTER TABLE {name} DELETE WHERE startsWith(c, 'of-the-old-job') SETTINGS mutations_sync = 1")


# Users of the development stack whose profiles are wrong in one way each.
settings_only(
    "a profile with a bound", "user-settings", "fail", found="forbids max_execution_time = 600",
    cure="constraint on max_execution_time", CH_USER="etl_bounded",
)  # fmt: skip
settings_only(
    "a profile with a constant", "user-settings", "fail", found="forbids async_insert = 0",
    cure="constraint on async_insert", CH_USER="etl_fixed",
)  # fmt: skip
settings_only(
    "a profile that only reads", "user-settings", "fail", found="readonly = 1", cure="readonly = 0",
    CH_USER="etl_read_only",
)  # fmt: skip
settings_only(
    "blocks of one partition", "insert-partitions", "warn", found="max_partitions_per_insert_block = 1 on",
    cure="max_partitions_per_insert_block in the profile of CH_USER", CH_USER="etl_narrow",
)  # fmt: skip
settings_only(
    "sessions outside UTC", "clickhouse-zone", "warn", found="Asia/Almaty", cure="<timezone>UTC</timezone>",
    CH_USER="etl_elsewhere",
)  # fmt: skip


# -- a service away ----------------------------------------------------------------------------------------------------


@contextmanager
def _stopped(deployment: Deployment, part: str) -> Iterator[Mapping[str, str]]:
    deployment.stack.stop(part)
    try:
        yield {}
    finally:
        deployment.stack.start(part)


@fault("postgres", "fail", found="PostgreSQL at 127.0.0.1", cure="config")
def postgresql_away(deployment: Deployment) -> AbstractContextManager[Mapping[str, str]]:
    return _stopped(deployment, "postgres")


@fault("redis", "fail", found="Redis does not answer", cure="config")
def redis_away(deployment: Deployment) -> AbstractContextManager[Mapping[str, str]]:
    return _stopped(deployment, "redis")


@fault("clickhouse", "fail", found="broke off", cure="start ClickHouse on 127.0.0.1")
def a_shard_away(deployment: Deployment) -> AbstractContextManager[Mapping[str, str]]:
    return _stopped(deployment, "clickhouse2")


@fault("phoenix", "fail", found="Query Server", cure="config")
def the_query_server_away(deployment: Deployment) -> AbstractContextManager[Mapping[str, str]]:
    return _stopped(deployment, "pqs")


@fault("phoenix-zone", "warn", found="UTC+0", cure="-Duser.timezone=UTC")
@contextmanager
def a_query_server_outside_utc(deployment: Deployment) -> Iterator[Mapping[str, str]]:
    stack = deployment.stack
    stack.stop("pqs")
    # Java takes it over what stands on the command line.
    os.environ["_JAVA_OPTIONS"] = "-Duser.timezone=Asia/Almaty"
    try:
        stack.start("pqs")
        yield {}
    finally:
        del os.environ["_JAVA_OPTIONS"]
        stack.stop("pqs")
        stack.start("pqs")
