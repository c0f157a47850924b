-- name: add_read_limit
-- The limit of a source that nobody has read yet.
INSERT INTO public.inc_processing_read_limits (source, reads) VALUES (%(source)s, %(reads)s) ON CONFLICT DO NOTHING;

-- name: lock_read_limit
-- Turns of one source are taken and given back one after the other; what is counted next is counted after this lock.
SELECT source FROM public.inc_processing_read_limits WHERE source = %(source)s FOR NO KEY UPDATE;

-- name: read_limit_facts
-- The limit, whether the asker owns its slice and waits already, how many others read, and how many go before the asker: the schedule, and within a lane whoever waits patiently and for longer.
SELECT l.reads, l.good, l.round, l.objected_at,
    EXISTS (SELECT 1 FROM public.inc_processing_slices s WHERE s.id = %(slice_id)s AND s.attempt = %(attempt)s AND s.state = 'running') AS ours,
    coalesce(bool_or(t.slice_id = %(slice_id)s AND t.attempt = %(attempt)s AND t.taken_at IS NULL), false) AS waits,
    count(*) FILTER (WHERE live.id IS NOT NULL AND t.taken_at IS NOT NULL AND t.slice_id <> %(slice_id)s) AS in_use,
    count(*) FILTER (WHERE live.id IS NOT NULL AND t.taken_at IS NULL AND t.slice_id <> %(slice_id)s
        AND (t.manual < %(manual)s OR (t.manual = %(manual)s
            AND t.asked_at < clock_timestamp() - make_interval(secs => %(patience_s)s)
            AND t.asked_at < coalesce(mine.asked_at, 'infinity')))) AS ahead
FROM public.inc_processing_read_limits l
LEFT JOIN public.inc_processing_read_turns t ON t.source = l.source
LEFT JOIN public.inc_processing_slices live
    ON live.id = t.slice_id AND live.attempt = t.attempt AND live.state = 'running' AND live.lease_until >= clock_timestamp()
LEFT JOIN public.inc_processing_read_turns mine ON mine.slice_id = %(slice_id)s AND mine.attempt = %(attempt)s
WHERE l.source = %(source)s
GROUP BY l.source, mine.slice_id;

-- name: await_read_turn
-- The attempt waits from now on; the turn of an earlier attempt on the slice is over.
INSERT INTO public.inc_processing_read_turns AS t (slice_id, attempt, source, manual)
VALUES (%(slice_id)s, %(attempt)s, %(source)s, %(manual)s)
ON CONFLICT (slice_id) DO UPDATE
SET attempt = excluded.attempt, source = excluded.source, manual = excluded.manual, asked_at = clock_timestamp(), taken_at = NULL;

-- name: take_read_turn
-- The attempt reads from now on, beside so many others.
INSERT INTO public.inc_processing_read_turns AS t (slice_id, attempt, source, manual, taken_at, round, readers)
VALUES (%(slice_id)s, %(attempt)s, %(source)s, %(manual)s, clock_timestamp(), %(round)s, %(readers)s)
ON CONFLICT (slice_id) DO UPDATE
SET attempt = excluded.attempt, source = excluded.source, manual = excluded.manual, taken_at = excluded.taken_at,
    round = excluded.round, readers = excluded.readers;

-- name: drop_dead_read_turns
-- Turns of attempts that ended without giving them back: killed, cancelled, or while the journal was away.
DELETE FROM public.inc_processing_read_turns t
WHERE t.source = %(source)s AND NOT EXISTS (
    SELECT 1 FROM public.inc_processing_slices s
    WHERE s.id = t.slice_id AND s.attempt = t.attempt AND s.state = 'running' AND s.lease_until >= clock_timestamp());

-- name: end_read_turn
-- The attempt reads no more, or waits no more.
DELETE FROM public.inc_processing_read_turns WHERE slice_id = %(slice_id)s AND attempt = %(attempt)s
RETURNING taken_at IS NOT NULL AS taken, round, readers;

-- name: write_read_limit
-- The limit after a read.
UPDATE public.inc_processing_read_limits
SET reads = %(reads)s, good = %(good)s, round = %(round)s, objected_at = %(objected_at)s, read_at = clock_timestamp()
WHERE source = %(source)s;

-- name: read_limits
-- Every source of the last day, with who reads it now and who waits for a turn.
SELECT l.source, l.reads, l.round AS halvings,
    count(*) FILTER (WHERE live.id IS NOT NULL AND t.taken_at IS NOT NULL) AS in_use,
    count(*) FILTER (WHERE live.id IS NOT NULL AND t.taken_at IS NULL) AS waiting
FROM public.inc_processing_read_limits l
LEFT JOIN public.inc_processing_read_turns t ON t.source = l.source
LEFT JOIN public.inc_processing_slices live
    ON live.id = t.slice_id AND live.attempt = t.attempt AND live.state = 'running' AND live.lease_until >= clock_timestamp()
WHERE l.read_at > clock_timestamp() - interval '1 day'
GROUP BY l.source
ORDER BY l.source;
