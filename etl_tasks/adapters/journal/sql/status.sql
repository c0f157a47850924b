-- name: status_runs
-- Every process of this CLEAN table (found by hopping over the index), its active run and its last runs.
WITH RECURSIVE names AS (
    (SELECT r.process_name FROM public.inc_processing r ORDER BY r.process_name LIMIT 1)
    UNION ALL
    SELECT (SELECT r.process_name FROM public.inc_processing r WHERE r.process_name > n.process_name ORDER BY r.process_name LIMIT 1)
    FROM names n WHERE n.process_name IS NOT NULL
)
SELECT r.id, r.process_name, r.status, r.ts_start, r.ts_end, r.since, r.until, r.covered_until, r.heartbeat_at, r.details
FROM names n CROSS JOIN LATERAL (
    (SELECT * FROM public.inc_processing a
     WHERE a.process_name = n.process_name AND a.ts_end IS NULL AND a.status IN ('planned', 'running'))
    UNION
    (SELECT * FROM public.inc_processing l WHERE l.process_name = n.process_name ORDER BY l.id DESC LIMIT %(last)s)
) r
WHERE n.process_name IS NOT NULL AND (r.clean_table = %(clean_table)s OR r.clean_table IS NULL)
ORDER BY r.process_name, r.id DESC;

-- name: status_slices
-- Slices of a few runs by state, and by the class of the error where they are split, failed or wait.
WITH groups AS (
    SELECT s.run_id, s.state,
        CASE WHEN s.state IN ('split', 'error', 'planned') THEN s.error_kind END AS kind,
        count(*) AS slices, coalesce(sum(s.rows_inserted), 0) AS rows, sum(s.overloads) AS overloads, max(s.depth) AS deepest,
        max(s.id) FILTER (WHERE s.last_error IS NOT NULL AND s.state <> 'done') AS example_id
    FROM public.inc_processing_slices s WHERE s.run_id = ANY (%(run_ids)s)
    GROUP BY 1, 2, 3
)
SELECT g.run_id, g.state, g.kind AS error_kind, g.slices, g.rows, g.overloads, g.deepest, e.window_from, e.window_to, e.last_error
FROM groups g LEFT JOIN public.inc_processing_slices e ON e.id = g.example_id
ORDER BY g.run_id DESC, g.state, g.slices DESC;

-- name: status_owed
-- Partitions with something to publish, or whose publish is under way or in error.
SELECT partition, publish_state, loaded_gen - published_gen AS generations, first_unpublished_at, not_before, spent, error_kind,
    last_error
FROM public.inc_processing_partitions
WHERE clean_table = %(clean_table)s AND (loaded_gen > published_gen OR publish_state <> 'idle' OR rebuild)
ORDER BY partition;

-- name: status_incomplete
-- Partitions that were published with a hole.
SELECT partition FROM public.inc_processing_partitions WHERE clean_table = %(clean_table)s AND incomplete ORDER BY partition;

-- name: status_rejected
-- Distinct rows rejected by each of a few runs.
SELECT run_id, count(DISTINCT row_key) AS rejected_rows FROM public.inc_processing_rejects WHERE run_id = ANY (%(run_ids)s) GROUP BY run_id;

-- name: progress_run_row
-- The run that is followed.
SELECT id, process_name, status, ts_start, ts_end, since, until, covered_until, heartbeat_at, details
FROM public.inc_processing WHERE id = %(run_id)s;

-- name: progress_partitions
-- Its partitions and their publishes.
SELECT rp.partition, rp.state, rp.slices, rp.open_slices, rp.failed_slices, rp.wanted_gen, rp.publish_failed,
    extract(epoch FROM coalesce(rp.finished_at, clock_timestamp()) - rp.released_at) AS loading_s,
    p.publish_state, p.published_gen, p.last_duration_ms, p.last_error, d.details ->> 'rows' AS clean_rows,
    p.publish_state = 'due' AND p.not_before > clock_timestamp() AS publish_waits,
    EXISTS (SELECT 1 FROM public.inc_processing_partitions o
            WHERE o.clean_table = r.clean_table AND o.publish_state = 'running' AND o.lease_until >= clock_timestamp()) AS publishing
FROM public.inc_processing_run_partitions rp
JOIN public.inc_processing r ON r.id = rp.run_id
JOIN public.inc_processing_partitions p ON p.clean_table = r.clean_table AND p.partition = rp.partition
LEFT JOIN public.inc_processing d ON d.id = p.publish_run_id
WHERE rp.run_id = %(run_id)s
ORDER BY rp.partition;

-- name: progress_slices
-- What its slices of a few partitions have come to.
SELECT partition, coalesce(sum(rows_inserted), 0) AS rows, count(*) FILTER (WHERE state = 'split') AS splits,
    sum(overloads) AS overloads,
    count(*) FILTER (WHERE state = 'running' AND lease_until >= clock_timestamp()) AS running,
    count(*) FILTER (WHERE state = 'planned' AND not_before > clock_timestamp()) AS waiting
FROM public.inc_processing_slices WHERE run_id = %(run_id)s AND partition = ANY (%(partitions)s)
GROUP BY partition;

-- name: waiting_slice_of_run
-- One of the slices that wait to be tried again, the first to be.
SELECT window_from, window_to, error_kind, last_error, not_before FROM public.inc_processing_slices
WHERE run_id = %(run_id)s AND state = 'planned' AND not_before > clock_timestamp()
ORDER BY not_before LIMIT 1;

-- name: failed_slices_of_run
-- The windows that it could not load.
SELECT window_from, window_to, error_kind, last_error FROM public.inc_processing_slices
WHERE run_id = %(run_id)s AND state = 'error'
ORDER BY window_from LIMIT %(most)s;

-- name: journal_columns
-- The journal's tables and how many columns each has; NULL for a table that is not there.
SELECT t.name, (SELECT count(*) FROM pg_attribute a
    WHERE a.attrelid = to_regclass(t.name) AND a.attnum > 0 AND NOT a.attisdropped) AS columns, to_regclass(t.name) IS NOT NULL AS found
FROM (VALUES ('public.inc_processing'), ('public.inc_processing_slices'), ('public.inc_processing_run_partitions'),
    ('public.inc_processing_partitions'), ('public.inc_processing_rejects'), ('public.inc_processing_fences'),
    ('public.inc_processing_reconciles'), ('public.inc_processing_totals')) AS t(name);
