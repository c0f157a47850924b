-- name: now
-- The only clock of the system.
SELECT clock_timestamp() AS now;

-- name: lock_process
-- One planner of a process at a time, for the length of the transaction.
SELECT pg_advisory_xact_lock(hashtextextended(%(process_name)s, 0));

-- name: insert_run_if_none_active
-- A new run; no row when the process already has an active one or the task id was used before.
INSERT INTO public.inc_processing (process_name, status, since, until, covered_until, heartbeat_at, progress_at, details,
    task_id, clean_table, manual, publish_at_end, shift_min, open_partitions)
VALUES (%(process_name)s, 'planned', %(since)s, %(until)s, %(covered_until)s, clock_timestamp(), clock_timestamp(), %(details)s,
    %(task_id)s, %(clean_table)s, %(manual)s, %(publish_at_end)s, %(shift_min)s, %(open_partitions)s)
ON CONFLICT DO NOTHING
RETURNING id;

-- name: insert_refused_run
-- A run that was not to be, with its reason.
INSERT INTO public.inc_processing (process_name, status, ts_end, since, until, details, task_id, clean_table, manual)
VALUES (%(process_name)s, %(status)s, clock_timestamp(), %(since)s, %(until)s, %(details)s, %(task_id)s, %(clean_table)s, %(manual)s)
ON CONFLICT DO NOTHING
RETURNING id;

-- name: run_of_task
-- The run that a plan task made before it was delivered again.
SELECT id, status, process_name, clean_table, details FROM public.inc_processing WHERE task_id = %(task_id)s;

-- name: active_run_of_process
-- The run that holds the process now.
SELECT id, status, since, until FROM public.inc_processing
WHERE process_name = %(process_name)s AND ts_end IS NULL AND status IN ('planned', 'running');

-- name: watermark_of_process
-- Business time up to which the process is loaded without a gap; NULL before the first ok run. Of the rows that the old
-- system left (no CLEAN table) only the last ok one counts: what its failed runs noted was not reached.
SELECT greatest(
    (SELECT max(watermark) FROM public.inc_processing
     WHERE process_name = %(process_name)s AND ts_end IS NOT NULL AND clean_table IS NOT NULL),
    (SELECT watermark FROM public.inc_processing
     WHERE process_name = %(process_name)s AND clean_table IS NULL AND status = 'ok' AND watermark IS NOT NULL
     ORDER BY ts_start DESC, id DESC LIMIT 1))::timestamptz AS watermark;

-- name: mark_run_running
-- planned -> running at its first dispatch or claim.
UPDATE public.inc_processing SET status = 'running', heartbeat_at = clock_timestamp()
WHERE id = %(run_id)s AND ts_end IS NULL AND status = 'planned';

-- name: lock_active_run
-- Serializes the transitions of one run; no row when it has ended.
SELECT id, process_name, since, until, covered_until, clean_table, manual, publish_at_end, shift_min, open_partitions, details
FROM public.inc_processing WHERE id = %(run_id)s AND ts_end IS NULL AND status IN ('planned', 'running')
FOR NO KEY UPDATE;

-- name: lane_of_run
-- What a run asks of the cadence. Never changes, so it needs no lock, and takes none after a partition's.
SELECT manual, publish_at_end FROM public.inc_processing WHERE id = %(run_id)s;

-- name: process_of_run
-- The process that a run belongs to; never changes.
SELECT process_name FROM public.inc_processing WHERE id = %(run_id)s;

-- name: heartbeat_run
-- At most one write in 10 s; progress counts as life, life alone is not progress.
UPDATE public.inc_processing SET heartbeat_at = clock_timestamp(),
    progress_at = CASE WHEN %(progress)s THEN clock_timestamp() ELSE progress_at END
WHERE id = %(run_id)s AND ts_end IS NULL
  AND (heartbeat_at < clock_timestamp() - interval '10 s' OR (%(progress)s AND progress_at < clock_timestamp() - interval '10 s'));

-- name: progress_run
-- A transition of the run has just been committed with this.
UPDATE public.inc_processing SET heartbeat_at = clock_timestamp(), progress_at = clock_timestamp()
WHERE id = %(run_id)s AND ts_end IS NULL;

-- name: end_run_if_active
-- The end of a run, its watermark in the same write; a row of the old system keeps what it has.
UPDATE public.inc_processing SET status = %(status)s, ts_end = clock_timestamp(),
    watermark = CASE WHEN clean_table IS NULL THEN watermark ELSE %(watermark)s END,
    details = coalesce(details, '{}') || %(details)s
WHERE id = %(run_id)s AND ts_end IS NULL
RETURNING id;

-- name: holes_of_run
-- What the run did not load: its windows not done, less what any lane has loaded since.
SELECT lower(hole) AS window_from, upper(hole) AS window_to
FROM (
    SELECT s.clean_table, s.partition, range_agg(tstzrange(s.window_from, s.window_to)) AS wanted
    FROM public.inc_processing_slices s
    WHERE s.run_id = %(run_id)s AND s.state IN ('planned', 'running', 'error')
    GROUP BY s.clean_table, s.partition
) w
JOIN public.inc_processing_partitions p USING (clean_table, partition)
CROSS JOIN LATERAL unnest(w.wanted - p.loaded) AS hole
ORDER BY 1;

-- name: outcome_of_run
-- Counts for the closing status.
SELECT coalesce(sum(failed_slices), 0) AS failed_slices, coalesce(sum(slices), 0) AS slices,
    count(*) FILTER (WHERE publish_failed) AS publish_failed,
    array_remove(array_agg(partition ORDER BY partition) FILTER (WHERE failed_slices > 0 OR publish_failed), NULL) AS incomplete
FROM public.inc_processing_run_partitions WHERE run_id = %(run_id)s;

-- name: abandon_open_slices
-- Slices of a run that ends before they were done.
WITH locked AS (
    SELECT id FROM public.inc_processing_slices
    WHERE run_id = %(run_id)s AND state IN ('planned', 'running') ORDER BY id FOR NO KEY UPDATE)
UPDATE public.inc_processing_slices s SET state = 'error', error_kind = 'RunEnded', finished_at = clock_timestamp(),
    last_error = coalesce(s.last_error || E'\n', '') || %(reason)s
FROM locked WHERE s.id = locked.id;

-- name: close_partitions_of_run
-- The partitions of a run that ends before they were done.
UPDATE public.inc_processing_run_partitions SET state = 'done', finished_at = clock_timestamp(),
    failed_slices = failed_slices + open_slices, open_slices = 0
WHERE run_id = %(run_id)s AND state <> 'done';

-- name: owe_publishes_of_run
-- What an ended run had loaded and nobody has published yet becomes due; one that is published right now, its end offers again.
WITH locked AS (
    SELECT p.clean_table, p.partition FROM public.inc_processing_partitions p
    JOIN public.inc_processing_run_partitions rp ON rp.partition = p.partition
    JOIN public.inc_processing r ON r.id = rp.run_id AND r.clean_table = p.clean_table
    WHERE rp.run_id = %(run_id)s AND p.loaded_gen > p.published_gen AND p.publish_state IN ('idle', 'error')
    ORDER BY p.clean_table, p.partition FOR NO KEY UPDATE OF p)
UPDATE public.inc_processing_partitions p
SET publish_state = 'due', not_before = clock_timestamp(), enqueued_at = NULL, spent = 0
FROM locked WHERE p.clean_table = locked.clean_table AND p.partition = locked.partition;

-- name: unsettled_run_partitions
-- Partitions a run is finished with and has not closed: a belt for the braces of finish and publish.
SELECT rp.run_id, rp.partition FROM public.inc_processing_run_partitions rp
JOIN public.inc_processing r ON r.id = rp.run_id
JOIN public.inc_processing_partitions p ON p.clean_table = r.clean_table AND p.partition = rp.partition
WHERE r.ts_end IS NULL AND r.clean_table = %(clean_table)s AND rp.state <> 'done' AND rp.open_slices = 0
  AND (p.published_gen >= rp.wanted_gen OR NOT r.publish_at_end OR rp.publish_failed);

-- name: unoffered_run_partitions
-- Partitions loaded to their end whose run waits for a publish that nobody has made due.
SELECT rp.run_id, rp.partition, r.clean_table FROM public.inc_processing_run_partitions rp
JOIN public.inc_processing r ON r.id = rp.run_id
JOIN public.inc_processing_partitions p ON p.clean_table = r.clean_table AND p.partition = rp.partition
WHERE r.ts_end IS NULL AND r.clean_table = %(clean_table)s AND r.publish_at_end AND rp.state <> 'done' AND rp.open_slices = 0
  AND p.published_gen < rp.wanted_gen AND p.publish_state = 'idle';

-- name: stale_planned_runs
-- Planned runs nobody took up within the TTL; asked of one run again when that is locked.
SELECT id, process_name FROM public.inc_processing
WHERE ts_end IS NULL AND status = 'planned' AND (%(process_name)s::text IS NULL OR process_name = %(process_name)s)
  AND (%(run_id)s::bigint IS NULL OR id = %(run_id)s)
  AND greatest(ts_start, heartbeat_at) < clock_timestamp() - make_interval(mins => %(ttl_min)s);

-- name: stale_running_runs
-- Running runs whose heartbeat is dead and that hold no live lease, or that are older than the hard TTL (0: no hard TTL).
SELECT r.id, r.process_name, coalesce(r.heartbeat_at, r.ts_start) AS alive_at FROM public.inc_processing r
WHERE r.ts_end IS NULL AND r.status = 'running' AND (%(process_name)s::text IS NULL OR r.process_name = %(process_name)s)
  AND (%(run_id)s::bigint IS NULL OR r.id = %(run_id)s)
  AND ((coalesce(r.heartbeat_at, r.ts_start) < clock_timestamp() - make_interval(mins => %(heartbeat_ttl_min)s)
        AND NOT EXISTS (SELECT 1 FROM public.inc_processing_slices s
                        WHERE s.run_id = r.id AND s.state = 'running' AND s.lease_until >= clock_timestamp())
        AND NOT EXISTS (SELECT 1 FROM public.inc_processing_partitions p
                        WHERE p.publish_state = 'running' AND p.lease_until >= clock_timestamp()
                          AND (p.publish_run_id = r.id OR (p.clean_table = r.clean_table AND EXISTS (
                              SELECT 1 FROM public.inc_processing_run_partitions rp
                              WHERE rp.run_id = r.id AND rp.partition = p.partition AND rp.state <> 'done')))))
    OR (%(hard_ttl_min)s > 0 AND r.ts_start < clock_timestamp() - make_interval(mins => %(hard_ttl_min)s)));

-- name: runs_without_progress
-- Active loading runs that moved nothing for the patience, and that do not merely wait for a publish's turn.
SELECT r.id, r.process_name, r.progress_at FROM public.inc_processing r
WHERE r.ts_end IS NULL AND r.status IN ('planned', 'running') AND r.clean_table = %(clean_table)s
  AND r.process_name NOT LIKE '%%:dedup' AND (%(run_id)s::bigint IS NULL OR r.id = %(run_id)s)
  AND coalesce(r.progress_at, r.ts_start) < clock_timestamp() - make_interval(secs => %(patience_s)s)
  AND NOT EXISTS (SELECT 1 FROM public.inc_processing_run_partitions rp
                  JOIN public.inc_processing_partitions p ON p.clean_table = r.clean_table AND p.partition = rp.partition
                  WHERE rp.run_id = r.id AND rp.state <> 'done'
                    AND ((p.publish_state = 'due' AND (p.not_before > clock_timestamp() OR EXISTS (
                            -- One publish of a CLEAN table at a time: this one's turn comes when the other ends.
                            SELECT 1 FROM public.inc_processing_partitions o
                            WHERE o.clean_table = p.clean_table AND o.publish_state = 'running'
                              AND o.lease_until >= clock_timestamp())))
                      OR (p.publish_state = 'running' AND p.lease_until >= clock_timestamp())));

-- name: runs_to_finalize
-- Active runs with nothing open.
SELECT id FROM public.inc_processing
WHERE ts_end IS NULL AND status IN ('planned', 'running') AND clean_table = %(clean_table)s AND open_partitions = 0
  AND process_name NOT LIKE '%%:dedup'
ORDER BY id;

-- name: active_runs
-- Loading runs not ended.
SELECT id FROM public.inc_processing
WHERE ts_end IS NULL AND status IN ('planned', 'running') AND clean_table = %(clean_table)s AND process_name NOT LIKE '%%:dedup';

-- name: prunable_runs
-- Ended runs past retention: never the last ok one of a process, never the bearer of its watermark, never one with
-- an unpublished partition, never the last one that failed on a window nobody has loaded: it is what tells of it, and what resumes it.
SELECT r.id FROM public.inc_processing r
WHERE r.clean_table = %(clean_table)s AND r.ts_end < clock_timestamp() - make_interval(days => %(retention_days)s)
  AND r.id <> ALL (
      SELECT max(k.id) FROM public.inc_processing k WHERE k.status = 'ok' GROUP BY k.process_name)
  AND (r.watermark IS NULL OR r.watermark < (
      SELECT max(k.watermark) FROM public.inc_processing k
      WHERE k.process_name = r.process_name AND k.id <> r.id AND k.ts_end IS NOT NULL AND k.clean_table IS NOT NULL))
  AND NOT EXISTS (
      SELECT 1 FROM public.inc_processing_run_partitions rp
      JOIN public.inc_processing_partitions p ON p.clean_table = r.clean_table AND p.partition = rp.partition
      WHERE rp.run_id = r.id AND p.loaded_gen > p.published_gen)
  AND NOT EXISTS (
      SELECT 1 FROM public.inc_processing_slices s
      JOIN public.inc_processing_partitions p ON p.clean_table = s.clean_table AND p.partition = s.partition
      WHERE s.run_id = r.id AND s.state = 'error' AND NOT p.loaded @> tstzrange(s.window_from, s.window_to)
        AND NOT (s.error_kind IS NOT DISTINCT FROM 'RunEnded' AND r.details ? 'cancelled')
        AND NOT EXISTS (
            SELECT 1 FROM public.inc_processing_slices n
            WHERE n.clean_table = s.clean_table AND n.partition = s.partition AND n.state = 'error' AND n.run_id > s.run_id
              AND n.window_from <= s.window_from AND n.window_to >= s.window_to AND n.error_kind IS DISTINCT FROM 'RunEnded'))
ORDER BY r.id LIMIT %(batch)s
-- Two pruners would count a run twice.
FOR UPDATE OF r SKIP LOCKED;

-- name: prune_slices
-- Slices of pruned runs.
DELETE FROM public.inc_processing_slices WHERE run_id = ANY (%(run_ids)s);

-- name: prune_run_partitions
-- Partitions of pruned runs.
DELETE FROM public.inc_processing_run_partitions WHERE run_id = ANY (%(run_ids)s);

-- name: prune_rejects
-- Rejects of pruned runs.
DELETE FROM public.inc_processing_rejects WHERE run_id = ANY (%(run_ids)s);

-- name: prune_runs
-- The pruned runs themselves.
DELETE FROM public.inc_processing WHERE id = ANY (%(run_ids)s);
