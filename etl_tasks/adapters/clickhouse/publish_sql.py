"""The statements of a publish. Names are put in, quoted by ``identifiers``; values are parameters. ``{key}`` is CLEAN's
sorting key as ClickHouse's catalog writes it.

A list comes as an array in one row, as in ``catalog_sql``.
"""

# Buffers of this CLEAN table, whoever made them.
BUFFERS = "SELECT groupArray(name) FROM system.tables WHERE database = %(database)s AND startsWith(name, %(prefix)s)"

# Statements of publishes of this CLEAN table that run on this host now.
RUNNING_PUBLISHES = "SELECT groupArray(query_id) FROM system.processes WHERE startsWith(query_id, %(prefix)s)"

# Ask these statements to end; RUNNING_PUBLISHES says when they have.
KILL = "KILL QUERY WHERE query_id IN %(ids)s ASYNC"

# Drop a buffer: for statements that still use it the data stays until they end.
DROP_BUFFER = "DROP TABLE IF EXISTS {buffer}"

# Drop our own buffer and free its disk space now.
DROP_BUFFER_NOW = "DROP TABLE IF EXISTS {buffer} SYNC"

# Wait until this replica has every part that the others had when it was asked.
SYNC_REPLICA = "SYSTEM SYNC REPLICA {table}"

# The buffer: columns of the template, keys of CLEAN, no TTL, and its engine spelled out (a copy of a replicated one
# would copy its Keeper path). Nothing is merged in it but by OPTIMIZE, which would have to wait for another merge.
CREATE_BUFFER = """
CREATE TABLE {buffer} AS {template}
ENGINE = ReplacingMergeTree({version})
PARTITION BY {partition_key}
PRIMARY KEY ({primary_key})
ORDER BY ({sorting_key})
SETTINGS storage_policy = {storage_policy}, max_bytes_to_merge_at_max_space_in_pool = 1,
    max_bytes_to_merge_at_min_space_in_pool = 1{merging}
"""

# What the server knows to tell a merge: a bound of its blocks in bytes, whatever their rows, and a codec, which its
# configuration may have chosen for all tables.
MERGE_SETTINGS = """
SELECT countIf(name = 'merge_max_block_size_bytes' AND toUInt64OrZero(value) > 0),
    countIf(name = 'default_compression_codec' AND NOT changed)
FROM system.merge_tree_settings
"""

# What CLEAN has of the partition, as hard links.
ATTACH = "ALTER TABLE {buffer} ATTACH PARTITION {partition} FROM {clean}"

# What RAW has of the partition, as hard links.
ATTACH_RAW = "ALTER TABLE {buffer} ATTACH PARTITION {partition} FROM {raw}"

# Take back what was attached.
EMPTY_BUFFER = "ALTER TABLE {buffer} DROP PARTITION {partition}"

# What the parts of a table are made of: the columns that are stored, with what fills those that a part lacks.
FORM = """
SELECT groupArray((name, type, default_kind, default_expression))
FROM (
    SELECT name, type, default_kind, default_expression
    FROM system.columns
    WHERE database = %(database)s AND table = %(table)s AND default_kind NOT IN ('ALIAS', 'EPHEMERAL')
    ORDER BY name
)
"""

# Parts of a partition that carry a time at which their rows expire.
EXPIRING_PARTS = """
SELECT countIf(delete_ttl_info_max > toDateTime(0))
FROM system.parts
WHERE database = %(database)s AND table = %(table)s AND partition_id = %(partition)s AND active
"""

# The rows of RAW that were loaded since the last publish, on this shard; repeats go when the buffer is merged.
INSERT_NEW = """
INSERT INTO {buffer} ({columns})
SELECT {columns}
FROM {raw}
WHERE toYYYYMMDD({ts}) = %(partition)s AND {windows}
"""

# Is there anything of it on this shard?
COUNT_NEW = "SELECT count() FROM {raw} WHERE toYYYYMMDD({ts}) = %(partition)s AND {windows}"

# Rows of other windows than those that are to be published.
COUNT_OUTSIDE = "SELECT count() FROM {table} WHERE toYYYYMMDD({ts}) = %(partition)s AND NOT {windows}"

# One instant window; edges are whole milliseconds, half-open.
WINDOW = "({ts} >= fromUnixTimestamp64Milli({start}, 'UTC') AND {ts} < fromUnixTimestamp64Milli({end}, 'UTC'))"

# One row a key, in one part: CLEAN has nothing left to merge. (A crash amid REPLACE can leave the old rows beside the
# new ones, of one part as of several: measured on 26.9.)
OPTIMIZE = "OPTIMIZE TABLE {buffer} PARTITION {partition} FINAL"

# Parts and rows of a partition, from metadata.
PARTS = """
SELECT count(), sum(rows)
FROM system.parts
WHERE database = %(database)s AND table = %(table)s AND partition_id = %(partition)s AND active
"""

# Rows of a partition.
COUNT_PARTITION = "SELECT count() FROM {table} WHERE toYYYYMMDD({ts}) = %(partition)s"

# Rows whose key is not seen to be greater than that of the row before: repeats, and keys that do not compare (NULL,
# NaN). Four times as fast as to count groups; read in key order as well, so that memory does not grow with the rows.
# The names have blanks, lest a column be called so.
NOT_ASCENDING = """
SELECT countIf(`rows of the pair` = 2 AND NOT ifNull(`key before` < `its key`, 0))
FROM (
    SELECT
        tuple({key}) AS `its key`,
        lagInFrame(tuple({key})) OVER pair AS `key before`,
        count() OVER pair AS `rows of the pair`
    FROM {buffer}
    WHERE toYYYYMMDD({ts}) = %(partition)s
    WINDOW pair AS (ORDER BY {key} ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)
)
"""

# Keys that stand in more than one row, read in key order so that memory does not grow with the rows.
REPEATED_KEYS = """
SELECT count()
FROM (SELECT 1 FROM {buffer} WHERE toYYYYMMDD({ts}) = %(partition)s GROUP BY {key} HAVING count() > 1)
"""

# Distinct keys of a partition, read in key order.
DISTINCT_KEYS = """
SELECT count()
FROM (SELECT 1 FROM {table} WHERE toYYYYMMDD({ts}) = %(partition)s GROUP BY {key})
"""

# The publish itself: readers see the partition as it was, then as it is in the buffer.
REPLACE = "ALTER TABLE {clean} REPLACE PARTITION {partition} FROM {buffer}"

# A part that comes from a buffer without TTL never expires on its own.
MATERIALIZE_TTL = "ALTER TABLE {clean} MATERIALIZE TTL IN PARTITION {partition}"
