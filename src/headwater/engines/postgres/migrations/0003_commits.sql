-- needs: 3
-- What writes batches and leases messages. Rows are found one by one along an index, whatever the planner takes a table's
-- size to be when it first plans a statement (its plan stays): LATERAL with LIMIT 1 and rows by ctid leave it no choice.
-- A ctid holds still here: the rows are locked, or leased and their group locked, or their key is locked.

-- The database's time, unless the caller brings one.
CREATE FUNCTION clock_ms(given bigint) RETURNS bigint LANGUAGE sql VOLATILE
AS $$ SELECT coalesce(given, (extract(epoch FROM clock_timestamp()) * 1000)::bigint) $$;

-- Write a batch, or nothing. outcome 0: written; 1: another revision of the catalog is in force; 2: the image is stale;
-- 3: the leases of the settles `lost` have passed on.
CREATE FUNCTION apply(
    batch_id text, known_revision bigint, now_ms bigint, given_ms bigint, gate bigint, wide boolean, locks bigint[],
    i_tbl integer[], i_pk bytea[], i_sk bytea[], i_version text[],
    c_scope text[], c_id text[], c_expires bigint[],
    s_queue integer[], s_position bigint[], s_fence bigint[], s_ready bigint[], s_receives integer[],
    g_queue integer[], g_name text[], leases bigint[],
    r_tbl integer[], r_pk bytea[], r_sk bytea[], r_version text[], r_crc bigint[], r_schema integer[],
    r_expires bigint[], r_body bytea[],
    x_idx integer[], x_partition bytea[], x_sort bytea[], x_pk bytea[], x_sk bytea[], x_added boolean[],
    e_id text[], e_trace text[], e_source integer[], e_subject text[], e_body bytea[], e_crc bigint[], e_queues text[],
    m_queue integer[], m_event integer[], m_ready bigint[], m_redriven boolean[], m_grp text[],
    n_scope text[], n_id text[], n_expires bigint[], n_result bytea[],
    OUT outcome integer, OUT first bigint, OUT lost integer[]
) LANGUAGE plpgsql
SET search_path FROM CURRENT SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan SET jit = off SET lock_timeout = '20s'
AS $$
DECLARE
    at_ms bigint;
BEGIN
    -- The number first: whoever waits for all that was written before a block was taken goes by it (`claim`).
    PERFORM pg_current_xact_id();
    at_ms := clock_ms(given_ms);
    IF wide THEN
        PERFORM pg_advisory_xact_lock(gate);
    ELSE
        PERFORM pg_advisory_xact_lock_shared(gate);
    END IF;
    IF locks <> '{}' THEN
        PERFORM pg_advisory_xact_lock(l) FROM unnest(locks) l;
    END IF;
    outcome := 1;
    IF (SELECT revision FROM head WHERE id = 1) IS DISTINCT FROM known_revision THEN
        RETURN;
    END IF;
    outcome := 2;
    IF i_tbl <> '{}' AND EXISTS (
        SELECT FROM unnest(i_tbl, i_pk, i_sk, i_version) AS i(tbl, pk, sk, version)
        LEFT JOIN LATERAL (
            SELECT x.version FROM record x WHERE x.tbl = i.tbl AND x.pk = i.pk AND x.sk = i.sk LIMIT 1
        ) r ON true
        WHERE r.version IS DISTINCT FROM i.version
    ) THEN
        RETURN;
    END IF;
    IF c_id <> '{}' AND EXISTS (
        SELECT FROM unnest(c_scope, c_id, c_expires) AS i(scope, id, expires_ms)
        LEFT JOIN LATERAL (
            SELECT x.expires_ms FROM claim x WHERE x.scope = i.scope AND x.id = i.id LIMIT 1
        ) c ON true
        WHERE c.expires_ms IS DISTINCT FROM i.expires_ms
    ) THEN
        RETURN;
    END IF;
    IF s_queue <> '{}' THEN
        outcome := 3;
        SELECT array_agg(s.n - 1) INTO lost
        FROM unnest(s_queue, s_position, s_fence) WITH ORDINALITY AS s(queue, position, fence, n)
        LEFT JOIN LATERAL (
            SELECT x.fence FROM message x WHERE x.queue = s.queue AND x.position = s.position LIMIT 1
        ) m ON true
        WHERE m.fence IS DISTINCT FROM s.fence;
        IF lost IS NOT NULL THEN
            RETURN;
        END IF;
        DELETE FROM message WHERE ctid = ANY (ARRAY(
            SELECT m.ctid FROM unnest(s_queue, s_position, s_ready) AS s(queue, position, ready_ms)
            CROSS JOIN LATERAL (
                SELECT x.ctid FROM message x WHERE x.queue = s.queue AND x.position = s.position LIMIT 1
            ) m
            WHERE s.ready_ms = -1));
        UPDATE message m SET fence = 0, ready_ms = greatest(p.ready_ms, at_ms), receives = p.receives, suspect = false
        FROM (
            SELECT x.ctid AS tid, s.ready_ms, s.receives
            FROM unnest(s_queue, s_position, s_ready, s_receives) AS s(queue, position, ready_ms, receives)
            CROSS JOIN LATERAL (
                SELECT y.ctid FROM message y WHERE y.queue = s.queue AND y.position = s.position LIMIT 1
            ) x
            WHERE s.ready_ms >= 0
        ) p
        WHERE m.ctid = p.tid;
        IF g_queue <> '{}' THEN
            PERFORM unblock(g_queue, g_name, at_ms);
        END IF;
        IF leases <> '{}' THEN
            DELETE FROM lease WHERE id = ANY (leases);
        END IF;
    END IF;
    first := nextval('block') * 32768;
    IF r_tbl <> '{}' THEN
        DELETE FROM record WHERE ctid = ANY (ARRAY(
            SELECT r.ctid FROM unnest(r_tbl, r_pk, r_sk, r_body) AS n(tbl, pk, sk, body)
            CROSS JOIN LATERAL (
                SELECT x.ctid FROM record x WHERE x.tbl = n.tbl AND x.pk = n.pk AND x.sk = n.sk LIMIT 1
            ) r
            WHERE n.body IS NULL));
        INSERT INTO record AS r
        SELECT * FROM unnest(r_tbl, r_pk, r_sk, r_version, r_crc, r_schema, r_expires, r_body)
            AS n(tbl, pk, sk, version, crc, schema, expires_ms, body)
        WHERE n.body IS NOT NULL
        ON CONFLICT (tbl, pk, sk) DO UPDATE SET version = excluded.version, crc = excluded.crc,
            schema = excluded.schema, expires_ms = excluded.expires_ms, body = excluded.body;
    END IF;
    IF x_idx <> '{}' THEN
        DELETE FROM entry WHERE ctid = ANY (ARRAY(
            SELECT e.ctid FROM unnest(x_idx, x_partition, x_sort, x_pk, x_sk, x_added)
                AS x(idx, partition, sort, pk, sk, added)
            CROSS JOIN LATERAL (
                SELECT y.ctid FROM entry y WHERE y.idx = x.idx AND y.partition = x.partition AND y.sort = x.sort
                    AND y.pk = x.pk AND y.sk = x.sk LIMIT 1
            ) e
            WHERE NOT x.added));
        INSERT INTO entry SELECT idx, partition, sort, pk, sk
        FROM unnest(x_idx, x_partition, x_sort, x_pk, x_sk, x_added) AS x(idx, partition, sort, pk, sk, added)
        WHERE x.added ON CONFLICT DO NOTHING;
    END IF;
    IF e_id <> '{}' THEN
        INSERT INTO event (seq, id, trace, source, subject, time_ms, envelope, crc, queues)
        SELECT first + n, id, trace, source, subject, apply.now_ms, body, crc, queues
        FROM unnest(e_id, e_trace, e_source, e_subject, e_body, e_crc, e_queues) WITH ORDINALITY
            AS e(id, trace, source, subject, body, crc, queues, n);
    END IF;
    IF m_queue <> '{}' THEN
        INSERT INTO message (queue, position, ready_ms, fence, sent_ms, receives, blocked, redriven, suspect, grp)
        SELECT m.queue, first + m.event, CASE WHEN m.ready_ms > 0 THEN greatest(m.ready_ms, at_ms) ELSE 0 END, 0,
            apply.now_ms, 0,
            m.grp IS NOT NULL AND (row_number() OVER (PARTITION BY m.queue, m.grp ORDER BY m.n) > 1
                OR EXISTS (SELECT FROM message o WHERE o.queue = m.queue AND o.grp = m.grp)),
            m.redriven, false, m.grp
        FROM unnest(m_queue, m_event, m_ready, m_redriven, m_grp) WITH ORDINALITY
            AS m(queue, event, ready_ms, redriven, grp, n);
    END IF;
    IF n_id <> '{}' THEN
        INSERT INTO claim SELECT * FROM unnest(n_scope, n_id, n_expires, n_result)
        ON CONFLICT (scope, id) DO UPDATE SET expires_ms = excluded.expires_ms, result = excluded.result;
    END IF;
    INSERT INTO applied VALUES (batch_id, first, apply.now_ms, false);
    outcome := 0;
END $$;

-- Have the first message of each of these groups be its head, unless it has one.
CREATE FUNCTION unblock(g_queue integer[], g_name text[], at_ms bigint) RETURNS void LANGUAGE plpgsql
SET search_path FROM CURRENT SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    UPDATE message SET blocked = false, ready_ms = greatest(ready_ms, at_ms) WHERE ctid = ANY (ARRAY(
        SELECT f.ctid FROM unnest(g_queue, g_name) AS g(queue, name)
        CROSS JOIN LATERAL (
            SELECT x.ctid, x.blocked FROM message x WHERE x.queue = g.queue AND x.grp = g.name
            ORDER BY x.blocked, x.position LIMIT 1
        ) f
        WHERE f.blocked));
END $$;

-- Lease up to `want` ready messages of a queue to a process, or none. The caller knows that no message was left at or
-- before `after_position` and `after_ms`. With `alone` a suspect comes first, and alone. late_done and fresh_done: there
-- is no further one by time, and by position. The rest tells how far that is so from now on: once all transactions before
-- `ahead` have ended, all positions up to `reached` and all times up to `reached_ms` can be seen. A claim that a crash
-- takes back is no loss: nobody waits for its flush.
CREATE FUNCTION claim(
    q integer, want integer, holder bigint, given_ms bigint, visible_ms bigint, after_position bigint, after_ms bigint,
    grouped boolean, alone boolean,
    OUT lease bigint, OUT due_ms bigint, OUT behind bigint, OUT ahead bigint, OUT reached bigint,
    OUT reached_ms bigint, OUT positions bigint[], OUT grps text[], OUT sent bigint[], OUT received integer[],
    OUT was_redriven boolean[], OUT readies bigint[], OUT bodies bytea[], OUT crcs bigint[], OUT is_suspect boolean,
    OUT late_done boolean, OUT fresh_done boolean
) LANGUAGE plpgsql
SET search_path FROM CURRENT SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET enable_bitmapscan = off SET plan_cache_mode = force_generic_plan SET jit = off
AS $$
DECLARE
    picked bigint[] := '{}';
    found bigint[];
    late_first boolean;
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    reached_ms := clock_ms(given_ms);
    SELECT (last_value + CASE WHEN is_called THEN 1 ELSE 0 END) * 32768 - 1 INTO reached FROM block;
    -- Not the snapshot's xmax: transactions that run may be beyond it.
    ahead := pg_current_xact_id()::text::bigint;
    behind := pg_snapshot_xmin(pg_current_snapshot())::text::bigint;
    IF EXISTS (SELECT FROM paused WHERE queue = q) THEN
        due_ms := -1;
        RETURN;
    END IF;
    IF alone THEN
        picked := ARRAY(
            SELECT m.position FROM message m
            WHERE m.queue = q AND m.suspect AND m.fence = 0 AND NOT m.blocked AND m.ready_ms <= reached_ms
            ORDER BY m.position LIMIT 1 FOR UPDATE SKIP LOCKED);
    END IF;
    is_suspect := picked <> '{}';
    IF picked = '{}' THEN
        -- Those that wait longest come first.
        late_first := (
            SELECT m.ready_ms FROM message m
            WHERE m.queue = q AND NOT m.blocked AND m.ready_ms > 0 AND m.ready_ms > after_ms
                AND m.ready_ms <= reached_ms AND m.fence = 0
            ORDER BY m.ready_ms LIMIT 1
        ) < coalesce((
            SELECT m.sent_ms FROM message m
            WHERE m.queue = q AND NOT m.blocked AND m.ready_ms = 0 AND m.position > after_position AND m.fence = 0
            ORDER BY m.position LIMIT 1
        ), reached_ms + 1);
        FOR turn IN 1..2 LOOP
            IF coalesce(late_first, false) = (turn = 1) THEN
                found := ARRAY(
                    SELECT m.position FROM message m
                    WHERE m.queue = q AND NOT m.blocked AND m.ready_ms > 0 AND m.ready_ms > after_ms
                        AND m.ready_ms <= reached_ms AND m.fence = 0 AND NOT m.suspect
                    ORDER BY m.ready_ms, m.position LIMIT want - cardinality(picked) FOR UPDATE SKIP LOCKED);
                late_done := cardinality(picked || found) < want;
            ELSE
                found := ARRAY(
                    SELECT m.position FROM message m
                    WHERE m.queue = q AND NOT m.blocked AND m.ready_ms = 0 AND m.position > after_position
                        AND m.fence = 0 AND NOT m.suspect
                    ORDER BY m.position LIMIT want - cardinality(picked) FOR UPDATE SKIP LOCKED);
                fresh_done := cardinality(picked || found) < want;
            END IF;
            picked := picked || found;
            EXIT WHEN cardinality(picked) >= want;
        END LOOP;
        IF grouped AND picked <> '{}' AND cardinality(picked) < want THEN
            SELECT array_agg(f.position) INTO found FROM (
                SELECT r.position FROM unnest(picked) AS p(position)
                CROSS JOIN LATERAL (
                    SELECT x.grp FROM message x WHERE x.queue = q AND x.position = p.position LIMIT 1
                ) h
                CROSS JOIN LATERAL (
                    SELECT n.position, bool_and(n.ready_ms <= reached_ms AND n.fence = 0)
                        OVER (ORDER BY n.position) AS ready
                    FROM (
                        SELECT o.position, o.ready_ms, o.fence FROM message o
                        WHERE o.queue = q AND o.grp = h.grp AND o.blocked
                        ORDER BY o.position LIMIT want - cardinality(picked)
                    ) n
                ) r
                WHERE r.ready
                LIMIT want - cardinality(picked)
            ) f;
            picked := picked || coalesce(found, '{}');
        END IF;
    END IF;
    IF late_done AND fresh_done THEN
        due_ms := (
            SELECT m.ready_ms FROM message m
            WHERE m.queue = q AND NOT m.blocked AND m.ready_ms > 0 AND m.ready_ms > reached_ms
            ORDER BY m.ready_ms LIMIT 1);
    END IF;
    IF picked = '{}' THEN
        RETURN;
    END IF;
    -- With the holder, as a crash may have numbers of the sequence given again.
    lease := (holder << 32) | (nextval('fence') & 4294967295);
    INSERT INTO lease VALUES (lease, holder, q, reached_ms + visible_ms, picked);
    WITH leased AS (
        UPDATE message m SET fence = claim.lease, receives = m.receives + 1
        FROM (
            SELECT x.ctid AS tid, p.n FROM unnest(picked) WITH ORDINALITY AS p(position, n)
            CROSS JOIN LATERAL (
                SELECT y.ctid FROM message y WHERE y.queue = q AND y.position = p.position LIMIT 1
            ) x
        ) s
        WHERE m.ctid = s.tid
        RETURNING s.n, m.position, m.grp, m.sent_ms, m.receives, m.redriven, m.ready_ms
    )
    SELECT array_agg(l.position ORDER BY l.n), array_agg(l.grp ORDER BY l.n), array_agg(l.sent_ms ORDER BY l.n),
        array_agg(l.receives ORDER BY l.n), array_agg(l.redriven ORDER BY l.n), array_agg(l.ready_ms ORDER BY l.n),
        array_agg(e.envelope ORDER BY l.n), array_agg(e.crc ORDER BY l.n)
    INTO positions, grps, sent, received, was_redriven, readies, bodies, crcs
    FROM leased l CROSS JOIN LATERAL (SELECT v.envelope, v.crc FROM event v WHERE v.seq = l.position LIMIT 1) e;
END $$;

-- Delete the rows of batches before a time, some of them.
CREATE FUNCTION forget_batches(before_ms bigint) RETURNS void LANGUAGE plpgsql
SET search_path FROM CURRENT SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    DELETE FROM applied WHERE id = ANY (ARRAY(
        SELECT id FROM applied WHERE time_ms < before_ms ORDER BY time_ms LIMIT 20000 FOR UPDATE SKIP LOCKED));
END $$;

-- Take back the leases that have ended, and those of dead processes; the queues that got messages back. `mine` is
-- alive, whatever its row says. The messages of a dead process are suspect.
CREATE FUNCTION revoke_leases(gate bigint, mine bigint, given_ms bigint) RETURNS integer[] LANGUAGE plpgsql
SET search_path FROM CURRENT SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    at_ms bigint := clock_ms(given_ms);
    ended bigint[];
    died bigint[];
    found integer[];
BEGIN
    died := ARRAY(SELECT l.id FROM lease l LEFT JOIN process p ON p.id = l.process
        WHERE l.process <> mine AND (p.id IS NULL OR p.until_ms <= at_ms));
    ended := ARRAY(SELECT id FROM lease WHERE until_ms <= at_ms) || died;
    IF ended = '{}' THEN
        RETURN '{}';
    END IF;
    -- No commit may be between checking a lease and settling it.
    PERFORM pg_advisory_xact_lock(gate);
    INSERT INTO attempt (event_id, queue, n, outcome, error, traceback, started_ms, ended_ms)
    SELECT e.id, l.queue, m.receives, 'died', 'the process died while the handler ran', '', at_ms, at_ms
    FROM lease l CROSS JOIN LATERAL unnest(l.positions) AS p(position)
    CROSS JOIN LATERAL (
        SELECT x.receives FROM message x
        WHERE x.queue = l.queue AND x.position = p.position AND x.fence = l.id LIMIT 1
    ) m
    CROSS JOIN LATERAL (SELECT v.id FROM event v WHERE v.seq = p.position LIMIT 1) e
    WHERE l.id = ANY (died);
    WITH gone AS (DELETE FROM lease l WHERE l.id = ANY (ended) AND (l.until_ms <= at_ms OR l.id = ANY (died)) RETURNING *),
    back AS (
        UPDATE message m SET fence = 0, ready_ms = greatest(m.ready_ms, at_ms),
            suspect = m.suspect OR l.id = ANY (died)
        FROM (
            SELECT x.ctid AS tid, g.id FROM gone g CROSS JOIN LATERAL unnest(g.positions) AS p(position)
            CROSS JOIN LATERAL (
                SELECT y.ctid FROM message y
                WHERE y.queue = g.queue AND y.position = p.position AND y.fence = g.id LIMIT 1
            ) x
        ) l
        WHERE m.ctid = l.tid
        RETURNING m.queue
    )
    SELECT array_agg(DISTINCT queue) INTO found FROM back;
    DELETE FROM process WHERE until_ms <= at_ms AND id <> mine;
    RETURN coalesce(found, '{}');
END $$;

-- Take leases of messages back at once; `counted` counts this receive. The queues that got messages back.
CREATE FUNCTION release_messages(
    gate bigint, given_ms bigint, counted boolean, s_queue integer[], s_position bigint[], s_fence bigint[]
) RETURNS integer[] LANGUAGE plpgsql SET search_path FROM CURRENT
AS $$
DECLARE
    found integer[];
BEGIN
    PERFORM pg_advisory_xact_lock(gate);
    WITH back AS (
        UPDATE message m SET fence = 0, receives = m.receives - CASE WHEN counted THEN 0 ELSE 1 END,
            ready_ms = CASE WHEN m.blocked THEN m.ready_ms ELSE greatest(m.ready_ms, clock_ms(given_ms)) END
        FROM (
            SELECT x.ctid AS tid FROM unnest(s_queue, s_position, s_fence) AS s(queue, position, fence)
            CROSS JOIN LATERAL (
                SELECT y.ctid FROM message y
                WHERE y.queue = s.queue AND y.position = s.position AND y.fence = s.fence LIMIT 1
            ) x
        ) l
        WHERE m.ctid = l.tid
        RETURNING m.queue
    )
    SELECT array_agg(DISTINCT queue) INTO found FROM back;
    RETURN coalesce(found, '{}');
END $$;

-- Wake other processes. Nobody waits for the flush of a notification.
CREATE FUNCTION tell(channel text, payload text) RETURNS void LANGUAGE plpgsql SET search_path FROM CURRENT
AS $$
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    PERFORM pg_notify(channel, payload);
END $$;
