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

-- Where the server has it: the built-in compression is slower than the disk.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_settings WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals)) THEN
        ALTER TABLE record ALTER body SET COMPRESSION lz4;
        ALTER TABLE staged ALTER body SET COMPRESSION lz4;
        ALTER TABLE event ALTER envelope SET COMPRESSION lz4;
        ALTER TABLE dead ALTER envelope SET COMPRESSION lz4;
        ALTER TABLE claim ALTER result SET COMPRESSION lz4;
    END IF;
END $$;
