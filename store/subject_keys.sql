-- name: create_tables
CREATE TABLE IF NOT EXISTS subject_keys (
    no INTEGER PRIMARY KEY AUTOINCREMENT,
    key_id TEXT NOT NULL UNIQUE,
    tenant_id TEXT NOT NULL,
    subject_hash TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    created_at_ms INTEGER NOT NULL,
    wrapped BLOB NOT NULL,
    UNIQUE (tenant_id, subject_hash)
);
CREATE TABLE IF NOT EXISTS shredded_keys (
    key_id TEXT PRIMARY KEY,
    tenant_id TEXT NOT NULL,
    subject_hash TEXT NOT NULL,
    certificate_id TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS shredded_keys_of_subject ON shredded_keys (tenant_id, subject_hash);
CREATE TABLE IF NOT EXISTS erasures (
    no INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant_id TEXT NOT NULL,
    certificate_id TEXT NOT NULL UNIQUE,
    certificate BLOB NOT NULL,
    is_audited INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS erasures_of_tenant ON erasures (tenant_id, no);
CREATE TABLE IF NOT EXISTS key_facts (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;
INSERT INTO key_facts (name, value) VALUES ('shreds', '0') ON CONFLICT DO NOTHING;

-- name: insert_fact
INSERT INTO key_facts (name, value) VALUES (?, ?) ON CONFLICT DO NOTHING;

-- name: select_fact
SELECT value FROM key_facts WHERE name = ?;

-- name: update_shreds
UPDATE key_facts SET value = CAST(CAST(value AS INTEGER) + 1 AS TEXT) WHERE name = 'shreds';

-- name: insert_key
INSERT INTO subject_keys (key_id, tenant_id, subject_hash, epoch, created_at_ms, wrapped) VALUES (?, ?, ?, ?, ?, ?);

-- name: select_key
SELECT tenant_id, key_id, subject_hash, epoch, created_at_ms, wrapped FROM subject_keys WHERE key_id = ?;

-- name: select_key_of_subject
SELECT tenant_id, key_id, subject_hash, epoch, created_at_ms, wrapped FROM subject_keys
WHERE tenant_id = ? AND subject_hash = ?;

-- name: delete_key
DELETE FROM subject_keys WHERE key_id = ?;

-- name: insert_shredded
INSERT INTO shredded_keys (key_id, tenant_id, subject_hash, certificate_id) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING;

-- name: select_shredded
SELECT tenant_id, key_id, subject_hash, certificate_id FROM shredded_keys WHERE key_id = ?;

-- name: select_shredded_of_subject
SELECT tenant_id, key_id, subject_hash, certificate_id FROM shredded_keys WHERE tenant_id = ? AND subject_hash = ?;

-- name: insert_erasure
INSERT INTO erasures (tenant_id, certificate_id, certificate, is_audited) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING;

-- name: select_last_certificate
SELECT certificate FROM erasures WHERE tenant_id = ? ORDER BY no DESC LIMIT 1;

-- name: select_certificates
SELECT certificate FROM erasures WHERE tenant_id = ? ORDER BY no;

-- name: select_unaudited
SELECT certificate FROM erasures WHERE tenant_id = ? AND is_audited = 0 ORDER BY no;

-- name: update_audited
UPDATE erasures SET is_audited = 1 WHERE certificate_id = ?;
