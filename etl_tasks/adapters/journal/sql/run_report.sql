-- name: slowest_windows_of_run
-- The windows whose last attempt took longest, those under way included; what a run's end cut off tells nothing.
SELECT id, window_from, window_to, state, attempt, overloads, depth, coalesce(rows_inserted, 0) AS rows, worker, timings_ms,
    extract(epoch FROM coalesce(finished_at, clock_timestamp()) - started_at) AS took_s
FROM public.inc_processing_slices
WHERE run_id = %(run_id)s AND started_at IS NOT NULL
  AND (state IN ('done', 'running', 'split') OR (state = 'error' AND error_kind <> 'RunEnded'))
ORDER BY took_s DESC, id LIMIT %(most)s;

-- name: most_split_windows_of_run
-- Windows as they were planned that were split the most: all that came of them, and how deep.
WITH RECURSIVE halves AS MATERIALIZED (
    SELECT id, parent_id, depth, state FROM public.inc_processing_slices WHERE run_id = %(run_id)s AND parent_id IS NOT NULL
), tree AS (
    SELECT h.id, h.parent_id AS root_id, h.depth, h.state FROM halves h
    WHERE h.depth = 1
    UNION ALL
    SELECT h.id, t.root_id, h.depth, h.state FROM tree t JOIN halves h ON h.parent_id = t.id
), counted AS (
    SELECT root_id, count(*) AS descendants, max(depth) AS deepest,
        count(*) FILTER (WHERE state = 'done') AS done, count(*) FILTER (WHERE state = 'error') AS failed,
        count(*) FILTER (WHERE state IN ('planned', 'running')) AS open
    FROM tree GROUP BY root_id ORDER BY descendants DESC, deepest DESC, root_id LIMIT %(most)s
)
SELECT c.*, r.window_from, r.window_to, r.error_kind, r.last_error
FROM counted c JOIN public.inc_processing_slices r ON r.id = c.root_id
ORDER BY c.descendants DESC, c.deepest DESC, r.window_from;

-- name: pace_of_run
-- What is loaded, over the run and lately, and what is left: slices, rows and seconds of windows.
SELECT min(started_at) AS first_start, max(finished_at) FILTER (WHERE state = 'done') AS last_done,
    count(*) FILTER (WHERE state = 'done') AS done,
    coalesce(sum(rows_inserted) FILTER (WHERE state = 'done'), 0) AS rows,
    count(*) FILTER (WHERE state = 'done' AND finished_at > clock_timestamp() - make_interval(secs => %(recent_s)s)) AS recent_done,
    coalesce(sum(rows_inserted) FILTER (WHERE state = 'done' AND finished_at > clock_timestamp() - make_interval(secs => %(recent_s)s)), 0)
        AS recent_rows,
    coalesce(sum(extract(epoch FROM window_to - window_from))
        FILTER (WHERE state = 'done' AND finished_at > clock_timestamp() - make_interval(secs => %(recent_s)s)), 0) AS recent_window_s,
    count(*) FILTER (WHERE state IN ('planned', 'running')) AS open,
    coalesce(sum(extract(epoch FROM window_to - window_from)) FILTER (WHERE state IN ('planned', 'running')), 0) AS open_window_s
FROM public.inc_processing_slices WHERE run_id = %(run_id)s;
