-- name: create_tables
CREATE TABLE IF NOT EXISTS schema_texts (
    tenant_id TEXT NOT NULL,
    context TEXT NOT NULL,
    id INTEGER NOT NULL,
    guid TEXT NOT NULL,
    contents TEXT NOT NULL,
    PRIMARY KEY (tenant_id, context, id),
    UNIQUE (tenant_id, context, guid)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS schema_highest_ids (
    tenant_id TEXT NOT NULL,
    context TEXT NOT NULL,
    id INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, context)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS schema_versions (
    version_no INTEGER PRIMARY KEY,
    schema_id TEXT NOT NULL UNIQUE,
    tenant_id TEXT NOT NULL,
    subject TEXT NOT NULL,
    version INTEGER NOT NULL,
    context TEXT NOT NULL,
    id INTEGER NOT NULL,
    is_deleted INTEGER NOT NULL DEFAULT 0,
    record TEXT NOT NULL,
    UNIQUE (tenant_id, subject, version)
);
CREATE INDEX IF NOT EXISTS schema_versions_of_id ON schema_versions (tenant_id, context, id);
CREATE TABLE IF NOT EXISTS schema_references (
    tenant_id TEXT NOT NULL,
    subject TEXT NOT NULL,
    version INTEGER NOT NULL,
    by_context TEXT NOT NULL,
    by_id INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, subject, version, by_context, by_id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS schema_settings (
    tenant_id TEXT NOT NULL,
    subject TEXT NOT NULL,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (tenant_id, subject, name)
) WITHOUT ROWID;

-- name: select_text_by_guid
SELECT id, contents FROM schema_texts WHERE tenant_id = ? AND context = ? AND guid = ?;

-- name: select_text_of_any_context
SELECT context, id, guid, contents FROM schema_texts WHERE tenant_id = ? AND guid = ? ORDER BY context LIMIT 1;

-- name: select_text
SELECT context, id, guid, contents FROM schema_texts WHERE tenant_id = ? AND context = ? AND id = ?;

-- name: select_highest_id
SELECT coalesce(max(id), 0) FROM (
    SELECT max(id) AS id FROM schema_texts WHERE tenant_id = :tenant_id AND context = :context
    UNION ALL SELECT id FROM schema_highest_ids WHERE tenant_id = :tenant_id AND context = :context
) AS given;

-- name: upsert_highest_id
INSERT INTO schema_highest_ids (tenant_id, context, id) VALUES (?, ?, ?)
ON CONFLICT (tenant_id, context) DO UPDATE SET id = excluded.id;

-- name: select_old_table
SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'schemas';

-- name: select_old_table@postgresql
SELECT 1 WHERE FALSE;

-- name: select_old_records
SELECT record FROM schemas ORDER BY schema_no;

-- name: drop_old_table
DROP TABLE schemas;

-- name: insert_text
INSERT INTO schema_texts (tenant_id, context, id, guid, contents) VALUES (?, ?, ?, ?, ?);

-- name: insert_reference
INSERT INTO schema_references (tenant_id, subject, version, by_context, by_id) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING;

-- name: delete_references_of
DELETE FROM schema_references WHERE tenant_id = ? AND by_context = ? AND by_id = ?;

-- name: delete_text
DELETE FROM schema_texts WHERE tenant_id = ? AND context = ? AND id = ?;

-- name: count_versions_of_id
SELECT count(*) FROM schema_versions WHERE tenant_id = ? AND context = ? AND id = ?;

-- name: select_highest_version
SELECT coalesce(max(version), 0), count(*), coalesce(max(version_no), 0) FROM schema_versions WHERE tenant_id = ? AND subject = ?;

-- name: insert_version
INSERT INTO schema_versions (schema_id, tenant_id, subject, version, context, id, record) VALUES (?, ?, ?, ?, ?, ?, ?);

-- name: update_version
UPDATE schema_versions SET record = ?, is_deleted = ? WHERE schema_id = ?;

-- name: delete_version
DELETE FROM schema_versions WHERE schema_id = ?;

-- name: select_versions
SELECT v.record, v.is_deleted, t.id, t.guid, t.contents
FROM schema_versions v JOIN schema_texts t USING (tenant_id, context, id)
WHERE v.tenant_id = :tenant_id ORDER BY v.subject, v.version;

-- name: select_versions_of_subject
SELECT v.record, v.is_deleted, t.id, t.guid, t.contents
FROM schema_versions v JOIN schema_texts t USING (tenant_id, context, id)
WHERE v.tenant_id = :tenant_id AND v.subject = :subject ORDER BY v.version;

-- name: select_version
SELECT v.record, v.is_deleted, t.id, t.guid, t.contents
FROM schema_versions v JOIN schema_texts t USING (tenant_id, context, id)
WHERE v.tenant_id = :tenant_id AND v.subject = :subject AND v.version = :version;

-- name: select_versions_of_id
SELECT v.record, v.is_deleted, t.id, t.guid, t.contents
FROM schema_versions v JOIN schema_texts t USING (tenant_id, context, id)
WHERE v.tenant_id = :tenant_id AND v.context = :context AND v.id = :id ORDER BY v.subject, v.version;

-- name: select_by_schema_id
SELECT v.record, v.is_deleted, t.id, t.guid, t.contents
FROM schema_versions v JOIN schema_texts t USING (tenant_id, context, id)
WHERE v.schema_id = ?;

-- name: select_subjects
SELECT subject, min(is_deleted) FROM schema_versions WHERE tenant_id = ? GROUP BY subject ORDER BY subject;

-- name: select_contexts
SELECT h.context FROM schema_highest_ids h
WHERE h.tenant_id = ?
  AND EXISTS (SELECT 1 FROM schema_versions v WHERE v.tenant_id = h.tenant_id AND v.context = h.context)
ORDER BY h.context;

-- name: select_referenced_by
SELECT DISTINCT r.by_id FROM schema_references r
JOIN schema_versions v ON v.tenant_id = r.tenant_id AND v.context = r.by_context AND v.id = r.by_id AND v.is_deleted = 0
WHERE r.tenant_id = ? AND r.subject = ? AND r.version = ? ORDER BY r.by_id;

-- name: select_setting
SELECT value FROM schema_settings WHERE tenant_id = ? AND subject = ? AND name = ?;

-- name: upsert_setting
INSERT INTO schema_settings (tenant_id, subject, name, value) VALUES (?, ?, ?, ?)
ON CONFLICT (tenant_id, subject, name) DO UPDATE SET value = excluded.value;

-- name: delete_setting
DELETE FROM schema_settings WHERE tenant_id = ? AND subject = ? AND name = ?;
