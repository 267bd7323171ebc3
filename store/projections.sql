-- name: create_tables
CREATE TABLE IF NOT EXISTS projections (
    tenant_id TEXT NOT NULL,
    name TEXT NOT NULL,
    definition TEXT NOT NULL,
    is_paused INTEGER NOT NULL DEFAULT 0,
    active_build INTEGER,
    created_at_ms INTEGER NOT NULL,
    changed_at_ms INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS projection_builds (
    build_no INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant_id TEXT NOT NULL,
    name TEXT NOT NULL,
    hash TEXT NOT NULL,
    definition TEXT NOT NULL,
    started_at_ms INTEGER NOT NULL,
    retries INTEGER NOT NULL DEFAULT 0,
    skip_position INTEGER,
    position INTEGER NOT NULL DEFAULT 0,
    events INTEGER NOT NULL DEFAULT 0,
    skipped INTEGER NOT NULL DEFAULT 0,
    recorded_at_ms INTEGER,
    is_live INTEGER NOT NULL DEFAULT 0,
    failure TEXT,
    trouble TEXT,
    updated_at_ms INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS projection_builds_by_name ON projection_builds (tenant_id, name);
CREATE TABLE IF NOT EXISTS projection_changes (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    change_no INTEGER NOT NULL
);
INSERT OR IGNORE INTO projection_changes VALUES (1, 0);

-- name: select_change_no
SELECT change_no FROM projection_changes;

-- name: update_change_no
UPDATE projection_changes SET change_no = change_no + 1;

-- name: select_all
SELECT tenant_id, name, definition, is_paused, active_build, created_at_ms, changed_at_ms FROM projections
ORDER BY tenant_id, name;

-- name: select_tenant
SELECT tenant_id, name, definition, is_paused, active_build, created_at_ms, changed_at_ms FROM projections
WHERE tenant_id = ? ORDER BY name;

-- name: select_one
SELECT tenant_id, name, definition, is_paused, active_build, created_at_ms, changed_at_ms FROM projections
WHERE tenant_id = ? AND name = ?;

-- name: upsert_projection
INSERT INTO projections (tenant_id, name, definition, is_paused, active_build, created_at_ms, changed_at_ms)
VALUES (?, ?, ?, 0, NULL, ?, ?)
ON CONFLICT (tenant_id, name) DO UPDATE SET definition = excluded.definition, changed_at_ms = excluded.changed_at_ms;

-- name: update_paused
UPDATE projections SET is_paused = ? WHERE tenant_id = ? AND name = ?;

-- name: update_active
UPDATE projections SET active_build = ? WHERE tenant_id = ? AND name = ?;

-- name: delete_projection
DELETE FROM projections WHERE tenant_id = ? AND name = ?;

-- name: select_builds
SELECT build_no, tenant_id, name, hash, definition, started_at_ms, retries, skip_position, position, events, skipped,
       recorded_at_ms, is_live, failure, trouble, updated_at_ms
FROM projection_builds WHERE tenant_id = ? AND name = ? ORDER BY build_no;

-- name: select_build_numbers
SELECT build_no FROM projection_builds;

-- name: insert_build
INSERT INTO projection_builds (tenant_id, name, hash, definition, started_at_ms, updated_at_ms) VALUES (?, ?, ?, ?, ?, ?);

-- name: update_build_definition
UPDATE projection_builds SET definition = ?, retries = retries + 1 WHERE build_no = ?;

-- name: update_retry
UPDATE projection_builds SET retries = retries + 1, skip_position = ?, failure = NULL, trouble = NULL WHERE build_no = ?;

-- name: update_progress
UPDATE projection_builds
SET position = ?, events = ?, skipped = ?, recorded_at_ms = ?, is_live = ?, failure = ?, trouble = ?, updated_at_ms = ?
WHERE build_no = ?;

-- name: delete_build
DELETE FROM projection_builds WHERE build_no = ?;

-- name: delete_builds
DELETE FROM projection_builds WHERE tenant_id = ? AND name = ?;
