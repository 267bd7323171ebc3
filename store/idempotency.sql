-- name: create_tables
CREATE TABLE IF NOT EXISTS idempotency_keys (
    tenant_id TEXT NOT NULL,
    route TEXT NOT NULL,
    key TEXT NOT NULL,
    request_hash TEXT NOT NULL,
    status INTEGER NOT NULL,
    content_type TEXT NOT NULL,
    body BLOB,
    created_at_ms INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, route, key)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS idempotency_keys_by_age ON idempotency_keys (tenant_id, created_at_ms);
CREATE TABLE IF NOT EXISTS published_once (
    tenant_id TEXT NOT NULL,
    name TEXT NOT NULL,
    receipts BLOB NOT NULL,
    created_at_ms INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, name)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS published_once_by_age ON published_once (created_at_ms);

-- name: select_answer
SELECT request_hash, status, content_type, body FROM idempotency_keys
WHERE tenant_id = ? AND route = ? AND key = ? AND created_at_ms > ?;

-- name: select_newest
SELECT max(created_at_ms) FROM idempotency_keys WHERE tenant_id = ?;

-- name: upsert_answer
INSERT INTO idempotency_keys (tenant_id, route, key, request_hash, status, content_type, body, created_at_ms)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (tenant_id, route, key) DO UPDATE SET
    request_hash = excluded.request_hash, status = excluded.status, content_type = excluded.content_type,
    body = excluded.body, created_at_ms = excluded.created_at_ms;

-- name: delete_old
DELETE FROM idempotency_keys WHERE tenant_id = ? AND created_at_ms <= ?;

-- name: delete_surplus
DELETE FROM idempotency_keys WHERE (tenant_id, route, key) IN (
    SELECT tenant_id, route, key FROM idempotency_keys WHERE tenant_id = ? ORDER BY created_at_ms DESC LIMIT 9223372036854775807 OFFSET ?
);

-- name: select_published
SELECT receipts FROM published_once WHERE tenant_id = ? AND name = ? AND created_at_ms > ?;

-- name: upsert_published
INSERT INTO published_once (tenant_id, name, receipts, created_at_ms) VALUES (?, ?, ?, ?)
ON CONFLICT (tenant_id, name) DO UPDATE SET receipts = excluded.receipts, created_at_ms = excluded.created_at_ms;

-- name: delete_old_published
DELETE FROM published_once WHERE (tenant_id, name) IN (
    SELECT tenant_id, name FROM published_once WHERE created_at_ms <= ? LIMIT ?
);
