-- The numbers that every commit moves on: of the commit, of the last event and message, and the store's time.
CREATE TABLE head (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    format INTEGER NOT NULL,
    store TEXT NOT NULL,
    revision INTEGER NOT NULL,
    commit_no INTEGER NOT NULL,
    event_seq INTEGER NOT NULL,
    position INTEGER NOT NULL,
    time_ms INTEGER NOT NULL
) STRICT;

-- Names of tables, topics, queues and indexes, interned: rows below carry the number.
CREATE TABLE name (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;

CREATE TABLE app (name TEXT PRIMARY KEY, catalog BLOB NOT NULL) STRICT, WITHOUT ROWID;

CREATE TABLE subscription (id TEXT PRIMARY KEY, route BLOB NOT NULL) STRICT, WITHOUT ROWID;

CREATE TABLE paused (queue INTEGER PRIMARY KEY) STRICT;

-- The body comes last: what is before it is read without its overflow pages.
CREATE TABLE record (
    tbl INTEGER NOT NULL,
    pk TEXT NOT NULL,
    sk ANY NOT NULL,
    version TEXT NOT NULL,
    crc INTEGER NOT NULL,
    schema INTEGER NOT NULL,
    expires_ms INTEGER,
    body BLOB NOT NULL,
    PRIMARY KEY (tbl, pk, sk)
) STRICT, WITHOUT ROWID;

CREATE INDEX record_expiry ON record (expires_ms) WHERE expires_ms IS NOT NULL;

CREATE TABLE entry (
    idx INTEGER NOT NULL,
    partition ANY NOT NULL,
    sort ANY NOT NULL,
    pk TEXT NOT NULL,
    sk ANY NOT NULL,
    PRIMARY KEY (idx, partition, sort, pk, sk)
) STRICT, WITHOUT ROWID;

-- The history: seq is the order of commits; messages lists the "queue:position" that the event went to;
-- subject is set for changes of records only; for their copies, replayed or redriven, with a slash before it.
CREATE TABLE event (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL,
    trace TEXT NOT NULL,
    source INTEGER NOT NULL,
    subject TEXT,
    time_ms INTEGER NOT NULL,
    envelope BLOB NOT NULL,
    crc INTEGER NOT NULL,
    messages TEXT NOT NULL
) STRICT;

CREATE INDEX event_id ON event (id);
CREATE INDEX event_trace ON event (trace);
CREATE INDEX event_subject ON event (source, subject) WHERE subject IS NOT NULL;

-- ready_ms is 0 for a message that was ready when it was sent.
CREATE TABLE message (
    queue INTEGER NOT NULL,
    position INTEGER NOT NULL,
    event INTEGER NOT NULL,
    grp TEXT,
    ready_ms INTEGER NOT NULL,
    receives INTEGER NOT NULL,
    redriven INTEGER NOT NULL,
    sent_ms INTEGER NOT NULL,
    PRIMARY KEY (queue, position)
) STRICT, WITHOUT ROWID;

CREATE INDEX message_due ON message (queue, ready_ms, position) WHERE ready_ms > 0;

-- Attempts that did not end in a plain acknowledgement.
CREATE TABLE attempt (
    event_id TEXT NOT NULL,
    queue INTEGER NOT NULL,
    n INTEGER NOT NULL,
    outcome TEXT NOT NULL,
    error TEXT NOT NULL,
    traceback TEXT NOT NULL,
    started_ms INTEGER NOT NULL,
    ended_ms INTEGER NOT NULL
) STRICT;

CREATE INDEX attempt_message ON attempt (event_id, queue);

-- Dead letters keep their own copy of the event.
CREATE TABLE dead (
    id INTEGER PRIMARY KEY,
    queue INTEGER NOT NULL,
    event_id TEXT NOT NULL,
    envelope BLOB NOT NULL,
    crc INTEGER NOT NULL,
    grp TEXT,
    receives INTEGER NOT NULL,
    reason TEXT NOT NULL,
    died_ms INTEGER NOT NULL
) STRICT;

CREATE INDEX dead_queue ON dead (queue, id);
CREATE INDEX dead_event ON dead (event_id);

CREATE TABLE claim (
    scope TEXT NOT NULL,
    id TEXT NOT NULL,
    expires_ms INTEGER NOT NULL,
    result BLOB NOT NULL,
    PRIMARY KEY (scope, id)
) STRICT, WITHOUT ROWID;

CREATE INDEX claim_expiry ON claim (expires_ms);

-- Bulk loads on their way. state 0: being staged; 1: flipped, readers see its staged rows before records, and they are
-- being moved there; 2: given up. origin is what its changes are caused by, set by the flip.
CREATE TABLE load (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    tbl INTEGER NOT NULL,
    scope TEXT NOT NULL,
    state INTEGER NOT NULL,
    origin BLOB
) STRICT;

-- The load that each scope was last flipped to.
CREATE TABLE generation (
    tbl INTEGER NOT NULL,
    scope TEXT NOT NULL,
    load INTEGER NOT NULL,
    PRIMARY KEY (tbl, scope)
) STRICT, WITHOUT ROWID;

-- What a load changes. body NULL: the record goes; at expires_ms if that is set. digest NULL: the row leaves the scope.
-- With a rowid, bodies are appended in the order in which they come.
CREATE TABLE staged (
    load INTEGER NOT NULL,
    pk TEXT NOT NULL,
    sk ANY NOT NULL,
    version TEXT NOT NULL,
    crc INTEGER NOT NULL,
    schema INTEGER NOT NULL,
    expires_ms INTEGER,
    digest BLOB,
    body BLOB,
    PRIMARY KEY (load, pk, sk)
) STRICT;

CREATE TABLE staged_entry (
    load INTEGER NOT NULL,
    idx INTEGER NOT NULL,
    partition ANY NOT NULL,
    sort ANY NOT NULL,
    pk TEXT NOT NULL,
    sk ANY NOT NULL,
    PRIMARY KEY (load, idx, partition, sort, pk, sk)
) STRICT, WITHOUT ROWID;

-- The rows of each scope: the digest of what its last load wrote, and the version that the record got by it.
CREATE TABLE member (
    tbl INTEGER NOT NULL,
    scope TEXT NOT NULL,
    pk TEXT NOT NULL,
    sk ANY NOT NULL,
    digest BLOB NOT NULL,
    version TEXT NOT NULL,
    PRIMARY KEY (tbl, scope, pk, sk)
) STRICT, WITHOUT ROWID;
