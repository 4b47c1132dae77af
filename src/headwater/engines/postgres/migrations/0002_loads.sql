-- needs: 2
-- Bulk loads: comparing, and moving what was staged into place.

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
