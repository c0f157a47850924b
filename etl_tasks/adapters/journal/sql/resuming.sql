-- name: run_to_resume
-- A run, and how many slices it ever had.
SELECT r.id, r.process_name, r.status, r.ts_end, r.clean_table, r.shift_min, r.details,
    (SELECT count(*) FROM public.inc_processing_slices s WHERE s.run_id = r.id) AS slices
FROM public.inc_processing r WHERE r.id = %(run_id)s;

-- name: undone_slices_of_run
-- Its windows that were not loaded, as they were last cut: of a split its halves, not the whole.
SELECT window_from, window_to, partition, step FROM public.inc_processing_slices
WHERE run_id = %(run_id)s AND state IN ('planned', 'running', 'error') ORDER BY window_from;

-- name: windows_loaded_after_run
-- What runs planned after it have loaded in these partitions (they meant to read what it was to read, and later) and what
-- has not been lost again since, by a rebuild.
SELECT lower(w) AS window_from, upper(w) AS window_to
FROM (
    SELECT s.clean_table, s.partition, range_agg(tstzrange(s.window_from, s.window_to)) AS windows
    FROM public.inc_processing_slices s
    WHERE s.clean_table = %(clean_table)s AND s.partition = ANY (%(partitions)s) AND s.state = 'done' AND s.run_id > %(run_id)s
    GROUP BY s.clean_table, s.partition
) d
JOIN public.inc_processing_partitions p USING (clean_table, partition)
CROSS JOIN LATERAL unnest(d.windows * p.loaded) AS w
ORDER BY 1;

-- name: owed_partitions_of_run
-- Partitions of which it loaded something that is not published.
SELECT rp.partition FROM public.inc_processing_run_partitions rp
JOIN public.inc_processing r ON r.id = rp.run_id
JOIN public.inc_processing_partitions p ON p.clean_table = r.clean_table AND p.partition = rp.partition
WHERE rp.run_id = %(run_id)s AND rp.wanted_gen > p.published_gen ORDER BY rp.partition;
