-- name: insert_slices
-- All slices of a run in one statement.
INSERT INTO public.inc_processing_slices (run_id, clean_table, partition, window_from, window_to, step)
SELECT %(run_id)s, %(clean_table)s, u.partition, u.window_from, u.window_to, u.step
FROM unnest(%(partitions)s::integer[], %(window_froms)s::timestamptz[], %(window_tos)s::timestamptz[], %(steps)s::integer[])
    AS u(partition, window_from, window_to, step);

-- name: insert_run_partitions
-- The partitions of a run with their counts of open slices.
INSERT INTO public.inc_processing_run_partitions (run_id, partition, slices, open_slices)
SELECT run_id, partition, count(*), count(*) FROM public.inc_processing_slices WHERE run_id = %(run_id)s GROUP BY run_id, partition;

-- name: upsert_partitions
-- Coverage rows for every partition of the run.
INSERT INTO public.inc_processing_partitions (clean_table, partition)
SELECT %(clean_table)s, partition FROM unnest(%(partitions)s::integer[]) AS partition ORDER BY partition
ON CONFLICT DO NOTHING;

-- name: release_partitions
-- The next waiting partitions of a run, in order of time.
UPDATE public.inc_processing_run_partitions rp SET state = 'loading', released_at = clock_timestamp()
FROM (SELECT run_id, partition FROM public.inc_processing_run_partitions
      WHERE run_id = %(run_id)s AND state = 'waiting' ORDER BY partition LIMIT %(most)s) AS next
WHERE rp.run_id = next.run_id AND rp.partition = next.partition
RETURNING rp.partition;

-- name: release_slices
-- The slices of released partitions become due.
UPDATE public.inc_processing_slices SET released_at = clock_timestamp()
WHERE run_id = %(run_id)s AND partition = ANY (%(partitions)s::integer[]) AND released_at IS NULL AND state = 'planned';

-- name: unsent_slices
-- Released slices of an active run that nobody has sent yet, in order of time.
SELECT s.id, s.partition, r.manual FROM public.inc_processing_slices s JOIN public.inc_processing r ON r.id = s.run_id
WHERE s.run_id = %(run_id)s AND s.state = 'planned' AND s.released_at IS NOT NULL AND s.enqueued_at IS NULL
  AND (s.not_before IS NULL OR s.not_before <= clock_timestamp())
  AND r.ts_end IS NULL
ORDER BY s.partition, s.window_from;

-- name: mark_slices_sent
-- Believed to be in the queue from now on; locked in one order, as every other query that takes several slices.
WITH locked AS (
    SELECT id FROM public.inc_processing_slices
    WHERE id = ANY (%(slice_ids)s::bigint[]) AND state IN ('planned', 'running') ORDER BY id FOR NO KEY UPDATE)
UPDATE public.inc_processing_slices s SET enqueued_at = clock_timestamp(), sends = sends + 1
FROM locked WHERE s.id = locked.id;

-- name: touch_run_of_slice
-- planned -> running at its first claim, and life at most once in 10 s; locks the run only when it writes.
UPDATE public.inc_processing r SET status = 'running', heartbeat_at = clock_timestamp()
FROM public.inc_processing_slices s
WHERE s.id = %(slice_id)s AND s.clean_table = %(clean_table)s
  AND s.released_at IS NOT NULL AND s.state IN ('planned', 'running') AND r.id = s.run_id AND r.ts_end IS NULL AND r.status IN ('planned', 'running')
  AND (r.status = 'planned' OR r.heartbeat_at IS NULL OR r.heartbeat_at < clock_timestamp() - interval '10 s');

-- name: lock_partition_of_slice
-- Claims of one partition come one after the other, so that no two read overlapping windows.
SELECT p.partition FROM public.inc_processing_partitions p
JOIN public.inc_processing_slices s ON s.clean_table = p.clean_table AND s.partition = p.partition
WHERE s.id = %(slice_id)s FOR NO KEY UPDATE OF p;

-- name: claim_slice
-- The one guarded claim: of our CLEAN table, released and due or its lease expired, run active, nobody reads an overlapping window under a live lease.
UPDATE public.inc_processing_slices s
SET state = 'running', attempt = s.attempt + 1, spent = s.spent + 1, started_at = clock_timestamp(), worker = %(worker)s,
    lease_until = clock_timestamp() + make_interval(secs => %(lease_s)s)
FROM public.inc_processing r
WHERE s.id = %(slice_id)s AND s.clean_table = %(clean_table)s
  AND r.id = s.run_id AND r.ts_end IS NULL AND r.status IN ('planned', 'running')
  AND s.released_at IS NOT NULL AND s.spent < %(max_attempts)s
  AND ((s.state = 'planned' AND (s.not_before IS NULL OR s.not_before <= clock_timestamp()))
    OR (s.state = 'running' AND s.lease_until < clock_timestamp()))
  AND NOT EXISTS (
      SELECT 1 FROM public.inc_processing_slices o
      WHERE o.state = 'running' AND o.lease_until >= clock_timestamp() AND o.id <> s.id
        AND o.clean_table = s.clean_table AND o.partition = s.partition
        AND o.window_from < s.window_to AND o.window_to > s.window_from)
RETURNING s.id AS slice_id, s.run_id, s.clean_table, s.partition, s.window_from, s.window_to, s.step, s.depth, s.attempt, s.spent,
    r.manual, r.process_name;

-- name: defer_slice_if_planned
-- A claim refused because another lane reads the same window, or the worker is of another CLEAN table: come back soon, by the sweeper.
UPDATE public.inc_processing_slices s
SET enqueued_at = NULL, not_before = clock_timestamp() + make_interval(secs => %(delay_s)s)
FROM public.inc_processing r
WHERE s.id = %(slice_id)s AND r.id = s.run_id AND r.ts_end IS NULL AND s.state = 'planned' AND s.released_at IS NOT NULL
  AND (s.not_before IS NULL OR s.not_before <= clock_timestamp())
RETURNING s.id;

-- name: renew_slice_if_running
-- The lease of an attempt that still owns its slice.
UPDATE public.inc_processing_slices s SET lease_until = clock_timestamp() + make_interval(secs => %(lease_s)s)
FROM public.inc_processing r
WHERE s.id = %(slice_id)s AND s.attempt = %(attempt)s AND s.state = 'running' AND r.id = s.run_id AND r.ts_end IS NULL
RETURNING s.id;

-- name: note_overload_if_running
-- A rejection by the source, counted and told, while the attempt goes on.
UPDATE public.inc_processing_slices SET overloads = overloads + 1, error_kind = %(error_kind)s, last_error = %(last_error)s
WHERE id = %(slice_id)s AND attempt = %(attempt)s AND state = 'running'
RETURNING id;

-- name: finish_slice_if_running
-- running -> done, fenced by the attempt.
UPDATE public.inc_processing_slices
SET state = 'done', finished_at = clock_timestamp(), lease_until = NULL, generation = %(generation)s, rows_counted = %(rows_counted)s,
    rows_read = %(rows_read)s, rows_inserted = %(rows_inserted)s, rows_distinct = %(rows_distinct)s,
    rows_rejected = %(rows_rejected)s, rows_slow = %(rows_slow)s, timings_ms = %(timings_ms)s
WHERE id = %(slice_id)s AND attempt = %(attempt)s AND state = 'running'
RETURNING id;

-- name: split_slice_if_running
-- running -> split, fenced by the attempt.
UPDATE public.inc_processing_slices
SET state = 'split', finished_at = clock_timestamp(), lease_until = NULL, error_kind = %(error_kind)s, last_error = %(last_error)s
WHERE id = %(slice_id)s AND attempt = %(attempt)s AND state = 'running'
RETURNING id, run_id, clean_table, partition, step, depth;

-- name: insert_child_slice
-- A half of a split slice: released at once, attempts of its own.
INSERT INTO public.inc_processing_slices (run_id, clean_table, partition, window_from, window_to, step, parent_id, depth, released_at)
SELECT run_id, clean_table, partition, %(window_from)s, %(window_to)s, step, id, depth + 1, clock_timestamp()
FROM public.inc_processing_slices WHERE id = %(parent_id)s
RETURNING id;

-- name: fail_slice_if_running
-- running -> error, fenced by the attempt.
UPDATE public.inc_processing_slices
SET state = 'error', finished_at = clock_timestamp(), lease_until = NULL, error_kind = %(error_kind)s, last_error = %(last_error)s,
    rows_rejected = coalesce(%(rows_rejected)s, rows_rejected)
WHERE id = %(slice_id)s AND attempt = %(attempt)s AND state = 'running'
RETURNING id;

-- name: give_back_slice_if_running
-- running -> planned: to be tried again later, the attempt refunded where it is not the slice's fault.
UPDATE public.inc_processing_slices
SET state = 'planned', lease_until = NULL, spent = spent - %(refund)s, enqueued_at = NULL,
    not_before = clock_timestamp() + make_interval(secs => %(delay_s)s), error_kind = %(error_kind)s, last_error = %(last_error)s
WHERE id = %(slice_id)s AND attempt = %(attempt)s AND state = 'running'
RETURNING id;

-- name: spent_slices
-- Slices of active runs whose attempts are spent and that nobody works on.
SELECT s.id, s.run_id, s.clean_table, s.partition, s.attempt FROM public.inc_processing_slices s JOIN public.inc_processing r ON r.id = s.run_id
WHERE r.ts_end IS NULL AND r.clean_table = %(clean_table)s AND s.spent >= %(max_attempts)s
  AND (s.state = 'planned' OR (s.state = 'running' AND s.lease_until < clock_timestamp()))
  AND (%(slice_id)s::bigint IS NULL OR s.id = %(slice_id)s)
LIMIT 1000;

-- name: fail_spent_slice
-- A slice whose every attempt ended without a word (a killed child) or with an error.
UPDATE public.inc_processing_slices
SET state = 'error', finished_at = clock_timestamp(), lease_until = NULL, error_kind = coalesce(error_kind, 'AttemptLost'),
    last_error = coalesce(last_error, '') || CASE WHEN state = 'running'
        THEN format(E'\nattempt %%s ended without a word on %%s: its lease expired (killed, out of memory, or its host is gone)', attempt, worker)
        ELSE '' END
WHERE id = %(slice_id)s AND spent >= %(max_attempts)s
  AND (state = 'planned' OR (state = 'running' AND lease_until < clock_timestamp()))
RETURNING id, run_id, clean_table, partition;

-- name: sweep_slices
-- What is due and not moving: never sent, or believed sent too long ago, or its lease expired.
-- With empty queues the message was taken and came to nothing: lost with Redis, or taken by a worker that is cut off from this journal.
SELECT s.id, s.run_id, s.partition, r.manual, s.enqueued_at IS NOT NULL AND s.state = 'planned' AS believed_queued
FROM public.inc_processing_slices s JOIN public.inc_processing r ON r.id = s.run_id
WHERE r.ts_end IS NULL AND r.status IN ('planned', 'running') AND r.clean_table = %(clean_table)s
  AND s.released_at IS NOT NULL AND s.spent < %(max_attempts)s
  AND ((s.state = 'planned' AND (s.not_before IS NULL OR s.not_before <= clock_timestamp())
        AND ((s.enqueued_at IS NULL AND s.released_at < clock_timestamp() - make_interval(secs => %(grace_s)s))
          OR s.enqueued_at < clock_timestamp() - CASE WHEN %(queue_empty)s THEN make_interval(secs => %(grace_s)s)
              ELSE make_interval(secs => %(resend_after_s)s * power(2, least(s.sends, 7) - 1)) END))
    OR (s.state = 'running' AND s.lease_until < clock_timestamp()
        AND (s.enqueued_at IS NULL OR s.enqueued_at < s.lease_until
          OR s.enqueued_at < clock_timestamp() - make_interval(secs => CASE WHEN %(queue_empty)s THEN %(grace_s)s ELSE %(resend_after_s)s END))))
ORDER BY s.state DESC, s.enqueued_at NULLS FIRST, s.window_from
LIMIT %(most)s;

-- name: queue_beliefs
-- What ought to be in Redis: slices believed queued, and slices and publishes that a worker holds unacknowledged.
SELECT count(*) FILTER (WHERE s.state = 'planned' AND s.enqueued_at IS NOT NULL) AS queued,
    count(*) FILTER (WHERE s.state = 'running' AND s.lease_until >= clock_timestamp())
    + (SELECT count(*) FROM public.inc_processing_partitions p
       WHERE p.clean_table = %(clean_table)s AND p.publish_state = 'running' AND p.lease_until >= clock_timestamp()) AS running
FROM public.inc_processing_slices s JOIN public.inc_processing r ON r.id = s.run_id
WHERE r.ts_end IS NULL AND r.clean_table = %(clean_table)s AND s.state IN ('planned', 'running') AND s.released_at IS NOT NULL;

-- name: next_version
-- One version for one execution of a source query: it only ever grows.
INSERT INTO public.inc_processing_fences AS f (clean_table, version_ms)
VALUES (%(clean_table)s, floor(extract(epoch FROM clock_timestamp()) * 1000))
ON CONFLICT (clean_table) DO UPDATE
SET version_ms = greatest(f.version_ms + 1, floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint)
RETURNING version_ms;

-- name: insert_reject
-- A row that was not moved, counted once a run however often its slice is tried.
INSERT INTO public.inc_processing_rejects (run_id, row_key, column_name, slice_id, value, reason)
VALUES (%(run_id)s, %(row_key)s, %(column_name)s, %(slice_id)s, %(value)s, %(reason)s)
ON CONFLICT (run_id, row_key, column_name) DO UPDATE SET value = excluded.value, reason = excluded.reason;

-- name: rejected_rows_of_run
-- Distinct rows rejected so far.
SELECT count(DISTINCT row_key) AS rejected_rows FROM public.inc_processing_rejects WHERE run_id = %(run_id)s;

-- name: lock_rejects_of_run
-- Counting and inserting rejects of one run come one after the other.
SELECT pg_advisory_xact_lock(hashtextextended('rejects', %(run_id)s));

-- name: close_slice_of_run_partition
-- One slice less, its children more; the count decides, never NOT EXISTS.
UPDATE public.inc_processing_run_partitions
SET open_slices = open_slices - 1 + %(children)s, slices = slices + %(children)s, failed_slices = failed_slices + %(failed)s,
    wanted_gen = coalesce(%(generation)s, wanted_gen),
    state = CASE WHEN open_slices - 1 + %(children)s = 0 THEN 'publishing' ELSE state END
WHERE run_id = %(run_id)s AND partition = %(partition)s
RETURNING open_slices, failed_slices, wanted_gen;

-- name: finish_run_partition_if_settled
-- Nothing open, and published as far as the run wanted (or no publish is waited for).
UPDATE public.inc_processing_run_partitions rp SET state = 'done', finished_at = clock_timestamp()
FROM public.inc_processing r, public.inc_processing_partitions p
WHERE rp.run_id = %(run_id)s AND rp.partition = %(partition)s AND rp.state <> 'done' AND rp.open_slices = 0
  AND r.id = rp.run_id AND r.ts_end IS NULL AND p.clean_table = r.clean_table AND p.partition = rp.partition
  AND (p.published_gen >= rp.wanted_gen OR NOT r.publish_at_end OR rp.publish_failed)
RETURNING rp.partition;

-- name: close_partition_of_run
-- One partition less; the count leads to finalize.
UPDATE public.inc_processing SET open_partitions = open_partitions - 1, progress_at = clock_timestamp(), heartbeat_at = clock_timestamp()
WHERE id = %(run_id)s
RETURNING open_partitions;
