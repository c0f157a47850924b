-- name: covered_bounds
-- The first and the last instant that any lane has loaded or that was ever published; NULL when there is none.
SELECT
    (SELECT lower(p.loaded + p.published) FROM public.inc_processing_partitions p
     WHERE p.clean_table = %(clean_table)s AND NOT (isempty(p.loaded) AND isempty(p.published))
     ORDER BY p.partition LIMIT 1) AS first,
    (SELECT upper(p.loaded + p.published) FROM public.inc_processing_partitions p
     WHERE p.clean_table = %(clean_table)s AND NOT (isempty(p.loaded) AND isempty(p.published))
     ORDER BY p.partition DESC LIMIT 1) AS last;

-- name: coverage_gaps
-- Of each partition in a span, what of it is not loaded and what is loaded and not published, as seconds since the epoch;
-- awaited: an active run has not done with it yet and is going to publish it then.
SELECT p.partition, p.publish_state, p.not_before, p.error_kind, p.last_error, p.loaded_gen > p.published_gen AS owed,
    p.first_unpublished_at, l.starts, l.ends, u.starts AS owed_starts, u.ends AS owed_ends,
    p.publish_state = 'idle' AND p.loaded_gen > p.published_gen AND EXISTS (
        SELECT 1 FROM public.inc_processing_run_partitions rp JOIN public.inc_processing r ON r.id = rp.run_id
        WHERE rp.partition = p.partition AND rp.state <> 'done' AND r.clean_table = %(clean_table)s AND r.ts_end IS NULL
          AND r.status IN ('planned', 'running') AND r.publish_at_end) AS awaited
FROM (
    SELECT p.partition, p.publish_state, p.not_before, p.error_kind, p.last_error, p.loaded_gen, p.published_gen, p.loaded, p.published,
        p.first_unpublished_at,
        tstzmultirange(tstzrange(%(window_from)s, %(window_to)s) * tstzrange(
        make_timestamptz(p.partition / 10000, p.partition / 100 %% 100, p.partition %% 100, 0, 0, 0, 'UTC'),
        make_timestamptz(p.partition / 10000, p.partition / 100 %% 100, p.partition %% 100, 0, 0, 0, 'UTC') + interval '24 h'
    )) AS asked
    FROM public.inc_processing_partitions p
    WHERE p.clean_table = %(clean_table)s AND p.partition BETWEEN %(first_partition)s AND %(last_partition)s
) p
CROSS JOIN LATERAL (
    SELECT array_agg(date_part('epoch', lower(r))::bigint) AS starts, array_agg(date_part('epoch', upper(r))::bigint) AS ends
    FROM unnest(p.asked - p.loaded) AS r) l
CROSS JOIN LATERAL (
    SELECT array_agg(date_part('epoch', lower(r))::bigint) AS starts, array_agg(date_part('epoch', upper(r))::bigint) AS ends
    FROM unnest(CASE WHEN p.loaded = p.published THEN '{}' ELSE p.asked * p.loaded - p.published END) AS r) u
ORDER BY p.partition;

-- name: windows_loaded_unpublished
-- Windows loaded since the published generation, merged: those loaded again as well, which the coverage cannot tell.
SELECT w.partition, date_part('epoch', lower(r))::bigint AS start, date_part('epoch', upper(r))::bigint AS end
FROM (
    SELECT s.partition, range_agg(tstzrange(s.window_from, s.window_to)) AS windows
    FROM public.inc_processing_slices s
    JOIN public.inc_processing_partitions p ON p.clean_table = s.clean_table AND p.partition = s.partition
    WHERE s.clean_table = %(clean_table)s AND s.partition = ANY (%(partitions)s) AND s.state = 'done'
      AND s.generation > p.published_gen
    GROUP BY s.partition
) w CROSS JOIN LATERAL unnest(w.windows) AS r
ORDER BY 1, 2;

-- name: failed_windows
-- Windows that runs could not load, or had not loaded when they ended, merged, newest run first.
SELECT w.run_id, w.active, date_part('epoch', lower(r))::bigint AS start, date_part('epoch', upper(r))::bigint AS end
FROM (
    SELECT s.run_id, r.ts_end IS NULL AS active, range_agg(tstzrange(s.window_from, s.window_to)) AS windows
    FROM public.inc_processing_slices s JOIN public.inc_processing r ON r.id = s.run_id
    WHERE s.clean_table = %(clean_table)s AND s.partition BETWEEN %(first_partition)s AND %(last_partition)s
      AND s.state = 'error' AND r.clean_table = s.clean_table
    GROUP BY s.run_id, r.ts_end
) w CROSS JOIN LATERAL unnest(w.windows) AS r
ORDER BY w.run_id DESC, 3;

-- name: open_windows
-- What active runs have still to load, merged.
SELECT w.run_id, date_part('epoch', lower(r))::bigint AS start, date_part('epoch', upper(r))::bigint AS end
FROM (
    SELECT s.run_id, range_agg(tstzrange(s.window_from, s.window_to)) AS windows
    FROM public.inc_processing r JOIN public.inc_processing_slices s ON s.run_id = r.id
    WHERE r.ts_end IS NULL AND r.status IN ('planned', 'running') AND r.clean_table = %(clean_table)s
      AND s.partition BETWEEN %(first_partition)s AND %(last_partition)s AND s.state IN ('planned', 'running')
    GROUP BY s.run_id
) w CROSS JOIN LATERAL unnest(w.windows) AS r
ORDER BY 1, 2;
