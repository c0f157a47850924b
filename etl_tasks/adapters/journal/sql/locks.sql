-- name: evict_deserted_lock
-- Ends the session that holds a CLEAN table's publish lock and has been silent for longer than a lease beside no live publish: its process is frozen or cut off.
-- Whoever ends it takes the lock next: waited for, 5 s at most.
SELECT l.pid, pg_terminate_backend(l.pid, 5000) AS ended
FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND (l.classid::bigint << 32 | l.objid::bigint) = hashtextextended(%(lock)s, 0)
  AND a.state_change < clock_timestamp() - make_interval(secs => %(silent_s)s)
  AND NOT EXISTS (SELECT 1 FROM public.inc_processing_partitions p
                  WHERE p.clean_table = %(clean_table)s AND p.publish_state = 'running' AND p.lease_until >= clock_timestamp());
