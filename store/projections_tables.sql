-- name: select_is_made
SELECT 1 FROM sqlite_master WHERE name = '_esb_progress';

-- name: create_tables
CREATE TABLE _esb_progress (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    position INTEGER NOT NULL,
    events INTEGER NOT NULL,
    skipped INTEGER NOT NULL,
    recorded_at_ms INTEGER
);
INSERT INTO _esb_progress VALUES (1, 0, 0, 0, NULL);
CREATE TABLE _esb_skipped (
    position INTEGER PRIMARY KEY,
    event_id TEXT NOT NULL,
    event_type TEXT NOT NULL,
    aggregate_id TEXT NOT NULL,
    message TEXT NOT NULL,
    at_ms INTEGER NOT NULL
);

-- name: select_progress
SELECT position, events, skipped, recorded_at_ms FROM _esb_progress;

-- name: update_progress
UPDATE _esb_progress SET position = ?, events = ?, skipped = ?, recorded_at_ms = ?;

-- name: select_skipped
SELECT position, event_id, event_type, aggregate_id, message, at_ms FROM _esb_skipped ORDER BY position DESC LIMIT ?;

-- name: insert_skipped
INSERT INTO _esb_skipped VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (position) DO NOTHING;

-- name: delete_skipped
DELETE FROM _esb_skipped WHERE position NOT IN (SELECT position FROM _esb_skipped ORDER BY position DESC LIMIT ?);

-- name: duckdb_create_tables
CREATE TABLE _esb_progress (position BIGINT NOT NULL, events BIGINT NOT NULL, skipped BIGINT NOT NULL, recorded_at_ms BIGINT);
INSERT INTO _esb_progress VALUES (0, 0, 0, NULL);
CREATE TABLE _esb_skipped (
    position BIGINT PRIMARY KEY,
    event_id VARCHAR NOT NULL,
    event_type VARCHAR NOT NULL,
    aggregate_id VARCHAR NOT NULL,
    message VARCHAR NOT NULL,
    at_ms BIGINT NOT NULL
);

-- name: duckdb_select_is_made
SELECT 1 FROM duckdb_tables() WHERE table_name = '_esb_progress';
