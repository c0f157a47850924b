"""What ``doctor`` asks ClickHouse. Names are put in, quoted by ``identifiers``; values are parameters."""

# Version, zone of the session and clock in milliseconds.
SERVER = "SELECT version(), timezone(), toUnixTimestamp64Milli(now64(3))"

# These settings as our user has them: value, bounds ('' for none), whether they may be changed.
SETTINGS = """
SELECT groupArray((name, value, ifNull(min, ''), ifNull(max, ''), readonly))
FROM system.settings
WHERE name IN %(names)s
"""

# The newest partitions of a table with their rows, newest first.
NEWEST_PARTITIONS = """
SELECT groupArray((partition_id, partition_rows))
FROM (
    SELECT partition_id, sum(rows) AS partition_rows
    FROM system.parts
    WHERE database = %(database)s AND table = %(table)s AND active
    GROUP BY partition_id
    ORDER BY partition_id DESC
    LIMIT %(most)s
)
"""

# The shards of a cluster with their weights, in order.
WEIGHTS = """
SELECT groupArray((shard_num, weight))
FROM (
    SELECT shard_num, any(shard_weight) AS weight
    FROM system.clusters
    WHERE cluster = %(cluster)s
    GROUP BY shard_num
    ORDER BY shard_num
)
"""

# Rows of partitions, those whose slot is not this shard's, and the key of one of them.
MISPLACED = """
SELECT count(), countIf(NOT here), anyIf(key, NOT here)
FROM (
    SELECT
        toString(({key})) AS key, toUInt64({sharding}) %% %(slots)s AS slot,
        slot >= %(first)s AND slot < %(past)s AS here
    FROM {table}
    WHERE _partition_id IN %(partitions)s
)
"""

# The newest version in partitions of a table, and the rows whose version is newer than one.
NEWEST_VERSION = """
SELECT count(), max(toUnixTimestamp64Milli({version})), countIf(toUnixTimestamp64Milli({version}) > %(ours)s)
FROM {table}
WHERE _partition_id IN %(partitions)s
"""

# Statements of the last day that wrote into these tables (everybody may read them) and do not carry a query
# id of ours, by user and client.
STRANGE_INSERTS = """
SELECT groupArray((user, client, statements, last_at, text))
FROM (
    SELECT
        user, if(client_name != '', client_name, http_user_agent) AS client, count() AS statements,
        toUnixTimestamp(max(event_time)) AS last_at, substring(argMax(query, event_time), 1, 100) AS text
    FROM system.query_log
    WHERE event_date >= yesterday() AND event_time > now() - INTERVAL 1 DAY
        AND type = 'QueryFinish' AND is_initial_query
        AND hasAny(tables, %(tables)s) AND match(query, %(writes)s) AND NOT startsWith(query_id, 'etl')
    GROUP BY user, client
    ORDER BY last_at DESC
    LIMIT 5
)
"""
