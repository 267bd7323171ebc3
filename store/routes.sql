-- name: create_tables
CREATE TABLE IF NOT EXISTS route_versions (
    tenant_id TEXT NOT NULL,
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    is_current INTEGER NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (tenant_id, name, version)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS route_changes (
    tenant_id TEXT PRIMARY KEY,
    change_no INTEGER NOT NULL
) WITHOUT ROWID;

-- name: select_change_no
SELECT change_no FROM route_changes WHERE tenant_id = ?;

-- name: upsert_change_no
INSERT INTO route_changes (tenant_id, change_no) VALUES (?, 1)
ON CONFLICT (tenant_id) DO UPDATE SET change_no = route_changes.change_no + 1;

-- name: select_current
SELECT record FROM route_versions WHERE tenant_id = ? AND is_current = 1 ORDER BY name;

-- name: select_current_of_name
SELECT record FROM route_versions WHERE tenant_id = ? AND name = ? AND is_current = 1;

-- name: select_version
SELECT record FROM route_versions WHERE tenant_id = ? AND name = ? AND version = ?;

-- name: select_highest_version
SELECT coalesce(max(version), 0) FROM route_versions WHERE tenant_id = ? AND name = ?;

-- name: update_not_current
UPDATE route_versions SET is_current = 0 WHERE tenant_id = ? AND name = ? AND is_current = 1;

-- name: insert_version
INSERT INTO route_versions (tenant_id, name, version, is_current, record) VALUES (?, ?, ?, 1, ?);
