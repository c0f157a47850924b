-- name: doctor_server
-- The server, its clock, and the backend that answers.
SELECT current_setting('server_version_num')::int AS version_number, current_setting('server_version') AS version,
    extract(epoch FROM clock_timestamp())::float8 AS epoch_s, pg_backend_pid() AS pid;

-- name: doctor_columns
-- The columns of the journal's tables that are there.
SELECT n.nspname AS schema, c.relname AS name, array_agg(a.attname::text) AS columns
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid
WHERE n.nspname = %(schema)s AND c.relname = ANY (%(tables)s) AND c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped
GROUP BY 1, 2;

-- name: doctor_indexes
-- The indexes of the journal's tables, and whether they are of use.
SELECT i.relname AS name, x.indisvalid AND x.indisready AS valid, x.indisunique AS uniq
FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class c ON c.oid = x.indrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s AND c.relname = ANY (%(tables)s);

-- name: doctor_plans
-- When the last plans that came as messages became rows of the schedule's lane.
SELECT ts_start FROM public.inc_processing
WHERE process_name = %(process_name)s AND task_id IS NOT NULL
ORDER BY id DESC LIMIT 200;

-- name: doctor_publish_cost
-- The longest of the last publishes of a CLEAN table.
SELECT count(*) OVER () AS publishes, last_duration_ms, partition
FROM (SELECT last_duration_ms, partition FROM public.inc_processing_partitions
      WHERE clean_table = %(clean_table)s AND last_duration_ms IS NOT NULL
      ORDER BY last_published_at DESC NULLS LAST LIMIT 20) latest
ORDER BY last_duration_ms DESC LIMIT 1;

-- name: doctor_old_rows
-- Rows of the last day in the form of the system before this one, which knew no CLEAN table; one a process.
SELECT process_name, max(ts_start) AS ts_start FROM public.inc_processing
WHERE clean_table IS NULL AND task_id IS NULL AND ts_start > clock_timestamp() - interval '1 day'
GROUP BY process_name ORDER BY process_name LIMIT 20;

-- name: doctor_version
-- The newest version that was given to an execution of a source query.
SELECT version_ms FROM public.inc_processing_fences WHERE clean_table = %(clean_table)s;
