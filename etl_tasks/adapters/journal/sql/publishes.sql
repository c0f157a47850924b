-- name: lock_partition
-- The partition's row, before anything of it is decided.
SELECT clean_table, partition, loaded_gen, published_gen, publish_state, first_unpublished_at, last_published_at, last_duration_ms,
    not_before, token, target_gen, attempt
FROM public.inc_processing_partitions WHERE clean_table = %(clean_table)s AND partition = %(partition)s
FOR NO KEY UPDATE;

-- name: load_partition
-- A slice of the partition was loaded: one generation more, its window into the coverage.
UPDATE public.inc_processing_partitions
SET loaded_gen = loaded_gen + 1, loaded = loaded + tstzmultirange(tstzrange(%(window_from)s, %(window_to)s)),
    first_unpublished_at = coalesce(first_unpublished_at, clock_timestamp())
WHERE clean_table = %(clean_table)s AND partition = %(partition)s
RETURNING loaded_gen;

-- name: unpublished_steps
-- Steps loaded since the published generation, across runs; not those of a run by hand that goes on: it publishes at its end.
SELECT count(DISTINCT (s.run_id, s.step)) AS steps FROM public.inc_processing_slices s
JOIN public.inc_processing_partitions p ON p.clean_table = s.clean_table AND p.partition = s.partition
JOIN public.inc_processing r ON r.id = s.run_id
WHERE s.clean_table = %(clean_table)s AND s.partition = %(partition)s AND s.state = 'done' AND s.generation > p.published_gen
  AND NOT (r.manual AND r.ts_end IS NULL);

-- name: open_slices_of_partition
-- What active runs of any lane have still to load into the partition.
SELECT coalesce(sum(rp.open_slices), 0) AS open_slices FROM public.inc_processing_run_partitions rp
JOIN public.inc_processing r ON r.id = rp.run_id
WHERE rp.partition = %(partition)s AND rp.state <> 'done' AND r.clean_table = %(clean_table)s AND r.ts_end IS NULL;

-- name: publish_becomes_due
-- idle or error -> due, not before the moment given; a due one keeps the earlier moment, or its back-off after a failure.
UPDATE public.inc_processing_partitions
SET publish_state = 'due', spent = CASE WHEN publish_state = 'due' THEN spent ELSE 0 END,
    enqueued_at = CASE WHEN publish_state = 'due' THEN enqueued_at END,
    not_before = CASE WHEN publish_state <> 'due' THEN %(not_before)s WHEN spent > 0 THEN not_before
        ELSE least(not_before, %(not_before)s) END
WHERE clean_table = %(clean_table)s AND partition = %(partition)s AND publish_state IN ('idle', 'due', 'error')
  AND (loaded_gen > published_gen OR rebuild)
RETURNING not_before <= clock_timestamp() AS now_due;

-- name: claim_publish_if_due
-- due (or running with an expired lease) -> running; what it will publish is fixed here.
UPDATE public.inc_processing_partitions
SET publish_state = 'running', attempt = attempt + 1, spent = spent + 1, target_gen = loaded_gen, enqueued_at = NULL, not_before = NULL,
    lease_until = clock_timestamp() + make_interval(secs => %(lease_s)s)
WHERE clean_table = %(clean_table)s AND partition = %(partition)s AND spent < %(max_attempts)s
  AND ((publish_state = 'due' AND (not_before IS NULL OR not_before <= clock_timestamp()))
    OR (publish_state = 'running' AND lease_until < clock_timestamp()))
RETURNING partition, attempt, spent, target_gen, published_gen, rebuild, coalesce(rebuild_least_rows, 0) AS least_rows,
    ARRAY(SELECT lower(r) FROM unnest(rebuild_lost) AS r ORDER BY 1) AS lost_froms,
    ARRAY(SELECT upper(r) FROM unnest(rebuild_lost) AS r ORDER BY 1) AS lost_tos;

-- name: next_token
-- The newest fence of the CLEAN table; it grows past what a restored older journal would repeat.
INSERT INTO public.inc_processing_fences AS f (clean_table, token)
VALUES (%(clean_table)s, floor(extract(epoch FROM clock_timestamp()) * 1000))
ON CONFLICT (clean_table) DO UPDATE
SET token = greatest(f.token + 1, floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint)
RETURNING token;

-- name: raise_fence_if_newest
-- Past a token that ClickHouse knows and a restored older journal does not.
UPDATE public.inc_processing_fences SET token = greatest(token, %(newer_token)s)
WHERE clean_table = %(clean_table)s AND token = %(token)s
RETURNING token;

-- name: bind_publish_token
-- The claimed publish gets its token and its journal row.
UPDATE public.inc_processing_partitions SET token = %(token)s, publish_run_id = %(publish_run_id)s,
    rebuild_run_id = CASE WHEN rebuild THEN %(publish_run_id)s ELSE rebuild_run_id END
WHERE clean_table = %(clean_table)s AND partition = %(partition)s;

-- name: windows_to_publish
-- The windows loaded since the published generation, and the keys their slices counted.
SELECT id AS slice_id, window_from, window_to, coalesce(rows_distinct, 0) AS distinct_rows FROM public.inc_processing_slices
WHERE clean_table = %(clean_table)s AND partition = %(partition)s AND state = 'done'
  AND generation > %(published_gen)s AND generation <= %(target_gen)s
ORDER BY window_from;

-- name: close_dead_publish_rows
-- The journal row that a dead publisher left, under the lock.
UPDATE public.inc_processing SET status = 'error', ts_end = clock_timestamp(),
    details = details || '{"error": "the publisher died; a newer publish took over"}'::jsonb
WHERE process_name = %(process_name)s AND ts_end IS NULL;

-- name: insert_publish_row
-- A publish in the journal under <process>:dedup.
INSERT INTO public.inc_processing (process_name, status, since, until, heartbeat_at, progress_at, details, clean_table)
VALUES (%(process_name)s, 'running', %(since)s, %(until)s, clock_timestamp(), clock_timestamp(), %(details)s, %(clean_table)s)
RETURNING id;

-- name: renew_publish_if_running
-- The lease of the publish that still is the newest.
UPDATE public.inc_processing_partitions p SET lease_until = clock_timestamp() + make_interval(secs => %(lease_s)s)
FROM public.inc_processing_fences f
WHERE p.clean_table = %(clean_table)s AND p.partition = %(partition)s AND p.publish_state = 'running' AND p.token = %(token)s
  AND f.clean_table = p.clean_table AND f.token = %(token)s
RETURNING p.partition;

-- name: record_stage
-- A stage metric into the publish's journal row, as a heartbeat.
UPDATE public.inc_processing SET heartbeat_at = clock_timestamp(), progress_at = clock_timestamp(),
    details = jsonb_set(details || %(last)s, '{stages}', coalesce(details -> 'stages', '[]'::jsonb) || %(stage)s)
WHERE id = %(publish_run_id)s AND ts_end IS NULL;

-- name: end_publish_row
-- The end of a publish's journal row.
UPDATE public.inc_processing SET status = %(status)s, ts_end = clock_timestamp(), heartbeat_at = clock_timestamp(),
    details = details || %(details)s
WHERE id = %(publish_run_id)s AND ts_end IS NULL;

-- name: lock_runs_waiting_for_partition
-- Active runs that are not finished with the partition, locked in one order.
SELECT r.id, r.manual, r.process_name FROM public.inc_processing r
WHERE r.ts_end IS NULL AND r.clean_table = %(clean_table)s AND r.status IN ('planned', 'running')
  AND EXISTS (SELECT 1 FROM public.inc_processing_run_partitions rp
              WHERE rp.run_id = r.id AND rp.partition = %(partition)s AND rp.state <> 'done')
ORDER BY r.id
FOR NO KEY UPDATE;

-- name: uncover_rebuilt_losses
-- What a rebuild was agreed to lose is not loaded any more, except what was loaded since the last publish: the rebuild had it.
UPDATE public.inc_processing_partitions p
SET loaded = (loaded - rebuild_lost) + coalesce((
        SELECT range_agg(tstzrange(s.window_from, s.window_to)) FROM public.inc_processing_slices s
        WHERE s.clean_table = p.clean_table AND s.partition = p.partition AND s.state = 'done'
          AND s.generation > p.published_gen), '{}'::tstzmultirange)
WHERE p.clean_table = %(clean_table)s AND p.partition = %(partition)s AND p.publish_state = 'running' AND p.token = %(token)s AND p.rebuild;

-- name: finish_publish_if_running
-- running -> idle: coverage, generation and duration together, fenced by the token.
UPDATE public.inc_processing_partitions p
SET published_gen = target_gen, publish_state = 'idle', lease_until = NULL, spent = 0, rebuild = false, rebuild_least_rows = NULL,
    rebuild_lost = '{}', error_kind = NULL, last_error = NULL,
    last_published_at = clock_timestamp(), last_duration_ms = %(duration_ms)s, pinned = %(pinned)s,
    published = published + coalesce((
        SELECT range_agg(tstzrange(s.window_from, s.window_to)) FROM public.inc_processing_slices s
        WHERE s.clean_table = p.clean_table AND s.partition = p.partition AND s.state = 'done'
          AND s.generation > p.published_gen AND s.generation <= p.target_gen), '{}'::tstzmultirange),
    first_unpublished_at = (
        SELECT min(s.finished_at) FROM public.inc_processing_slices s
        WHERE s.clean_table = p.clean_table AND s.partition = p.partition AND s.state = 'done' AND s.generation > p.target_gen),
    incomplete = EXISTS (
        SELECT 1 FROM public.inc_processing_slices s JOIN public.inc_processing r ON r.id = s.run_id
        WHERE s.clean_table = p.clean_table AND s.partition = p.partition AND s.state = 'error'
          AND NOT p.loaded @> tstzrange(s.window_from, s.window_to)
          AND NOT (s.error_kind IS NOT DISTINCT FROM 'RunEnded' AND r.details ? 'cancelled'))
WHERE p.clean_table = %(clean_table)s AND p.partition = %(partition)s AND p.publish_state = 'running' AND p.token = %(token)s
RETURNING p.published_gen, p.loaded_gen, p.incomplete;

-- name: runs_wanting_publish
-- Active runs that wait for more than what is published.
SELECT r.id, r.manual, r.process_name FROM public.inc_processing_run_partitions rp JOIN public.inc_processing r ON r.id = rp.run_id
JOIN public.inc_processing_partitions p ON p.clean_table = r.clean_table AND p.partition = rp.partition
WHERE r.clean_table = %(clean_table)s AND rp.partition = %(partition)s AND r.ts_end IS NULL AND r.publish_at_end
  AND rp.state <> 'done' AND rp.open_slices = 0 AND rp.wanted_gen > p.published_gen;

-- name: give_back_publish_if_running
-- running -> due: later again; the attempt refunded where the publish is not at fault.
UPDATE public.inc_processing_partitions
SET publish_state = 'due', lease_until = NULL, spent = spent - %(refund)s, enqueued_at = NULL,
    not_before = clock_timestamp() + make_interval(secs => %(delay_s)s), error_kind = %(error_kind)s, last_error = %(last_error)s
WHERE clean_table = %(clean_table)s AND partition = %(partition)s AND publish_state = 'running' AND token = %(token)s
RETURNING spent;

-- name: fail_publish_if_running
-- running -> error: only a new load, or somebody, tries again. A rebuild was asked for once, not for good: what is owed
-- is due as if it had not been.
UPDATE public.inc_processing_partitions
SET publish_state = CASE WHEN NOT rebuild THEN 'error' WHEN loaded_gen > published_gen THEN 'due' ELSE 'idle' END,
    spent = CASE WHEN rebuild THEN 0 ELSE spent END, lease_until = NULL, rebuild = false, rebuild_least_rows = NULL, rebuild_lost = '{}',
    error_kind = %(error_kind)s, last_error = %(last_error)s
WHERE clean_table = %(clean_table)s AND partition = %(partition)s AND publish_state = 'running' AND token = %(token)s
RETURNING publish_state;

-- name: spent_publishes
-- Publishes whose attempts are spent and that nobody works on.
SELECT clean_table, partition, token FROM public.inc_processing_partitions
WHERE clean_table = %(clean_table)s AND spent >= %(max_attempts)s
  AND (publish_state = 'due' OR (publish_state = 'running' AND lease_until < clock_timestamp()));

-- name: fail_spent_publish
-- due or deserted -> error; from a rebuild back to what is owed, as in fail_publish_if_running.
UPDATE public.inc_processing_partitions
SET publish_state = CASE WHEN NOT rebuild THEN 'error' WHEN loaded_gen > published_gen THEN 'due' ELSE 'idle' END,
    spent = CASE WHEN rebuild THEN 0 ELSE spent END, enqueued_at = NULL, not_before = NULL,
    lease_until = NULL, rebuild = false, rebuild_least_rows = NULL, rebuild_lost = '{}', last_error = coalesce(last_error, 'every attempt ended without a word')
WHERE clean_table = %(clean_table)s AND partition = %(partition)s AND spent >= %(max_attempts)s
  AND (publish_state = 'due' OR (publish_state = 'running' AND lease_until < clock_timestamp()))
RETURNING publish_state;

-- name: fail_run_partitions_wanting
-- The runs that waited for a publish that will not come.
UPDATE public.inc_processing_run_partitions rp SET publish_failed = true
FROM public.inc_processing r
WHERE r.id = rp.run_id AND r.ts_end IS NULL AND r.clean_table = %(clean_table)s AND rp.partition = %(partition)s
  AND rp.state <> 'done' AND rp.open_slices = 0
RETURNING rp.run_id;

-- name: lock_runs_of_slices
-- Active runs whose slices may be opened again, locked in one order.
SELECT r.id FROM public.inc_processing r
WHERE r.ts_end IS NULL AND r.status IN ('planned', 'running')
  AND r.id IN (SELECT run_id FROM public.inc_processing_slices WHERE id = ANY (%(slice_ids)s::bigint[]))
ORDER BY r.id
FOR NO KEY UPDATE;

-- name: reopen_slice_of_active_run
-- A window whose rows RAW no longer has, of a run that still waits for the partition: load it again.
UPDATE public.inc_processing_slices s
SET state = 'planned', generation = NULL, enqueued_at = NULL, not_before = NULL, finished_at = NULL,
    error_kind = 'CountMismatch', last_error = %(reason)s
FROM public.inc_processing r, public.inc_processing_run_partitions rp
WHERE s.id = %(slice_id)s AND s.state = 'done' AND r.id = s.run_id AND r.ts_end IS NULL
  AND rp.run_id = s.run_id AND rp.partition = s.partition AND rp.state <> 'done'
RETURNING s.run_id, s.partition;

-- name: reopen_run_partition
-- Its run waits for it again.
UPDATE public.inc_processing_run_partitions SET open_slices = open_slices + 1, state = 'loading'
WHERE run_id = %(run_id)s AND partition = %(partition)s;

-- name: lose_slice_if_done
-- A window whose rows RAW no longer has, and whose run has ended or is finished with the partition: not loaded after all.
UPDATE public.inc_processing_slices SET state = 'error', generation = NULL, error_kind = 'CountMismatch', last_error = %(reason)s
WHERE id = %(slice_id)s AND state = 'done'
RETURNING run_id, partition;

-- name: count_lost_slice
-- Its run, if it goes on, will not end ok.
UPDATE public.inc_processing_run_partitions SET failed_slices = failed_slices + 1
WHERE run_id = %(run_id)s AND partition = %(partition)s;

-- name: uncover_window
-- Taken out of the coverage, so that the watermark, the schedule and `gaps` see it until it is loaded again.
UPDATE public.inc_processing_partitions
SET loaded = loaded - tstzmultirange(tstzrange(%(window_from)s, %(window_to)s))
WHERE clean_table = %(clean_table)s AND partition = %(partition)s;

-- name: sweep_publishes
-- Publishes due (or deserted) that nobody was told of lately.
SELECT p.clean_table, p.partition FROM public.inc_processing_partitions p
WHERE p.clean_table = %(clean_table)s AND p.spent < %(max_attempts)s
  AND ((p.publish_state = 'due' AND (p.not_before IS NULL OR p.not_before <= clock_timestamp()))
    OR (p.publish_state = 'running' AND p.lease_until < clock_timestamp()))
  AND (p.enqueued_at IS NULL OR p.enqueued_at < clock_timestamp() - make_interval(secs => %(resend_after_s)s))
  AND NOT EXISTS (SELECT 1 FROM public.inc_processing_partitions o
                  WHERE o.clean_table = p.clean_table AND o.publish_state = 'running' AND o.lease_until >= clock_timestamp())
ORDER BY p.partition LIMIT %(most)s;

-- name: mark_publish_sent
-- Somebody was told.
UPDATE public.inc_processing_partitions SET enqueued_at = clock_timestamp()
WHERE clean_table = %(clean_table)s AND partition = %(partition)s AND publish_state = 'due';

-- name: owed_partitions
-- Loaded and not published, and no publish under way.
SELECT clean_table, partition FROM public.inc_processing_partitions
WHERE loaded_gen > published_gen AND publish_state = 'idle' AND clean_table = %(clean_table)s
ORDER BY partition;

-- name: loaded_windows
-- Coverage between two moments of the source's time.
SELECT greatest(lower(r), %(window_from)s) AS window_from, least(upper(r), %(window_to)s) AS window_to
FROM public.inc_processing_partitions p
CROSS JOIN LATERAL unnest(p.loaded * tstzmultirange(tstzrange(%(window_from)s, %(window_to)s))) AS r
WHERE p.clean_table = %(clean_table)s AND p.partition BETWEEN %(first_partition)s AND %(last_partition)s
ORDER BY 1;

