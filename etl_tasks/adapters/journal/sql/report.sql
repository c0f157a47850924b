-- name: report_slices
-- Every slice of a run, without the texts of its errors.
SELECT id, parent_id, partition, window_from, window_to, state, depth, attempt, overloads, coalesce(rows_inserted, 0) AS rows,
    started_at, finished_at, worker, error_kind
FROM public.inc_processing_slices WHERE run_id = %(run_id)s ORDER BY id;

-- name: report_coverage
-- How many seconds of each of its days any lane has loaded, and how many of those are published.
SELECT p.partition, p.incomplete,
    (SELECT coalesce(sum(extract(epoch FROM upper(l) - lower(l))), 0) FROM unnest(p.loaded) AS l) AS loaded_s,
    (SELECT coalesce(sum(extract(epoch FROM upper(l) - lower(l))), 0) FROM unnest(p.loaded * p.published) AS l) AS published_s
FROM public.inc_processing r
JOIN public.inc_processing_run_partitions rp ON rp.run_id = r.id
JOIN public.inc_processing_partitions p ON p.clean_table = r.clean_table AND p.partition = rp.partition
WHERE r.id = %(run_id)s ORDER BY p.partition;

-- name: report_errors
-- Its slices with an error by state and class, the windows they span, and the newest one's words.
WITH groups AS (
    SELECT state, coalesce(error_kind, '') AS kind, count(*) AS slices, sum(overloads) AS overloads, min(window_from) AS window_from,
        max(window_to) AS window_to, max(id) AS example_id
    FROM public.inc_processing_slices WHERE run_id = %(run_id)s AND last_error IS NOT NULL GROUP BY 1, 2
)
SELECT g.state, g.kind AS error_kind, g.slices, g.overloads, g.window_from, g.window_to, e.last_error
FROM groups g JOIN public.inc_processing_slices e ON e.id = g.example_id
ORDER BY g.state = 'error' DESC, g.slices DESC, g.state, g.kind LIMIT %(most)s;

-- name: report_rejects
-- The first values that did not fit, and how many rows they are of.
SELECT row_key, column_name, value, reason,
    (SELECT count(DISTINCT row_key) FROM public.inc_processing_rejects WHERE run_id = %(run_id)s) AS rejected_rows
FROM public.inc_processing_rejects WHERE run_id = %(run_id)s ORDER BY row_key, column_name LIMIT %(most)s;
