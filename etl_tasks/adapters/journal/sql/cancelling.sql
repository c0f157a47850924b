-- name: run_to_cancel
-- Whose run it is and how it stands.
SELECT id, process_name, status, clean_table FROM public.inc_processing WHERE id = %(run_id)s;

-- name: slices_of_cancelled_run
-- What it had loaded, what it was ended over, and how much of that an attempt still has its hands on.
SELECT count(*) FILTER (WHERE state = 'done') AS loaded, count(*) FILTER (WHERE state = 'error') AS left_undone,
    count(*) FILTER (WHERE state = 'error' AND error_kind = 'RunEnded' AND lease_until >= clock_timestamp()) AS reading
FROM public.inc_processing_slices WHERE run_id = %(run_id)s;

-- name: publishes_of_cancelled_run
-- Partitions of which it loaded something that is not published.
SELECT rp.partition, p.publish_state FROM public.inc_processing_run_partitions rp
JOIN public.inc_processing r ON r.id = rp.run_id
JOIN public.inc_processing_partitions p ON p.clean_table = r.clean_table AND p.partition = rp.partition
WHERE rp.run_id = %(run_id)s AND rp.wanted_gen > p.published_gen ORDER BY rp.partition;
