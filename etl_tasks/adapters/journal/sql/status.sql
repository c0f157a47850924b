-- name: status_runs
-- Every process of this CLEAN table (found by hopping over the index), its active run and its last runs. Rows that name
-- no CLEAN table are the old system's, or of others who share the journal: ours are those of our own lanes.
WITH RECURSIVE names AS (
    (SELECT r.process_name FROM public.inc_processing r ORDER BY r.process_name LIMIT 1)
    UNION ALL
    SELECT (SELECT r.process_name FROM public.inc_processing r WHERE r.process_name > n.process_name ORDER BY r.process_name LIMIT 1)
    FROM names n WHERE n.process_name IS NOT NULL
)
SELECT r.id, r.process_name, r.status, r.ts_start, r.ts_end, r.since, r.until, r.covered_until, r.heartbeat_at, r.progress_at,
    r.details
FROM names n CROSS JOIN LATERAL (
    (SELECT * FROM public.inc_processing a
     WHERE a.process_name = n.process_name AND a.ts_end IS NULL AND a.status IN ('planned', 'running'))
    UNION
    (SELECT * FROM public.inc_processing l WHERE l.process_name = n.process_name ORDER BY l.id DESC LIMIT %(last)s)
) r
WHERE n.process_name IS NOT NULL AND (r.clean_table = %(clean_table)s OR (r.clean_table IS NULL AND n.process_name = ANY (%(lanes)s)))
ORDER BY r.process_name, r.id DESC;

-- name: status_slices
-- Slices of a few runs by state, and by the class of the error where they are split, failed or wait.
WITH groups AS (
    SELECT s.run_id, s.state,
        CASE WHEN s.state IN ('split', 'error', 'planned') THEN s.error_kind END AS kind,
        count(*) AS slices, coalesce(sum(s.rows_inserted), 0) AS rows, sum(s.overloads) AS overloads, max(s.depth) AS deepest,
        max(s.id) FILTER (WHERE s.last_error IS NOT NULL AND s.state <> 'done') AS example_id
    FROM public.inc_processing_slices s WHERE s.run_id = ANY (%(run_ids)s)
    GROUP BY 1, 2, 3
)
SELECT g.run_id, g.state, g.kind AS error_kind, g.slices, g.rows, g.overloads, g.deepest, e.window_from, e.window_to, e.last_error
FROM groups g LEFT JOIN public.inc_processing_slices e ON e.id = g.example_id
ORDER BY g.run_id DESC, g.state, g.slices DESC;

-- name: status_owed
-- Partitions with something to publish, or whose publish is under way or in error.
SELECT partition, publish_state, loaded_gen - published_gen AS generations, first_unpublished_at, not_before, spent, error_kind,
    last_error, lease_until
FROM public.inc_processing_partitions
WHERE clean_table = %(clean_table)s AND (loaded_gen > published_gen OR publish_state <> 'idle' OR rebuild)
ORDER BY partition;

-- name: status_incomplete
-- Partitions that were published with a hole, less those that an active run has still to publish.
SELECT p.partition FROM public.inc_processing_partitions p
WHERE p.clean_table = %(clean_table)s AND p.incomplete AND NOT EXISTS (
    SELECT 1 FROM public.inc_processing_run_partitions rp JOIN public.inc_processing r ON r.id = rp.run_id
    WHERE rp.partition = p.partition AND rp.state <> 'done' AND r.ts_end IS NULL AND r.clean_table = p.clean_table)
ORDER BY p.partition;

-- name: status_holes
-- What nobody has loaded between the first instant ever loaded or published and the moment given (without one: the last such
-- instant), less what active runs are to load and the windows that a run in the journal is in error over.
WITH bounds AS (
    SELECT min(lower(p.loaded + p.published)) AS first, max(upper(p.loaded + p.published)) AS last
    FROM public.inc_processing_partitions p
    WHERE p.clean_table = %(clean_table)s AND NOT (isempty(p.loaded) AND isempty(p.published))
), missing AS (
    SELECT tstzmultirange(tstzrange(b.first, greatest(b.first, coalesce(%(until)s, b.last)))) - coalesce((
        SELECT range_agg(w) FROM public.inc_processing_partitions p CROSS JOIN LATERAL unnest(p.loaded) AS w
        WHERE p.clean_table = %(clean_table)s), '{}') AS windows
    FROM bounds b WHERE b.first IS NOT NULL
), told AS (
    SELECT range_agg(tstzrange(s.window_from, s.window_to)) AS windows
    FROM (
        SELECT o.run_id, o.window_from, o.window_to FROM public.inc_processing_slices o
        JOIN public.inc_processing r ON r.id = o.run_id WHERE o.state = 'planned' AND r.ts_end IS NULL AND r.clean_table = %(clean_table)s
        UNION ALL
        SELECT o.run_id, o.window_from, o.window_to FROM public.inc_processing_slices o
        JOIN public.inc_processing r ON r.id = o.run_id WHERE o.state = 'running' AND r.ts_end IS NULL AND r.clean_table = %(clean_table)s
        UNION ALL
        SELECT e.run_id, e.window_from, e.window_to FROM public.inc_processing_slices e
        WHERE e.state = 'error' AND e.clean_table = %(clean_table)s
    ) s
    WHERE EXISTS (SELECT 1 FROM missing m WHERE NOT isempty(m.windows))
)
SELECT count(w) AS holes, coalesce(sum(extract(epoch FROM upper(w) - lower(w))), 0) AS seconds,
    min(lower(w)) AS window_from, max(upper(w)) AS window_to
FROM missing m CROSS JOIN told t CROSS JOIN LATERAL unnest(m.windows - coalesce(t.windows, '{}')) AS w;

-- name: status_rejected
-- Distinct rows rejected by each of a few runs.
SELECT run_id, count(DISTINCT row_key) AS rejected_rows FROM public.inc_processing_rejects WHERE run_id = ANY (%(run_ids)s) GROUP BY run_id;

-- name: status_work
-- What is open in active runs: due, held back, waiting, under way; each half by its own partial index.
WITH open AS (
    SELECT s.run_id, s.state, s.released_at, s.not_before, s.lease_until, s.started_at, s.worker
    FROM public.inc_processing_slices s WHERE s.state = 'planned'
    UNION ALL
    SELECT s.run_id, s.state, s.released_at, s.not_before, s.lease_until, s.started_at, s.worker
    FROM public.inc_processing_slices s WHERE s.state = 'running'
), active AS (
    SELECT o.*, o.state = 'planned' AND o.released_at IS NOT NULL AS released, o.not_before > clock_timestamp() AS later,
        o.state = 'running' AND o.lease_until >= clock_timestamp() AS held
    FROM open o JOIN public.inc_processing r ON r.id = o.run_id
    WHERE r.ts_end IS NULL AND r.clean_table = %(clean_table)s AND (%(run_id)s::bigint IS NULL OR r.id = %(run_id)s)
)
SELECT count(*) FILTER (WHERE released AND later IS NOT TRUE) AS due,
    count(*) FILTER (WHERE state = 'running' AND NOT held) AS lost,
    count(*) FILTER (WHERE released AND later) AS waiting,
    count(*) FILTER (WHERE state = 'planned' AND NOT released) AS held_back,
    count(*) FILTER (WHERE held) AS running,
    count(DISTINCT worker) FILTER (WHERE held) AS workers,
    min(started_at) FILTER (WHERE held) AS oldest_start,
    min(not_before) FILTER (WHERE released AND later) AS next_try_at
FROM active;

-- name: status_unloaded
-- Windows in error that nobody has loaded since, by the run that met them last and the kind of its error; not those that an
-- active run is to load, unless one run is asked for. cancelled: somebody ended the run before they were tried.
WITH newest AS (
    SELECT DISTINCT ON (s.partition, s.window_from, s.window_to) s.id, s.run_id, s.partition, s.window_from, s.window_to,
        coalesce(s.error_kind, 'unknown') AS error_kind, (s.error_kind IS NOT DISTINCT FROM 'RunEnded' AND r.details ? 'cancelled') AS cancelled
    FROM public.inc_processing_slices s JOIN public.inc_processing r ON r.id = s.run_id
    JOIN public.inc_processing_partitions p ON p.clean_table = s.clean_table AND p.partition = s.partition
    WHERE s.clean_table = %(clean_table)s AND s.state = 'error'
      -- A window that an earlier run had loaded is read again for what has changed in it: that has failed as well.
      AND NOT (p.loaded @> tstzrange(s.window_from, s.window_to) AND coalesce((
          SELECT range_agg(tstzrange(d.window_from, d.window_to)) @> tstzrange(s.window_from, s.window_to)
          FROM public.inc_processing_slices d
          WHERE d.clean_table = s.clean_table AND d.partition = s.partition AND d.state = 'done'
            AND d.finished_at > coalesce(s.finished_at, r.ts_end)
            AND d.window_from < s.window_to AND d.window_to > s.window_from), false))
      AND (%(run_id)s::bigint IS NULL OR s.run_id = %(run_id)s)
    ORDER BY s.partition, s.window_from, s.window_to, s.id DESC
), open AS (
    -- By partition: a window is looked for in its day's windows only.
    SELECT s.partition, range_agg(tstzrange(s.window_from, s.window_to)) AS windows
    FROM (
        SELECT o.run_id, o.partition, o.window_from, o.window_to FROM public.inc_processing_slices o WHERE o.state = 'planned'
        UNION ALL
        SELECT o.run_id, o.partition, o.window_from, o.window_to FROM public.inc_processing_slices o WHERE o.state = 'running'
    ) s JOIN public.inc_processing r ON r.id = s.run_id
    WHERE r.ts_end IS NULL AND r.clean_table = %(clean_table)s AND %(run_id)s::bigint IS NULL AND EXISTS (SELECT 1 FROM newest)
    GROUP BY s.partition
), groups AS (
    SELECT run_id, error_kind, cancelled, count(*) AS windows, min(window_from) AS since, max(window_to) AS until, min(id) AS example_id
    FROM newest LEFT JOIN open USING (partition) WHERE NOT coalesce(open.windows @> tstzrange(window_from, window_to), false)
    GROUP BY run_id, error_kind, cancelled
)
SELECT g.run_id, g.error_kind, g.cancelled, g.windows, g.since, g.until, e.window_from, e.window_to, e.last_error
FROM groups g JOIN public.inc_processing_slices e ON e.id = g.example_id
ORDER BY g.windows DESC, g.run_id DESC, g.error_kind;

-- name: status_rejected_rows
-- How many of the newest rows of loaded windows were left out, and the last run that did.
SELECT count(*) AS rows, max(x.run_id) AS run_id FROM (
    SELECT DISTINCT j.run_id, j.row_key
    FROM public.inc_processing_rejects j JOIN public.inc_processing_slices s ON s.id = j.slice_id
    WHERE s.clean_table = %(clean_table)s AND s.state = 'done'
    ORDER BY j.run_id DESC LIMIT %(newest)s) AS x;

-- name: status_rejects
-- What the newest rejects are, by column and reason (without the numbers in it, which differ from row to row), the most first.
WITH newest AS (
    SELECT x.run_id, x.row_key, x.column_name, x.value, x.reason
    FROM public.inc_processing_rejects x JOIN public.inc_processing r ON r.id = x.run_id
    WHERE r.clean_table = %(clean_table)s AND (%(run_id)s::bigint IS NULL OR x.run_id = %(run_id)s)
    ORDER BY x.run_id DESC LIMIT %(newest)s
), named AS (
    SELECT n.*, regexp_replace(n.reason, '(^|element |: )[-+]?[0-9][0-9.eE+-]*', '\1N', 'g') AS without_numbers FROM newest n
)
SELECT column_name, without_numbers AS reason, count(*) AS rows, max(run_id) AS run_id, (array_agg(row_key))[1] AS row_key,
    (array_agg(value))[1] AS value
FROM named GROUP BY column_name, without_numbers ORDER BY rows DESC, column_name, without_numbers LIMIT %(most)s;

-- name: status_reconciles
-- The newest comparisons with the source; alive: somebody holds the lock of reconciles, so what says running does run.
SELECT c.id, c.since, c.until, c.by_hash, c.status, c.started_at, c.ended_at, c.windows, c.source_rows, c.clean_rows, c.missing,
    c.extra, c.changed, c.repair_run_id, c.details ->> 'error' AS error,
    EXISTS (SELECT 1 FROM pg_locks l WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
            AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
            AND (l.classid::bigint << 32 | l.objid::bigint) = hashtextextended(%(lock)s, 0)) AS alive,
    ARRAY(SELECT lower(w) FROM unnest(c.differing) AS w ORDER BY w) AS differing_from,
    ARRAY(SELECT upper(w) FROM unnest(c.differing) AS w ORDER BY w) AS differing_to
FROM public.inc_processing_reconciles c WHERE c.clean_table = %(clean_table)s ORDER BY c.id DESC LIMIT %(most)s;

-- name: status_differing
-- What differed when it was last compared, by whether reading it again would mend it and whether that was found by content:
-- the comparisons folded from the newest back, each less what newer ones looked at. A comparison by count does not settle a
-- difference found by content. What a row without `compared` looked at is its whole interval.
WITH RECURSIVE folded AS (
    -- What is unsettled stays in each row: carried along it would be copied at every step.
    SELECT 9223372036854775807 AS id, '{}'::tstzmultirange AS seen, '{}'::tstzmultirange AS seen_by_hash,
        '{}'::tstzmultirange AS unsettled, '{}'::tstzmultirange AS mendable, false AS by_hash
    UNION ALL
    SELECT c.id, f.seen + c.compared, CASE WHEN c.by_hash THEN f.seen_by_hash + c.compared ELSE f.seen_by_hash END,
        l.unsettled, l.unsettled - c.beyond, c.by_hash
    FROM folded f
    CROSS JOIN LATERAL (
        SELECT n.id, n.by_hash, n.differing,
            CASE WHEN isempty(n.compared) THEN tstzmultirange(tstzrange(n.since, n.until)) ELSE n.compared END AS compared,
            coalesce((SELECT range_agg(tstzrange((b ->> 0)::timestamptz, (b ->> 1)::timestamptz))
                      FROM jsonb_array_elements(n.details -> 'beyond') AS b), '{}') AS beyond
        FROM public.inc_processing_reconciles n
        WHERE n.clean_table = %(clean_table)s AND n.id < f.id AND n.status IN ('exact', 'different')
        ORDER BY n.id DESC LIMIT 1) c
    CROSS JOIN LATERAL (
        SELECT c.differing - CASE WHEN c.by_hash THEN f.seen_by_hash ELSE f.seen END AS unsettled) l
), found AS (
    SELECT coalesce((SELECT range_agg(w) FROM folded f CROSS JOIN LATERAL unnest(f.unsettled) AS w), '{}') AS differing,
        coalesce((SELECT range_agg(w) FROM folded f CROSS JOIN LATERAL unnest(f.mendable) AS w), '{}') AS mendable,
        coalesce((SELECT range_agg(w) FROM folded f CROSS JOIN LATERAL unnest(f.unsettled) AS w WHERE f.by_hash), '{}') AS by_hash
)
SELECT lower(w) AS window_from, upper(w) AS window_to, k.mendable, k.by_hash
FROM found o CROSS JOIN LATERAL (VALUES
    (o.mendable * o.by_hash, true, true), (o.mendable - o.by_hash, true, false),
    ((o.differing - o.mendable) * o.by_hash, false, true), ((o.differing - o.mendable) - o.by_hash, false, false)
) AS k(windows, mendable, by_hash)
CROSS JOIN LATERAL unnest(k.windows) AS w
ORDER BY 1;

-- name: progress_run_row
-- The run that is followed.
SELECT id, process_name, status, ts_start, ts_end, since, until, covered_until, heartbeat_at, progress_at, details, clean_table, shift_min
FROM public.inc_processing WHERE id = %(run_id)s;

-- name: progress_partitions
-- Its partitions and their publishes.
SELECT rp.partition, rp.state, rp.slices, rp.open_slices, rp.failed_slices, rp.wanted_gen, rp.publish_failed,
    extract(epoch FROM coalesce(rp.finished_at, clock_timestamp()) - rp.released_at) AS loading_s,
    p.publish_state, p.published_gen, p.last_duration_ms, p.last_error, d.details ->> 'rows' AS clean_rows,
    p.publish_state = 'due' AND p.not_before > clock_timestamp() AS publish_waits,
    (SELECT count(*) > 0 FROM public.inc_processing_partitions o
     WHERE o.clean_table = (SELECT clean_table FROM public.inc_processing WHERE id = %(run_id)s)
       AND o.publish_state = 'running' AND o.lease_until >= clock_timestamp()) AS publishing
FROM public.inc_processing_run_partitions rp
JOIN public.inc_processing r ON r.id = rp.run_id
JOIN public.inc_processing_partitions p ON p.clean_table = r.clean_table AND p.partition = rp.partition
LEFT JOIN public.inc_processing d ON d.id = p.publish_run_id
WHERE rp.run_id = %(run_id)s
ORDER BY rp.partition;

-- name: progress_slices
-- What its slices of a few partitions have come to.
SELECT partition, coalesce(sum(rows_inserted), 0) AS rows, count(*) FILTER (WHERE state = 'split') AS splits,
    sum(overloads) AS overloads,
    count(*) FILTER (WHERE state = 'running' AND lease_until >= clock_timestamp()) AS running,
    count(*) FILTER (WHERE state = 'planned' AND not_before > clock_timestamp()) AS waiting
FROM public.inc_processing_slices WHERE run_id = %(run_id)s AND partition = ANY (%(partitions)s)
GROUP BY partition;

-- name: waiting_slice_of_run
-- One of the slices that wait to be tried again, the first to be.
SELECT window_from, window_to, error_kind, last_error, not_before FROM public.inc_processing_slices
WHERE run_id = %(run_id)s AND state = 'planned' AND not_before > clock_timestamp()
ORDER BY not_before LIMIT 1;

-- name: failed_slices_of_run
-- The windows that it could not load.
SELECT window_from, window_to, error_kind, last_error FROM public.inc_processing_slices
WHERE run_id = %(run_id)s AND state = 'error'
ORDER BY window_from LIMIT %(most)s;

-- name: journal_columns
-- The journal's tables and how many columns each has; NULL for a table that is not there.
SELECT t.name, (SELECT count(*) FROM pg_attribute a
    WHERE a.attrelid = to_regclass(t.name) AND a.attnum > 0 AND NOT a.attisdropped) AS columns, to_regclass(t.name) IS NOT NULL AS found
FROM (VALUES ('public.inc_processing'), ('public.inc_processing_slices'), ('public.inc_processing_run_partitions'),
    ('public.inc_processing_partitions'), ('public.inc_processing_rejects'), ('public.inc_processing_fences'),
    ('public.inc_processing_reconciles'), ('public.inc_processing_totals'), ('public.inc_processing_read_limits'),
    ('public.inc_processing_read_turns')) AS t(name);
