"""Faults that ``doctor`` must find, each planted for real and taken back again; those of ClickHouse stand beside."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import redis

from devstack.deployment import Deployment
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
