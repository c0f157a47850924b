-- name: begin_reconcile
-- A reconcile that has just begun.
INSERT INTO public.inc_processing_reconciles (clean_table, since, until, by_hash, repairs, repair_run_id, details)
VALUES (%(clean_table)s, %(since)s, %(until)s, %(by_hash)s, %(repairs)s, %(repair_run_id)s, %(details)s)
RETURNING id;

-- name: note_reconcile
-- How far it has come, or what was begun to mend what it found.
UPDATE public.inc_processing_reconciles SET windows = coalesce(%(windows)s, windows), details = details || %(details)s
WHERE id = %(reconcile_id)s;

-- name: end_reconcile
-- Its end, with what it found.
UPDATE public.inc_processing_reconciles
SET status = %(status)s, ended_at = clock_timestamp(), windows = %(windows)s,
    differing = coalesce((SELECT range_agg(tstzrange(w.window_from, w.window_to))
        FROM unnest(%(window_froms)s::timestamptz[], %(window_tos)s::timestamptz[]) AS w(window_from, window_to)), '{}'),
    source_rows = %(source_rows)s, raw_rows = %(raw_rows)s, clean_rows = %(clean_rows)s, missing = %(missing)s,
    extra = %(extra)s, changed = %(changed)s, repeated = %(repeated)s, unfit = %(unfit)s, details = details || %(details)s
WHERE id = %(reconcile_id)s;

-- name: end_dead_reconciles
-- Whoever holds the lock of reconciles is the only one: what still says running was left by a process that died.
UPDATE public.inc_processing_reconciles
SET status = 'error', ended_at = clock_timestamp(), details = details || '{"error": "ended without a word: its process died"}'::jsonb
WHERE clean_table = %(clean_table)s AND status = 'running'
RETURNING id, started_at;

-- name: running_reconcile
-- The one that holds the lock, as far as the journal knows.
SELECT id, started_at, windows, details FROM public.inc_processing_reconciles
WHERE clean_table = %(clean_table)s AND status = 'running' ORDER BY id DESC LIMIT 1;

-- name: owed_windows
-- Windows between two moments that are loaded and not published.
SELECT s.window_from, s.window_to FROM public.inc_processing_slices s
JOIN public.inc_processing_partitions p ON p.clean_table = s.clean_table AND p.partition = s.partition
WHERE s.clean_table = %(clean_table)s AND s.partition BETWEEN %(first_partition)s AND %(last_partition)s
  AND s.state = 'done' AND s.generation > p.published_gen AND s.window_from < %(window_to)s AND s.window_to > %(window_from)s
ORDER BY s.window_from;

-- name: publish_states
-- How far the publishes of a few partitions are.
SELECT partition, loaded_gen, published_gen, publish_state, coalesce(not_before > clock_timestamp(), false) AS waits, last_error
FROM public.inc_processing_partitions
WHERE clean_table = %(clean_table)s AND partition = ANY (%(partitions)s) ORDER BY partition;

-- name: repair_to_check
-- The newest reconcile whose repair was begun by the schedule, has ended, and has not been looked at since: a look that failed
-- is none, but three such are enough.
SELECT r.id, (r.details -> 'repair' ->> 'run')::bigint AS run_id, lower(d) AS window_from, upper(d) AS window_to, r.by_hash
FROM (SELECT * FROM public.inc_processing_reconciles WHERE clean_table = %(clean_table)s AND details ? 'repair' ORDER BY id DESC LIMIT 1) r
CROSS JOIN LATERAL unnest(r.differing) AS d
WHERE NOT EXISTS (SELECT 1 FROM public.inc_processing_reconciles c WHERE c.repairs = r.id AND c.status <> 'error')
  AND (SELECT count(*) FROM public.inc_processing_reconciles c WHERE c.repairs = r.id) < 3
  AND NOT EXISTS (SELECT 1 FROM public.inc_processing a WHERE a.id = (r.details -> 'repair' ->> 'run')::bigint AND a.ts_end IS NULL)
ORDER BY 3;

-- name: unmended_windows
-- Windows that a repair of the last day did not mend.
SELECT lower(d) AS window_from, upper(d) AS window_to FROM public.inc_processing_reconciles r
CROSS JOIN LATERAL unnest(r.differing) AS d
WHERE r.clean_table = %(clean_table)s AND r.repairs IS NOT NULL AND r.status = 'different'
  AND r.started_at > clock_timestamp() - interval '1 day';
