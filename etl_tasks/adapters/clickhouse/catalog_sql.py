"""Questions to ClickHouse's own catalog. Each constant's comment says what it asks.

A list comes as an array in one row, for ``client.listed``: no row at all then means that the question was cut short,
not that there is nothing.
"""

# Which of these settings does the server know?
KNOWN_SETTINGS = "SELECT groupArray(name) FROM system.settings WHERE name IN %(names)s"

# The columns of a table, in order.
COLUMNS = """
SELECT groupArray((name, type, default_kind))
FROM (
    SELECT name, type, default_kind
    FROM system.columns
    WHERE database = %(database)s AND table = %(table)s
    ORDER BY position
)
"""

# What a table is: engine, keys and storage policy.
TABLE = """
SELECT groupArray((engine, engine_full, partition_key, sorting_key, primary_key, storage_policy))
FROM system.tables
WHERE database = %(database)s AND name = %(table)s
"""

# The replicas of every shard of a cluster, as this host sees them; is_local marks the host that answers.
CLUSTER = """
SELECT groupArray((shard_num, replica_num, host_name, port, is_local))
FROM (
    SELECT shard_num, replica_num, host_name, port, is_local
    FROM system.clusters
    WHERE cluster = %(cluster)s
    ORDER BY shard_num, replica_num
)
"""

# The first and last millisecond that DateTime64(3) holds; older servers saturate these two.
DATETIME64_RANGE = """
SELECT
    toUnixTimestamp64Milli(toDateTime64('0001-01-01 00:00:00.000', 3, 'UTC')),
    toUnixTimestamp64Milli(toDateTime64('9999-12-31 23:59:59.999', 3, 'UTC'))
"""

# End every statement whose query id, or whose initiator's, begins with the tag.
KILL_BY_TAG = """
KILL QUERY
WHERE startsWith(query_id, %(tag)s) OR startsWith(initial_query_id, %(tag)s)
SYNC
"""
