-- name: slowest_windows_of_run
-- The windows whose last attempt took longest, those under way included; what a run's end cut off tells nothing.
SELECT t.id, t.window_from, t.window_to, t.state, t.attempt, t.overloads, t.depth, t.rows, t.worker, t.timings_ms,
    extract(epoch FROM t.took) AS took_s
FROM (
    SELECT s.id, s.window_from, s.window_to, s.state, s.attempt, s.overloads, s.depth, coalesce(s.rows_inserted, 0) AS rows, s.worker,
        s.timings_ms, coalesce(s.finished_at, clock_timestamp()) - s.started_at AS took
    FROM public.inc_processing_slices s
    WHERE s.run_id = %(run_id)s AND s.started_at IS NOT NULL
      AND (s.state IN ('done', 'running', 'split') OR (s.state = 'error' AND s.error_kind IS DISTINCT FROM 'RunEnded'))
    ORDER BY took DESC, s.id LIMIT %(most)s) t
ORDER BY t.took DESC, t.id;

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
WITH seen AS (
    SELECT s.started_at, s.finished_at, s.rows_inserted, s.window_to - s.window_from AS width, s.state = 'done' AS done,
        s.state IN ('planned', 'running') AS open,
        s.state = 'done' AND s.finished_at > (SELECT clock_timestamp() - make_interval(secs => %(recent_s)s)) AS recent
    FROM public.inc_processing_slices s WHERE s.run_id = %(run_id)s
)
SELECT min(started_at) AS first_start, max(finished_at) FILTER (WHERE done) AS last_done, count(*) FILTER (WHERE done) AS done,
    coalesce(sum(rows_inserted) FILTER (WHERE done), 0) AS rows, count(*) FILTER (WHERE recent) AS recent_done,
    coalesce(sum(rows_inserted) FILTER (WHERE recent), 0) AS recent_rows,
    coalesce(extract(epoch FROM sum(width) FILTER (WHERE recent)), 0) AS recent_window_s, count(*) FILTER (WHERE open) AS open,
    coalesce(extract(epoch FROM sum(width) FILTER (WHERE open)), 0) AS open_window_s
FROM seen;
