-- name: sizing_loads
-- Rows and seconds of source time of the windows loaded, by the quarter of an hour in which they begin; some of each are enough.
SELECT c.begins, max(s.window_to) AS reaches_to, sum(s.rows_read) AS rows,
    sum(extract(epoch FROM s.window_to - s.window_from))::bigint AS window_s
FROM generate_series(%(window_from)s::timestamptz, %(window_to)s::timestamptz - interval '1 s', make_interval(secs => %(cell_s)s)) AS c(begins)
CROSS JOIN LATERAL (
    SELECT window_from, window_to, rows_read FROM public.inc_processing_slices
    WHERE clean_table = %(clean_table)s AND state = 'done' AND rows_read IS NOT NULL
      AND window_from >= c.begins AND window_from < c.begins + make_interval(secs => %(cell_s)s)
    LIMIT %(most_a_cell)s) AS s
GROUP BY c.begins ORDER BY c.begins;

-- name: sizing_splits
-- How many of the last windows that had to be split had 2^class rows to twice as many: the rows that their parts had in the end.
WITH RECURSIVE recent AS (
    SELECT id FROM public.inc_processing_slices
    WHERE clean_table = %(clean_table)s AND state = 'split' AND finished_at > clock_timestamp() - make_interval(days => %(days)s)
    ORDER BY finished_at DESC LIMIT %(most)s),
parts AS (
    SELECT id AS root, id, 'split' AS state, 0::bigint AS rows_read FROM recent
    UNION ALL
    SELECT p.root, s.id, s.state, s.rows_read FROM parts p JOIN public.inc_processing_slices s ON s.parent_id = p.id),
whole AS (
    SELECT root, sum(rows_read) AS rows FROM parts GROUP BY root
    HAVING bool_and(state IN ('done', 'split')) AND sum(rows_read) > 0)
SELECT floor(log(2, rows))::integer AS power, count(*) AS windows FROM whole GROUP BY 1 ORDER BY 1;

-- name: sizing_done
-- The same of the last windows that were loaded whole.
WITH recent AS (
    SELECT rows_read FROM public.inc_processing_slices
    WHERE clean_table = %(clean_table)s AND state = 'done' AND finished_at > clock_timestamp() - make_interval(days => %(days)s)
    ORDER BY finished_at DESC LIMIT %(most)s)
SELECT floor(log(2, rows_read))::integer AS power, count(*) AS windows FROM recent WHERE rows_read > 0 GROUP BY 1 ORDER BY 1;

-- name: sizing_pace
-- Rows and seconds of the last windows loaded at the first try, less the wait for a turn to read; of few rows the fixed costs
-- are all that is to be seen.
WITH recent AS (
    SELECT rows_read, started_at, finished_at, attempt, overloads, coalesce((timings_ms ->> 'turn_wait')::float, 0) / 1000 AS waited_s FROM public.inc_processing_slices
    WHERE clean_table = %(clean_table)s AND state = 'done' AND finished_at > clock_timestamp() - make_interval(days => %(days)s)
    ORDER BY finished_at DESC LIMIT %(most)s)
SELECT sum(rows_read) AS rows, (extract(epoch FROM sum(finished_at - started_at)) - sum(waited_s))::float AS seconds FROM recent
WHERE rows_read >= %(least_rows)s AND attempt = 1 AND overloads = 0;
