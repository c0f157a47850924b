-- name: pins_of_partition
-- Replicas on which a publish of the partition that did not end well may still work: one that ends well leaves none.
SELECT pin.key AS replica FROM public.inc_processing_partitions p
CROSS JOIN LATERAL jsonb_each(CASE WHEN jsonb_typeof(p.pinned) = 'object' THEN p.pinned ELSE '{}' END) AS pin
WHERE p.clean_table = %(clean_table)s AND p.partition = %(partition)s
  AND (pin.value)::numeric > extract(epoch FROM clock_timestamp())
ORDER BY pin.key;

-- name: pin_publish_if_running
-- The replicas of this publish and until when (epoch seconds) it may work there, beside what unfinished ones left.
UPDATE public.inc_processing_partitions p
SET pinned = CASE WHEN jsonb_typeof(p.pinned) = 'object' THEN p.pinned ELSE '{}' END || (
    SELECT coalesce(jsonb_object_agg(replica, ceil(extract(epoch FROM clock_timestamp()) + %(hard_limit_s)s)), '{}')
    FROM unnest(%(replicas)s::text[]) AS replica)
WHERE p.clean_table = %(clean_table)s AND p.partition = %(partition)s AND p.publish_state = 'running' AND p.token = %(token)s
RETURNING p.partition;
