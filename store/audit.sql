-- name: create_tables
CREATE TABLE IF NOT EXISTS audit_entries (
    seq INTEGER PRIMARY KEY,
    at_ms INTEGER NOT NULL,
    tenant_id TEXT NOT NULL,
    actor TEXT NOT NULL,
    token_id TEXT,
    address TEXT,
    action TEXT NOT NULL,
    target TEXT NOT NULL,
    outcome TEXT NOT NULL,
    reason TEXT,
    before TEXT,
    after TEXT,
    request_id TEXT,
    repeated INTEGER NOT NULL,
    previous_hash TEXT NOT NULL,
    hash TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS audit_entries_by_tenant ON audit_entries (tenant_id, seq);
CREATE TABLE IF NOT EXISTS audit_checkpoints (
    block INTEGER PRIMARY KEY,
    seq INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    hash TEXT NOT NULL,
    key_id TEXT NOT NULL,
    format_version INTEGER NOT NULL,
    signature TEXT NOT NULL
);
-- These keep entries from being changed by mistake; the hashes tell what somebody did who took the triggers away.
CREATE TRIGGER IF NOT EXISTS audit_entries_stay BEFORE DELETE ON audit_entries BEGIN
    SELECT RAISE(ABORT, 'entries of the audit are not removed');
END;
CREATE TRIGGER IF NOT EXISTS audit_entries_stay_as_they_are BEFORE UPDATE ON audit_entries BEGIN
    SELECT RAISE(ABORT, 'entries of the audit are not changed');
END;

-- name: select_head
SELECT seq, hash FROM audit_entries ORDER BY seq DESC LIMIT 1;

-- name: insert_entry
INSERT INTO audit_entries (seq, at_ms, tenant_id, actor, token_id, address, action, target, outcome, reason, before, after,
                           request_id, repeated, previous_hash, hash)
VALUES (:seq, :at_ms, :tenant_id, :actor, :token_id, :address, :action, :target, :outcome, :reason, :before, :after,
        :request_id, :repeated, :previous_hash, :hash);

-- name: put_checkpoint
INSERT INTO audit_checkpoints (block, seq, at_ms, hash, key_id, format_version, signature)
VALUES (:block, :seq, :at_ms, :hash, :key_id, :format_version, :signature)
ON CONFLICT (block) DO UPDATE SET seq = excluded.seq, at_ms = excluded.at_ms, hash = excluded.hash, key_id = excluded.key_id,
    format_version = excluded.format_version, signature = excluded.signature;

-- name: select_last_checkpoint
SELECT seq, at_ms, hash, key_id, format_version, signature FROM audit_checkpoints ORDER BY seq DESC LIMIT 1;

-- name: select_checkpoints
SELECT seq, at_ms, hash, key_id, format_version, signature FROM audit_checkpoints ORDER BY seq, block;

-- name: select_entries
SELECT seq, at_ms, tenant_id, actor, token_id, address, action, target, outcome, reason, before, after, request_id, repeated,
       previous_hash, hash
FROM audit_entries ORDER BY seq;

-- name: select_page
SELECT seq, at_ms, tenant_id, actor, token_id, address, action, target, outcome, reason, before, after, request_id, repeated,
       previous_hash, hash
FROM audit_entries
WHERE (:tenant_id IS NULL OR tenant_id = :tenant_id)
  AND (:cursor IS NULL OR seq < :cursor)
  AND (:action IS NULL OR action = :action)
  AND (:noun IS NULL OR substr(action, 1, length(:noun)) = :noun)
  AND (:actor IS NULL OR actor = :actor)
  AND (:target IS NULL OR target = :target)
  AND (:outcome IS NULL OR outcome = :outcome)
  AND (:since_ms IS NULL OR at_ms >= :since_ms)
  AND (:until_ms IS NULL OR at_ms < :until_ms)
ORDER BY seq DESC LIMIT :limit;
