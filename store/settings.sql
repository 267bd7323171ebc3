-- name: create_tables
CREATE TABLE IF NOT EXISTS settings (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL,
    changed_at_ms INTEGER NOT NULL,
    changed_by TEXT
) WITHOUT ROWID;

-- name: select_all
SELECT name, value, changed_at_ms, changed_by FROM settings;

-- name: upsert
INSERT INTO settings (name, value, changed_at_ms, changed_by) VALUES (?, ?, ?, ?)
ON CONFLICT (name) DO UPDATE SET value = excluded.value, changed_at_ms = excluded.changed_at_ms, changed_by = excluded.changed_by;

-- name: delete
DELETE FROM settings WHERE name = ?;
