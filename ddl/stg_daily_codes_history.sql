-- The ClickHouse tables of daily_codes_history, as production runs them: one shard of four replicas, cluster shardless.
--     clickhouse-client -n --queries-file=ddl/stg_daily_codes_history.sql
-- Every statement may be run again. `python -m etl_tasks migrate` renders this same file for a cluster of plain shards
-- and for one plain node, and puts in the table names of the settings: the columns are written here and nowhere else.

CREATE DATABASE IF NOT EXISTS stg ON CLUSTER shardless;

-- CLEAN: one row per (c, t, opd). All other tables take their columns from this one.
CREATE TABLE IF NOT EXISTS stg.daily_codes_history ON CLUSTER shardless
(
    c String,
    t UInt8,
    opd DateTime64(3, 'UTC'),
    id Nullable(String),
    did Nullable(String),
    rid Nullable(String),
    rinn Nullable(String),
    rn Nullable(String),
    sid Nullable(String),
    sinn Nullable(String),
    sn Nullable(String),
    gt Nullable(String),
    prid Nullable(String),
    st Nullable(UInt8),
    ste Nullable(UInt8),
    elr Nullable(UInt8),
    emd Nullable(DateTime64(3, 'UTC')),
    apd Nullable(DateTime64(3, 'UTC')),
    exd Nullable(DateTime64(3, 'UTC')),
    p Nullable(String),
    pt Nullable(UInt8),
    o Nullable(String),
    pn Nullable(String),
    b Nullable(String),
    tt Nullable(Int64),
    tm Nullable(DateTime64(3, 'UTC')),
    ch Array(String) DEFAULT [] CODEC(ZSTD(6)),
    j Nullable(String) CODEC(ZSTD(6)),
    pg Nullable(UInt16),
    et Nullable(UInt8),
    pvad Nullable(String) CODEC(ZSTD(6)),
    ag Nullable(String) CODEC(ZSTD(6)),
    ingested_at DateTime64(3, 'UTC') DEFAULT now64(3),
    opd_local DateTime64(3, 'Asia/Almaty') ALIAS toTimeZone(opd, 'Asia/Almaty'),
    opd_local_date Date MATERIALIZED toDate(toTimeZone(opd, 'Asia/Almaty'))
)
ENGINE = ReplicatedMergeTree('/clickhouse/tables/stg.daily_codes_history', '{replica}')
PARTITION BY toYYYYMMDD(opd)
ORDER BY (c, opd, t)
TTL toDateTime(opd) + INTERVAL 5 DAY DELETE
SETTINGS materialize_ttl_recalculate_only = 1;

-- A CLEAN of the system before this one has no version; its rows lose against every row loaded since.
ALTER TABLE stg.daily_codes_history ON CLUSTER shardless
    ADD COLUMN IF NOT EXISTS ingested_at DateTime64(3, 'UTC') DEFAULT toDateTime64(0, 3, 'UTC');

-- After a publish the TTL of the new part is recalculated; without this setting the whole part would be rewritten.
ALTER TABLE stg.daily_codes_history ON CLUSTER shardless
    MODIFY SETTING materialize_ttl_recalculate_only = 1;

-- The template of the publish buffers. It never holds rows: each publish makes a buffer of its own beside it.
CREATE TABLE IF NOT EXISTS stg.daily_codes_history_dedup_buf ON CLUSTER shardless
AS stg.daily_codes_history
ENGINE = ReplacingMergeTree(ingested_at)
PARTITION BY toYYYYMMDD(opd)
ORDER BY (c, opd, t);

ALTER TABLE stg.daily_codes_history_dedup_buf ON CLUSTER shardless
    ADD COLUMN IF NOT EXISTS ingested_at DateTime64(3, 'UTC') DEFAULT toDateTime64(0, 3, 'UTC');

-- RAW: everything that was read, versions and repeats included, for five days after it was read.
CREATE TABLE IF NOT EXISTS stg.daily_codes_history_raw ON CLUSTER shardless
AS stg.daily_codes_history
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/stg.daily_codes_history_raw', '{replica}', ingested_at)
PARTITION BY toYYYYMMDD(opd)
ORDER BY (c, opd, t)
TTL toDateTime(ingested_at) + INTERVAL 5 DAY DELETE;

-- RAW over all shards, which is inserted into: the same key always goes to the same shard.
CREATE TABLE IF NOT EXISTS stg.daily_codes_history_raw_all ON CLUSTER shardless
AS stg.daily_codes_history_raw
ENGINE = Distributed('shardless', 'stg', 'daily_codes_history_raw', cityHash64(c));

-- CLEAN over all shards, which is read.
CREATE TABLE IF NOT EXISTS stg.daily_codes_history_all ON CLUSTER shardless
AS stg.daily_codes_history
ENGINE = Distributed('shardless', 'stg', 'daily_codes_history', cityHash64(c));

ALTER TABLE stg.daily_codes_history_all ON CLUSTER shardless
    ADD COLUMN IF NOT EXISTS ingested_at DateTime64(3, 'UTC') DEFAULT toDateTime64(0, 3, 'UTC');
