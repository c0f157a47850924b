-- name: metrics_snapshot
-- Everything that one scrape asks is seen at one moment, so that a run pruned meanwhile is counted once.
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY;

-- name: metrics_totals
-- What pruned runs, and earlier loads of slices that were loaded again, had counted.
SELECT name, label, value FROM public.inc_processing_totals WHERE clean_table = %(clean_table)s;

-- name: metrics_run_ids
-- Every run and publish that is still in the journal, those that have ended apart.
SELECT coalesce(array_agg(id) FILTER (WHERE ts_end IS NOT NULL), '{}') AS ended,
    coalesce(array_agg(id) FILTER (WHERE ts_end IS NULL), '{}') AS active
FROM public.inc_processing WHERE clean_table = %(clean_table)s;

-- name: counted_runs
-- How runs and publishes have ended, and how long that took; active ones are not counted yet.
-- Whole milliseconds are summed: a sum rounded at its end would depend on how it is put together, and could fall.
SELECT process_name, status, count(*) AS runs,
    coalesce(sum(floor(greatest(extract(epoch FROM ts_end - ts_start) * 1000, 0))), 0)::bigint AS took_ms
FROM public.inc_processing WHERE id = ANY (%(run_ids)s) AND ts_end IS NOT NULL
GROUP BY process_name, status;

-- name: counted_slices
-- Slices that are loaded, split or failed, by the class of their last error. Open ones are not counted yet: a later
-- error would move what they count to another label.
SELECT state, coalesce(error_kind, '') AS error_kind, count(*) AS slices, sum(overloads) AS overloads,
    coalesce(sum(rows_read), 0) AS rows_read, coalesce(sum(rows_inserted), 0) AS rows_inserted,
    coalesce(sum(rows_inserted - rows_distinct), 0) AS rows_repeated,
    coalesce(sum(floor(greatest(extract(epoch FROM finished_at - started_at) * 1000, 0))), 0)::bigint AS took_ms
FROM public.inc_processing_slices WHERE run_id = ANY (%(run_ids)s) AND state IN ('done', 'split', 'error')
GROUP BY 1, 2;

-- name: counted_stages
-- Stages of publishes, from the details of their rows.
SELECT stage ->> 'stage' AS stage, count(*) AS stages, coalesce(sum((stage ->> 'ms')::bigint), 0) AS took_ms
FROM public.inc_processing r CROSS JOIN LATERAL jsonb_array_elements(
    CASE jsonb_typeof(r.details -> 'stages') WHEN 'array' THEN r.details -> 'stages' ELSE '[]' END) AS stage
WHERE r.id = ANY (%(run_ids)s) AND r.process_name LIKE '%%:dedup' AND stage ->> 'stage' IS NOT NULL
GROUP BY 1;

-- name: counted_rejects
-- Distinct rows rejected, a run at a time.
SELECT count(*) AS rejected_rows FROM (
    SELECT DISTINCT run_id, row_key FROM public.inc_processing_rejects WHERE run_id = ANY (%(run_ids)s)) AS rejected;

-- name: add_to_totals
-- Keeps what is about to leave the journal.
INSERT INTO public.inc_processing_totals AS t (clean_table, name, label, value)
SELECT %(clean_table)s, u.name, u.label, u.value
FROM unnest(%(names)s::text[], %(labels)s::text[], %(values)s::bigint[]) AS u(name, label, value) ORDER BY u.name, u.label
ON CONFLICT (clean_table, name, label) DO UPDATE SET value = t.value + excluded.value;

-- name: forget_counts_of_done_slices
-- Slices that stop being done: what they have counted goes to the totals, and they begin again from nothing. One statement for
-- all of them: whoever adds to the totals takes their rows in one order, or two would wait for each other.
WITH counted AS (
    SELECT s.id, s.clean_table, coalesce(s.error_kind, '') AS error_kind, s.overloads, s.rows_read, s.rows_inserted, s.rows_distinct,
        floor(greatest(extract(epoch FROM s.finished_at - s.started_at) * 1000, 0))::bigint AS took_ms
    FROM public.inc_processing_slices s WHERE s.id = ANY (%(slice_ids)s::bigint[]) AND s.state = 'done'
    ORDER BY s.id FOR NO KEY UPDATE
), kept AS (
    INSERT INTO public.inc_processing_totals AS t (clean_table, name, label, value)
    SELECT c.clean_table, v.name, v.label, sum(v.value)
    FROM counted c CROSS JOIN LATERAL (VALUES
        ('overloads', c.error_kind, c.overloads::bigint), ('rows_inserted', '', c.rows_inserted), ('rows_read', '', c.rows_read),
        ('rows_repeated', '', c.rows_inserted - c.rows_distinct), ('slice_ms', '', c.took_ms), ('slices_loaded', '', 1::bigint)
    ) AS v(name, label, value)
    WHERE v.value > 0 GROUP BY c.clean_table, v.name, v.label ORDER BY v.name, v.label
    ON CONFLICT (clean_table, name, label) DO UPDATE SET value = t.value + excluded.value
)
UPDATE public.inc_processing_slices s SET overloads = 0, rows_counted = NULL, rows_read = NULL, rows_inserted = NULL, rows_distinct = NULL
FROM counted c WHERE s.id = c.id;

-- name: metrics_processes
-- Every process of this CLEAN table (found by hopping over the index): its last run, and its last progress of late. Rows that
-- name no CLEAN table are the old system's, or of others who share the journal: ours are those of our own lanes.
WITH RECURSIVE names AS (
    (SELECT r.process_name FROM public.inc_processing r ORDER BY r.process_name LIMIT 1)
    UNION ALL
    SELECT (SELECT r.process_name FROM public.inc_processing r WHERE r.process_name > n.process_name ORDER BY r.process_name LIMIT 1)
    FROM names n WHERE n.process_name IS NOT NULL
)
SELECT n.process_name, max(l.ts_start) AS started_at,
    max(greatest(l.progress_at, l.ts_end, l.ts_start)) FILTER (WHERE l.status <> 'skipped') AS progress_at
FROM names n CROSS JOIN LATERAL (
    SELECT * FROM public.inc_processing r WHERE r.process_name = n.process_name ORDER BY r.id DESC LIMIT %(last)s) AS l
WHERE n.process_name IS NOT NULL AND (l.clean_table = %(clean_table)s OR (l.clean_table IS NULL AND n.process_name = ANY (%(lanes)s)))
GROUP BY n.process_name ORDER BY n.process_name;

-- name: metrics_active
-- Runs and publishes that have not ended.
SELECT process_name, status, count(*) AS runs FROM public.inc_processing
WHERE ts_end IS NULL AND status IN ('planned', 'running') AND clean_table = %(clean_table)s GROUP BY 1, 2;

-- name: metrics_waiting_runs
-- Active runs that have loaded all that is released to them and wait for a publish that comes by itself: one that runs under
-- a live lease (theirs, or the one before it), or that is put off. As runs_without_progress has it, no such run is stuck.
SELECT r.process_name, count(*) AS runs FROM public.inc_processing r
WHERE r.ts_end IS NULL AND r.status IN ('planned', 'running') AND r.clean_table = %(clean_table)s
  AND r.process_name NOT LIKE '%%:dedup' AND r.publish_at_end
  AND NOT EXISTS (SELECT 1 FROM public.inc_processing_run_partitions l
                  WHERE l.run_id = r.id AND l.state <> 'done' AND l.released_at IS NOT NULL AND l.open_slices > 0)
  AND EXISTS (
      SELECT 1 FROM public.inc_processing_run_partitions rp
      JOIN public.inc_processing_partitions p ON p.clean_table = r.clean_table AND p.partition = rp.partition
      WHERE rp.run_id = r.id AND rp.state <> 'done' AND rp.open_slices = 0
        AND ((p.publish_state = 'running' AND p.lease_until >= clock_timestamp())
          OR (p.publish_state = 'due' AND (p.not_before > clock_timestamp() OR EXISTS (
              SELECT 1 FROM public.inc_processing_partitions o
              WHERE o.clean_table = p.clean_table AND o.publish_state = 'running' AND o.lease_until >= clock_timestamp())))))
GROUP BY r.process_name;

-- name: metrics_active_slices
-- Their slices.
SELECT r.process_name, s.state, count(*) AS slices FROM public.inc_processing_slices s
JOIN public.inc_processing r ON r.id = s.run_id
WHERE s.run_id = ANY (%(run_ids)s) GROUP BY 1, 2;

-- name: metrics_publishing
-- What is owed, due, under way, in error or incomplete, over all partitions.
SELECT count(*) FILTER (WHERE loaded_gen > published_gen) AS owed,
    count(*) FILTER (WHERE publish_state = 'due') AS due,
    count(*) FILTER (WHERE publish_state = 'running') AS running,
    count(*) FILTER (WHERE publish_state = 'error') AS error,
    count(*) FILTER (WHERE incomplete) AS incomplete,
    extract(epoch FROM clock_timestamp() - min(first_unpublished_at) FILTER (WHERE loaded_gen > published_gen)) AS oldest_s,
    max(last_published_at) AS last_published_at,
    (SELECT l.last_duration_ms FROM public.inc_processing_partitions l
     WHERE l.clean_table = %(clean_table)s AND l.last_published_at IS NOT NULL
     ORDER BY l.last_published_at DESC LIMIT 1) AS last_duration_ms,
    coalesce((SELECT sum(extract(epoch FROM upper(r) - lower(r))) FROM public.inc_processing_partitions o
              CROSS JOIN LATERAL unnest(o.loaded - o.published) AS r
              WHERE o.clean_table = %(clean_table)s AND o.loaded_gen > o.published_gen), 0) AS unpublished_s
FROM public.inc_processing_partitions WHERE clean_table = %(clean_table)s;

-- name: metrics_reconcile
-- The newest reconcile that has ended, and when the newest one ended that could compare to its end.
SELECT r.status, r.ended_at, coalesce(r.missing, 0) AS missing, coalesce(r.extra, 0) AS extra, coalesce(r.changed, 0) AS changed,
    (SELECT max(c.ended_at) FROM public.inc_processing_reconciles c
     WHERE c.clean_table = %(clean_table)s AND c.status IN ('exact', 'different')) AS compared_at
FROM public.inc_processing_reconciles r
WHERE r.clean_table = %(clean_table)s AND r.ended_at IS NOT NULL ORDER BY r.id DESC LIMIT 1;
