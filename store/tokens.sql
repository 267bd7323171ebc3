-- name: create_tables
CREATE TABLE IF NOT EXISTS api_tokens (
    token_id TEXT PRIMARY KEY,
    tenant_id TEXT NOT NULL,
    secret_hash BLOB NOT NULL,
    record TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    expires_at_ms INTEGER,
    revoked_at_ms INTEGER,
    revoked_by TEXT
) WITHOUT ROWID;
-- Apart from the tokens, so that noting a use does not look like a change of one.
CREATE TABLE IF NOT EXISTS api_token_uses (
    token_id TEXT PRIMARY KEY,
    last_used_at_ms INTEGER NOT NULL,
    address TEXT
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS api_token_changes (one INTEGER PRIMARY KEY CHECK (one = 1), change_no INTEGER NOT NULL);
INSERT INTO api_token_changes (one, change_no) VALUES (1, 0) ON CONFLICT DO NOTHING;

-- name: select_change_no
SELECT change_no FROM api_token_changes;

-- name: count_change
UPDATE api_token_changes SET change_no = change_no + 1;

-- name: insert_token
INSERT INTO api_tokens (token_id, tenant_id, secret_hash, record, created_at_ms, expires_at_ms) VALUES (?, ?, ?, ?, ?, ?);

-- name: select_any
SELECT 1 FROM api_tokens LIMIT 1;

-- name: revoke_token
UPDATE api_tokens SET revoked_at_ms = ?, revoked_by = ? WHERE token_id = ? AND revoked_at_ms IS NULL;

-- name: select_token
SELECT record, secret_hash, expires_at_ms, revoked_at_ms, revoked_by, NULL, NULL FROM api_tokens WHERE token_id = ?;

-- name: select_tokens
SELECT record, secret_hash, expires_at_ms, revoked_at_ms, revoked_by, u.last_used_at_ms, u.address
FROM api_tokens t LEFT JOIN api_token_uses u USING (token_id)
WHERE :tenant_id IS NULL OR tenant_id = :tenant_id ORDER BY t.token_id;

-- name: note_use
INSERT INTO api_token_uses (token_id, last_used_at_ms, address) VALUES (?, ?, ?)
ON CONFLICT (token_id) DO UPDATE SET last_used_at_ms = excluded.last_used_at_ms, address = excluded.address;
