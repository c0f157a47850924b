-- name: ask_for_publish
-- idle, due or error -> due now, by hand; the windows that a rebuild is agreed to lose are noted until it is done.
UPDATE public.inc_processing_partitions
SET publish_state = 'due', not_before = clock_timestamp(), enqueued_at = NULL, spent = 0, error_kind = NULL, last_error = NULL,
    rebuild = rebuild OR %(rebuild)s, rebuild_least_rows = CASE WHEN %(rebuild)s THEN %(least_rows)s ELSE rebuild_least_rows END,
    rebuild_lost = CASE WHEN %(rebuild)s THEN l.lost ELSE rebuild_lost END
FROM (SELECT coalesce(range_agg(tstzrange(u.window_from, u.window_to)), '{}') AS lost
      FROM unnest(%(lost_froms)s::timestamptz[], %(lost_tos)s::timestamptz[]) AS u(window_from, window_to)) l
WHERE clean_table = %(clean_table)s AND partition = %(partition)s AND publish_state IN ('idle', 'due', 'error')
  AND (loaded_gen > published_gen OR publish_state = 'error' OR rebuild OR %(rebuild)s)
RETURNING loaded_gen;

-- name: publish_progress
-- A partition's publish as it is now, with the journal rows of its last attempt and of the last one of a rebuild.
SELECT p.partition, p.publish_state, p.loaded_gen, p.published_gen, p.rebuild, p.not_before, p.error_kind, p.last_error, p.publish_run_id,
    p.last_published_at, p.last_duration_ms, d.details, clock_timestamp() AS now,
    p.rebuild_run_id, b.status AS rebuild_status, b.details ->> 'error' AS rebuild_error,
    EXISTS (SELECT 1 FROM public.inc_processing_partitions o
            WHERE o.clean_table = p.clean_table AND o.publish_state = 'running' AND o.lease_until >= clock_timestamp()) AS busy
FROM public.inc_processing_partitions p LEFT JOIN public.inc_processing d ON d.id = p.publish_run_id
LEFT JOIN public.inc_processing b ON b.id = p.rebuild_run_id
WHERE p.clean_table = %(clean_table)s AND p.partition = %(partition)s;
