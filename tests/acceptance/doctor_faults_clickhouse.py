"""Faults in ClickHouse's tables and profiles that ``doctor`` must find."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

from devstack.deployment import Deployment, midnight
from tests.acceptance.doctor_faults import FAULTS, fault, settings_only

__all__ = ["FAULTS"]


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
