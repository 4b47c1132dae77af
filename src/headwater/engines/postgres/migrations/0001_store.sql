-- needs: 1
-- One store: the tables of `engines/sqlite/schema.sql`, with leases that several processes share.
-- Keys are bytes in the order of the model (`keys.py`). Times are milliseconds of the store's time.

CREATE TABLE head (
    id integer PRIMARY KEY CHECK (id = 1),
    store text NOT NULL,
    revision bigint NOT NULL
);

-- Each batch of commits takes one block of positions: those of its events are block * 32768 + n.
CREATE SEQUENCE block;

-- A claim of messages is one lease; its number is their fencing token.
CREATE SEQUENCE fence;

CREATE SEQUENCE process_no;

CREATE TABLE name (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL UNIQUE);

CREATE TABLE app (name text PRIMARY KEY, catalog bytea NOT NULL);

CREATE TABLE subscription (id text PRIMARY KEY, route bytea NOT NULL);

CREATE TABLE paused (queue integer PRIMARY KEY);

-- The batches that were applied lately, so that one whose answer was lost can be told; void: it never will be.
CREATE TABLE applied (
    id text PRIMARY KEY,
    block bigint NOT NULL,
    time_ms bigint NOT NULL,
    void boolean NOT NULL
);

CREATE INDEX applied_time ON applied (time_ms);

-- The processes that hold leases; one is dead when until_ms has passed.
CREATE TABLE process (
    id bigint PRIMARY KEY,
    until_ms bigint NOT NULL,
    label text NOT NULL
);

-- How many messages all processes have counted.
CREATE TABLE counted (
    queue integer PRIMARY KEY,
    sent bigint NOT NULL,
    settled bigint NOT NULL,
    retried bigint NOT NULL
);

CREATE TABLE lease (
    id bigint PRIMARY KEY,
    process bigint NOT NULL,
    queue integer NOT NULL,
    until_ms bigint NOT NULL,
    positions bigint[] NOT NULL
);

CREATE INDEX lease_until ON lease (until_ms);
CREATE INDEX lease_process ON lease (process);

CREATE TABLE record (
    tbl integer NOT NULL,
    pk bytea NOT NULL,
    sk bytea NOT NULL,
    version text NOT NULL,
    crc bigint NOT NULL,
    schema integer NOT NULL,
    expires_ms bigint,
    body bytea NOT NULL,
    PRIMARY KEY (tbl, pk, sk)
);

CREATE INDEX record_expiry ON record (expires_ms) WHERE expires_ms IS NOT NULL;

CREATE TABLE entry (
    idx integer NOT NULL,
    partition bytea NOT NULL,
    sort bytea NOT NULL,
    pk bytea NOT NULL,
    sk bytea NOT NULL,
    PRIMARY KEY (idx, partition, sort, pk, sk)
);

-- The history. queues: the numbers of the queues that the event went to, with a minus for a dead letter at once;
-- tx: the transaction that wrote it, for reading in order behind those that still write.
CREATE TABLE event (
    seq bigint PRIMARY KEY,
    id text NOT NULL,
    trace text NOT NULL,
    source integer NOT NULL,
    subject text,
    time_ms bigint NOT NULL,
    envelope bytea NOT NULL,
    crc bigint NOT NULL,
    queues text NOT NULL,
    tx xid8 NOT NULL DEFAULT pg_current_xact_id()
);

CREATE INDEX event_id ON event (id);
CREATE INDEX event_trace ON event (trace);
CREATE INDEX event_subject ON event (source, subject, seq) WHERE subject IS NOT NULL;

-- A message's position is its event's seq. Claiming changes no indexed column. ready_ms 0: ready when it was sent, found
-- by position; else found by that time. blocked: not the head of its group. fence 0: not leased. suspect: its process
-- died while it ran.
CREATE TABLE message (
    queue integer NOT NULL,
    position bigint NOT NULL,
    ready_ms bigint NOT NULL,
    fence bigint NOT NULL,
    sent_ms bigint NOT NULL,
    receives integer NOT NULL,
    blocked boolean NOT NULL,
    redriven boolean NOT NULL,
    suspect boolean NOT NULL,
    grp text,
    PRIMARY KEY (queue, position)
) WITH (fillfactor = 70);

CREATE INDEX message_fresh ON message (queue, position) WHERE ready_ms = 0 AND NOT blocked;
CREATE INDEX message_due ON message (queue, ready_ms, position) WHERE ready_ms > 0 AND NOT blocked;
CREATE INDEX message_group ON message (queue, grp, blocked, position) WHERE grp IS NOT NULL;
CREATE INDEX message_suspect ON message (queue, position) WHERE suspect;

-- Attempts that did not end in a plain acknowledgement.
CREATE TABLE attempt (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id text NOT NULL,
    queue integer NOT NULL,
    n integer NOT NULL,
    outcome text NOT NULL,
    error text NOT NULL,
    traceback text NOT NULL,
    started_ms bigint NOT NULL,
    ended_ms bigint NOT NULL
);

CREATE INDEX attempt_message ON attempt (event_id, queue);

CREATE TABLE dead (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    queue integer NOT NULL,
    event_id text NOT NULL,
    envelope bytea NOT NULL,
    crc bigint NOT NULL,
    grp text,
    receives integer NOT NULL,
    reason text NOT NULL,
    died_ms bigint NOT NULL
);

CREATE INDEX dead_queue ON dead (queue, id);
CREATE INDEX dead_event ON dead (event_id);

CREATE TABLE claim (
    scope text NOT NULL,
    id text NOT NULL,
    expires_ms bigint NOT NULL,
    result bytea NOT NULL,
    PRIMARY KEY (scope, id)
);

CREATE INDEX claim_expiry ON claim (expires_ms);

-- Bulk loads on their way. state 0: being staged; 1: flipped, its rows come before records; 2: given up.
-- process: that stages it; touched_ms: when it last went on.
CREATE TABLE load (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tbl integer NOT NULL,
    scope text NOT NULL,
    state integer NOT NULL,
    process bigint NOT NULL,
    touched_ms bigint NOT NULL,
    origin bytea
);

CREATE INDEX load_flipped ON load (tbl) WHERE state = 1;

CREATE TABLE generation (
    tbl integer NOT NULL,
    scope text NOT NULL,
    load bigint NOT NULL,
    PRIMARY KEY (tbl, scope)
);

CREATE TABLE staged (
    load bigint NOT NULL,
    pk bytea NOT NULL,
    sk bytea NOT NULL,
    version text NOT NULL,
    crc bigint NOT NULL,
    schema integer NOT NULL,
    expires_ms bigint,
    digest bytea,
    body bytea,
    PRIMARY KEY (load, pk, sk)
);

CREATE TABLE staged_entry (
    load bigint NOT NULL,
    idx integer NOT NULL,
    partition bytea NOT NULL,
    sort bytea NOT NULL,
    pk bytea NOT NULL,
    sk bytea NOT NULL,
    PRIMARY KEY (load, idx, partition, sort, pk, sk)
);

CREATE TABLE member (
    tbl integer NOT NULL,
    scope text NOT NULL,
    pk bytea NOT NULL,
    sk bytea NOT NULL,
    digest bytea NOT NULL,
    version text NOT NULL,
    PRIMARY KEY (tbl, scope, pk, sk)
);

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
    m_queue integer[], m_event integer[], m_ready bigint[], m_redriven boolean[], m_fence bigint[], m_grp text[],
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
        LEFT JOIN record r ON r.tbl = i.tbl AND r.pk = i.pk AND r.sk = i.sk
        WHERE r.version IS DISTINCT FROM i.version
    ) THEN
        RETURN;
    END IF;
    IF c_id <> '{}' AND EXISTS (
        SELECT FROM unnest(c_scope, c_id, c_expires) AS i(scope, id, expires_ms)
        LEFT JOIN claim c ON c.scope = i.scope AND c.id = i.id
        WHERE c.expires_ms IS DISTINCT FROM i.expires_ms
    ) THEN
        RETURN;
    END IF;
    IF s_queue <> '{}' THEN
        outcome := 3;
        SELECT array_agg(s.n - 1) INTO lost
        FROM unnest(s_queue, s_position, s_fence) WITH ORDINALITY AS s(queue, position, fence, n)
        LEFT JOIN message m ON m.queue = s.queue AND m.position = s.position
        WHERE m.fence IS DISTINCT FROM s.fence;
        IF lost IS NOT NULL THEN
            RETURN;
        END IF;
        DELETE FROM message m USING unnest(s_queue, s_position, s_ready) AS s(queue, position, ready_ms)
        WHERE s.ready_ms = -1 AND m.queue = s.queue AND m.position = s.position;
        UPDATE message m SET fence = 0, ready_ms = greatest(s.ready_ms, at_ms), receives = s.receives, suspect = false
        FROM unnest(s_queue, s_position, s_ready, s_receives) AS s(queue, position, ready_ms, receives)
        WHERE s.ready_ms >= 0 AND m.queue = s.queue AND m.position = s.position;
        IF g_queue <> '{}' THEN
            PERFORM unblock(g_queue, g_name, at_ms);
        END IF;
        IF leases <> '{}' THEN
            DELETE FROM lease WHERE id = ANY (leases);
        END IF;
    END IF;
    first := nextval('block') * 32768;
    IF r_tbl <> '{}' THEN
        DELETE FROM record r USING unnest(r_tbl, r_pk, r_sk, r_body) AS n(tbl, pk, sk, body)
        WHERE n.body IS NULL AND r.tbl = n.tbl AND r.pk = n.pk AND r.sk = n.sk;
        INSERT INTO record AS r
        SELECT * FROM unnest(r_tbl, r_pk, r_sk, r_version, r_crc, r_schema, r_expires, r_body)
            AS n(tbl, pk, sk, version, crc, schema, expires_ms, body)
        WHERE n.body IS NOT NULL
        ON CONFLICT (tbl, pk, sk) DO UPDATE SET version = excluded.version, crc = excluded.crc,
            schema = excluded.schema, expires_ms = excluded.expires_ms, body = excluded.body;
    END IF;
    IF x_idx <> '{}' THEN
        DELETE FROM entry e USING unnest(x_idx, x_partition, x_sort, x_pk, x_sk, x_added)
            AS x(idx, partition, sort, pk, sk, added)
        WHERE NOT x.added AND e.idx = x.idx AND e.partition = x.partition AND e.sort = x.sort
            AND e.pk = x.pk AND e.sk = x.sk;
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
    UPDATE message m SET blocked = false, ready_ms = greatest(m.ready_ms, at_ms)
    FROM (
        SELECT f.queue, f.position FROM unnest(g_queue, g_name) AS g(queue, name)
        CROSS JOIN LATERAL (
            SELECT x.queue, x.position, x.blocked FROM message x WHERE x.queue = g.queue AND x.grp = g.name
            ORDER BY x.blocked, x.position LIMIT 1
        ) f
        WHERE f.blocked
    ) h
    WHERE m.queue = h.queue AND m.position = h.position;
END $$;

-- Lease up to `want` ready messages of a queue to a process, or none. The caller knows that no message was left at or
-- before `after_position` and `after_ms`. With `alone` a suspect comes first, and alone. late_done
-- and fresh_done: there is no further one by time, and by position. The rest tells how far that is so from now on: once all transactions before `ahead` have ended, all positions up to `reached`
-- and all times up to `reached_ms` can be seen. A claim that a crash takes back is no loss: nobody waits for its flush.
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
                SELECT r.position FROM message h
                CROSS JOIN LATERAL (
                    SELECT n.position, bool_and(n.ready_ms <= reached_ms AND n.fence = 0)
                        OVER (ORDER BY n.position) AS ready
                    FROM (
                        SELECT o.position, o.ready_ms, o.fence FROM message o
                        WHERE o.queue = q AND o.grp = h.grp AND o.blocked
                        ORDER BY o.position LIMIT want - cardinality(picked)
                    ) n
                ) r
                WHERE h.queue = q AND h.position = ANY (picked) AND r.ready
                LIMIT want - cardinality(picked)
            ) f;
            picked := picked || coalesce(found, '{}');
        END IF;
    END IF;
    IF picked = '{}' THEN
        due_ms := (
            SELECT m.ready_ms FROM message m
            WHERE m.queue = q AND NOT m.blocked AND m.ready_ms > 0 AND m.ready_ms > reached_ms
            ORDER BY m.ready_ms LIMIT 1);
        RETURN;
    END IF;
    lease := nextval('fence');
    INSERT INTO lease VALUES (lease, holder, q, reached_ms + visible_ms, picked);
    UPDATE message m SET fence = claim.lease, receives = m.receives + 1
    FROM unnest(picked) AS p(position) WHERE m.queue = q AND m.position = p.position;
    SELECT array_agg(m.position ORDER BY p.n), array_agg(m.grp ORDER BY p.n), array_agg(m.sent_ms ORDER BY p.n),
        array_agg(m.receives ORDER BY p.n), array_agg(m.redriven ORDER BY p.n), array_agg(m.ready_ms ORDER BY p.n),
        array_agg(e.envelope ORDER BY p.n), array_agg(e.crc ORDER BY p.n)
    INTO positions, grps, sent, received, was_redriven, readies, bodies, crcs
    FROM unnest(picked) WITH ORDINALITY AS p(position, n)
    JOIN message m ON m.queue = q AND m.position = p.position
    JOIN event e ON e.seq = p.position;
END $$;

-- Take back the leases that have ended, and those of dead processes; the queues that got messages back. `mine` is
-- alive, whatever its row says. The messages of a dead process are suspect.
CREATE FUNCTION revoke_leases(gate bigint, mine bigint, given_ms bigint) RETURNS integer[] LANGUAGE plpgsql
SET search_path FROM CURRENT SET enable_hashjoin = off SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan
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
    SELECT e.id, m.queue, m.receives, 'died', 'the process died while the handler ran', '', at_ms, at_ms
    FROM lease l CROSS JOIN LATERAL unnest(l.positions) AS p(position)
    JOIN message m ON m.queue = l.queue AND m.position = p.position AND m.fence = l.id
    JOIN event e ON e.seq = m.position
    WHERE l.id = ANY (died);
    WITH gone AS (DELETE FROM lease l WHERE l.id = ANY (ended) AND (l.until_ms <= at_ms OR l.id = ANY (died)) RETURNING *),
    back AS (
        UPDATE message m SET fence = 0, ready_ms = greatest(m.ready_ms, at_ms),
            suspect = m.suspect OR l.id = ANY (died)
        FROM gone l CROSS JOIN LATERAL unnest(l.positions) AS p(position)
        WHERE m.queue = l.queue AND m.position = p.position AND m.fence = l.id
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
        FROM unnest(s_queue, s_position, s_fence) AS s(queue, position, fence)
        WHERE m.queue = s.queue AND m.position = s.position AND m.fence = s.fence
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

-- What the store has for the keys of a load, the n-th each: the record (its body if the scope's last load did not write
-- it so), what that load wrote, and the scope that the key belongs to if it is another one.
CREATE FUNCTION compare_rows(of_tbl integer, of_scope text, k_pk bytea[], k_sk bytea[]) RETURNS TABLE (
    n bigint, version text, crc bigint, schema integer, expires_ms bigint, body bytea, digest bytea, written text,
    other text
) LANGUAGE plpgsql STABLE
SET search_path FROM CURRENT SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan SET jit = off
AS $$
BEGIN
    RETURN QUERY
    SELECT k.n, r.version, r.crc, r.schema, r.expires_ms,
        CASE WHEN r.version IS DISTINCT FROM m.version THEN r.body END, m.digest, m.version,
        CASE WHEN m.version IS NULL THEN (
            SELECT g.scope FROM generation g CROSS JOIN LATERAL (
                SELECT FROM member x WHERE x.tbl = of_tbl AND x.scope = g.scope AND x.pk = k.pk AND x.sk = k.sk LIMIT 1
            ) o
            WHERE g.tbl = of_tbl AND g.scope <> of_scope LIMIT 1) END
    FROM unnest(k_pk, k_sk) WITH ORDINALITY AS k(pk, sk, n)
    LEFT JOIN LATERAL (
        SELECT * FROM record x WHERE x.tbl = of_tbl AND x.pk = k.pk AND x.sk = k.sk LIMIT 1
    ) r ON true
    LEFT JOIN LATERAL (
        SELECT * FROM member x WHERE x.tbl = of_tbl AND x.scope = of_scope AND x.pk = k.pk AND x.sk = k.sk LIMIT 1
    ) m ON true;
END $$;

-- A page of a scope's rows; with a time, whether each record is there as the scope's last load wrote it.
CREATE FUNCTION members_after(
    of_tbl integer, of_scope text, after_pk bytea, after_sk bytea, want integer, at_ms bigint DEFAULT NULL
) RETURNS TABLE (pk bytea, sk bytea, stands boolean) LANGUAGE plpgsql STABLE
SET search_path FROM CURRENT SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off
SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan SET jit = off
AS $$
BEGIN
    RETURN QUERY
    SELECT m.pk, m.sk, CASE WHEN at_ms IS NOT NULL THEN EXISTS (
        SELECT FROM record r WHERE r.tbl = m.tbl AND r.pk = m.pk AND r.sk = m.sk AND r.version = m.version
            AND (r.expires_ms IS NULL OR r.expires_ms > at_ms)) END
    FROM member m WHERE m.tbl = of_tbl AND m.scope = of_scope AND (m.pk, m.sk) > (after_pk, after_sk)
    ORDER BY m.pk, m.sk LIMIT want;
END $$;

-- A key that a load has staged and that belongs to another scope.
CREATE FUNCTION staged_member(of_tbl integer, of_scope text, of_load bigint) RETURNS TABLE (pk bytea, sk bytea)
LANGUAGE plpgsql STABLE
SET search_path FROM CURRENT SET enable_seqscan = off SET enable_hashjoin = off
SET plan_cache_mode = force_generic_plan SET jit = off
AS $$
BEGIN
    RETURN QUERY
    SELECT s.pk, s.sk FROM staged s CROSS JOIN LATERAL (
        SELECT FROM member x WHERE x.tbl = of_tbl AND x.scope = of_scope AND x.pk = s.pk AND x.sk = s.sk LIMIT 1
    ) m
    WHERE s.load = of_load LIMIT 1;
END $$;

-- The next rows that a table's flipped load has staged, or the load alone when there are none after the given key.
CREATE FUNCTION next_staged(of_tbl integer, after_pk bytea, after_sk bytea, want integer)
RETURNS TABLE (load bigint, pk bytea, sk bytea, size integer) LANGUAGE plpgsql STABLE
SET search_path FROM CURRENT SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off
SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan SET jit = off
AS $$
BEGIN
    RETURN QUERY
    SELECT l.id, s.pk, s.sk, length(s.body) FROM load l LEFT JOIN LATERAL (
        SELECT x.pk, x.sk, x.body FROM staged x WHERE x.load = l.id AND (x.pk, x.sk) > (after_pk, after_sk)
        ORDER BY x.pk, x.sk LIMIT want
    ) s ON true
    WHERE l.tbl = of_tbl AND l.state = 1;
END $$;

-- Take rows of flipped loads out of `staged`, with their index entries, and follow in `member` (without a digest the
-- row leaves its scope); false: another process has moved some of them.
CREATE FUNCTION move_rows(
    s_load bigint[], s_pk bytea[], s_sk bytea[],
    x_load bigint[], x_idx integer[], x_partition bytea[], x_sort bytea[], x_pk bytea[], x_sk bytea[],
    m_tbl integer[], m_scope text[], m_pk bytea[], m_sk bytea[], m_digest bytea[], m_version text[]
) RETURNS boolean LANGUAGE plpgsql
SET search_path FROM CURRENT SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan SET jit = off
AS $$
DECLARE
    moved bigint;
BEGIN
    DELETE FROM staged WHERE ctid = ANY (ARRAY(
        SELECT s.ctid FROM unnest(s_load, s_pk, s_sk) AS g(load, pk, sk) CROSS JOIN LATERAL (
            SELECT x.ctid FROM staged x WHERE x.load = g.load AND x.pk = g.pk AND x.sk = g.sk LIMIT 1
        ) s));
    GET DIAGNOSTICS moved = ROW_COUNT;
    IF moved < cardinality(s_load) THEN
        RETURN false;
    END IF;
    DELETE FROM staged_entry WHERE ctid = ANY (ARRAY(
        SELECT e.ctid FROM unnest(x_load, x_idx, x_partition, x_sort, x_pk, x_sk)
            AS g(load, idx, partition, sort, pk, sk)
        CROSS JOIN LATERAL (
            SELECT x.ctid FROM staged_entry x WHERE x.load = g.load AND x.idx = g.idx AND x.partition = g.partition
                AND x.sort = g.sort AND x.pk = g.pk AND x.sk = g.sk LIMIT 1
        ) e));
    INSERT INTO member SELECT * FROM unnest(m_tbl, m_scope, m_pk, m_sk, m_digest, m_version)
        AS j(tbl, scope, pk, sk, digest, version) WHERE j.digest IS NOT NULL
    ON CONFLICT (tbl, scope, pk, sk) DO UPDATE SET digest = excluded.digest, version = excluded.version;
    DELETE FROM member WHERE ctid = ANY (ARRAY(
        SELECT m.ctid FROM unnest(m_tbl, m_scope, m_pk, m_sk, m_digest) AS j(tbl, scope, pk, sk, digest)
        CROSS JOIN LATERAL (
            SELECT x.ctid FROM member x
            WHERE x.tbl = j.tbl AND x.scope = j.scope AND x.pk = j.pk AND x.sk = j.sk LIMIT 1
        ) m
        WHERE j.digest IS NULL));
    RETURN true;
END $$;
