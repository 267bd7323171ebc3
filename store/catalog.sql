-- name: create_tables
CREATE TABLE IF NOT EXISTS processors (
    processor_id TEXT PRIMARY KEY,
    tenant_id TEXT NOT NULL,
    flow TEXT NOT NULL,
    processor_name TEXT NOT NULL,
    config TEXT NOT NULL,
    status TEXT NOT NULL,
    created_by TEXT,
    created_at_ms INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL,
    last_error TEXT,
    UNIQUE (tenant_id, flow, processor_name)
) WITHOUT ROWID;

-- name: insert_processor
INSERT INTO processors
    (processor_id, tenant_id, flow, processor_name, config, status, created_by, created_at_ms, updated_at_ms)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: update_processor_config
UPDATE processors SET config = ?, updated_at_ms = ? WHERE processor_id = ?;

-- name: update_processor_status
UPDATE processors SET status = ?, last_error = ?, updated_at_ms = ? WHERE tenant_id = ? AND processor_id = ?;

-- name: update_processor_name
UPDATE processors SET processor_name = ?, updated_at_ms = ? WHERE tenant_id = ? AND processor_id = ?;

-- name: select_processors
SELECT processor_id, tenant_id, flow, processor_name, config, status, created_by, created_at_ms, updated_at_ms, last_error
FROM processors
WHERE (:tenant_id IS NULL OR tenant_id = :tenant_id)
  AND (:processor_id IS NULL OR processor_id = :processor_id)
  AND (:flow IS NULL OR flow = :flow)
  AND (:processor_name IS NULL OR processor_name = :processor_name)
ORDER BY created_at_ms, processor_id;

-- name: delete_processor
DELETE FROM processors WHERE tenant_id = ? AND processor_id = ?;
