-- name: create_tables
CREATE TABLE IF NOT EXISTS saved_queries (
    tenant_id TEXT NOT NULL,
    name TEXT NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (tenant_id, name)
) WITHOUT ROWID;

-- name: select_all
SELECT record FROM saved_queries WHERE tenant_id = ? ORDER BY name;

-- name: select_one
SELECT record FROM saved_queries WHERE tenant_id = ? AND name = ?;

-- name: count
SELECT count(*) FROM saved_queries WHERE tenant_id = ?;

-- name: upsert
INSERT INTO saved_queries (tenant_id, name, record) VALUES (?, ?, ?)
ON CONFLICT (tenant_id, name) DO UPDATE SET record = excluded.record;

-- name: delete
DELETE FROM saved_queries WHERE tenant_id = ? AND name = ?;
