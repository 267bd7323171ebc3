-- name: create_tables
CREATE TABLE IF NOT EXISTS categories (
    category_no INTEGER PRIMARY KEY,
    tenant_id TEXT NOT NULL,
    aggregate_type TEXT NOT NULL,
    max_age_ms INTEGER,
    max_count INTEGER,
    retention_fold TEXT,
    UNIQUE (tenant_id, aggregate_type)
);
CREATE TABLE IF NOT EXISTS aggregates (
    aggregate_no INTEGER PRIMARY KEY,
    tenant_id TEXT NOT NULL,
    aggregate_id TEXT NOT NULL,
    category_no INTEGER NOT NULL,
    status TEXT NOT NULL,
    gone_version INTEGER NOT NULL DEFAULT 0,
    begin_version INTEGER NOT NULL DEFAULT 0,
    created_at_ms INTEGER NOT NULL,
    UNIQUE (tenant_id, aggregate_id)
);
CREATE INDEX IF NOT EXISTS aggregates_by_category ON aggregates (category_no, aggregate_id);
CREATE TABLE IF NOT EXISTS aggregate_events (
    position INTEGER PRIMARY KEY,
    aggregate_no INTEGER NOT NULL,
    version INTEGER NOT NULL,
    category_no INTEGER NOT NULL,
    event_type_no INTEGER NOT NULL,
    record BLOB NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS aggregate_events_by_version ON aggregate_events (aggregate_no, version);
-- The events of an aggregate that was archived, all of them in one row; they are then in aggregate_events no more.
CREATE TABLE IF NOT EXISTS aggregate_archives (
    aggregate_no INTEGER PRIMARY KEY,
    last_version INTEGER NOT NULL,
    events INTEGER NOT NULL,
    archived_at_ms INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    data BLOB NOT NULL
);
-- A position is never given twice, also where the newest events were deleted.
CREATE TABLE IF NOT EXISTS aggregate_positions (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    used INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS aggregate_event_types (
    event_type_no INTEGER PRIMARY KEY,
    event_type TEXT NOT NULL UNIQUE
);
-- The ids that callers brought. Those of our own making are found in the log, or in the aggregate.
CREATE TABLE IF NOT EXISTS aggregate_event_ids (
    tenant_id TEXT NOT NULL,
    event_id TEXT NOT NULL,
    receipt BLOB NOT NULL,
    PRIMARY KEY (tenant_id, event_id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS aggregate_snapshots (
    aggregate_no INTEGER NOT NULL,
    fold_hash TEXT NOT NULL,
    version INTEGER NOT NULL,
    last_timestamp_ms INTEGER NOT NULL,
    max_timestamp_ms INTEGER NOT NULL,
    taken_at_ms INTEGER NOT NULL,
    key_ids TEXT NOT NULL,
    state BLOB NOT NULL,
    PRIMARY KEY (aggregate_no, fold_hash)
);
-- What the events were that retention has dropped: the state at gone_version, as the fold had made it that was in force then.
CREATE TABLE IF NOT EXISTS aggregate_bases (
    aggregate_no INTEGER PRIMARY KEY,
    fold_hash TEXT NOT NULL,
    version INTEGER NOT NULL,
    last_timestamp_ms INTEGER NOT NULL,
    max_timestamp_ms INTEGER NOT NULL,
    taken_at_ms INTEGER NOT NULL,
    key_ids TEXT NOT NULL,
    state BLOB NOT NULL
);

-- name: select_aggregate
SELECT a.aggregate_no, a.category_no, a.status,
       max(a.gone_version, coalesce(CASE a.status
           WHEN 'ARCHIVED' THEN (SELECT r.last_version FROM aggregate_archives r WHERE r.aggregate_no = a.aggregate_no)
           ELSE (SELECT max(e.version) FROM aggregate_events e WHERE e.aggregate_no = a.aggregate_no) END, 0)),
       a.gone_version, a.created_at_ms, a.begin_version
FROM aggregates a WHERE a.tenant_id = ? AND a.aggregate_id = ?;

-- name: select_aggregate@postgresql
SELECT a.aggregate_no, a.category_no, a.status,
       greatest(a.gone_version, coalesce(CASE a.status
           WHEN 'ARCHIVED' THEN (SELECT r.last_version FROM aggregate_archives r WHERE r.aggregate_no = a.aggregate_no)
           ELSE (SELECT max(e.version) FROM aggregate_events e WHERE e.aggregate_no = a.aggregate_no) END, 0)),
       a.gone_version, a.created_at_ms, a.begin_version
FROM aggregates a WHERE a.tenant_id = ? AND a.aggregate_id = ?;

-- name: select_aggregates
SELECT a.aggregate_id, a.category_no, a.status,
       max(a.gone_version, coalesce(CASE a.status
           WHEN 'ARCHIVED' THEN (SELECT r.last_version FROM aggregate_archives r WHERE r.aggregate_no = a.aggregate_no)
           ELSE (SELECT max(e.version) FROM aggregate_events e WHERE e.aggregate_no = a.aggregate_no) END, 0)),
       a.gone_version, a.created_at_ms, a.begin_version
FROM aggregates a
WHERE a.category_no = :category_no AND a.aggregate_id > :after
  AND (:status IS NULL OR :status = CASE
           WHEN a.status = 'ACTIVE' AND a.begin_version > 0 AND a.begin_version = a.gone_version
                AND NOT EXISTS (SELECT 1 FROM aggregate_events e WHERE e.aggregate_no = a.aggregate_no) THEN 'EMPTY'
           ELSE a.status END)
ORDER BY a.aggregate_id LIMIT :count;

-- name: select_aggregates@postgresql
SELECT a.aggregate_id, a.category_no, a.status,
       greatest(a.gone_version, coalesce(CASE a.status
           WHEN 'ARCHIVED' THEN (SELECT r.last_version FROM aggregate_archives r WHERE r.aggregate_no = a.aggregate_no)
           ELSE (SELECT max(e.version) FROM aggregate_events e WHERE e.aggregate_no = a.aggregate_no) END, 0)),
       a.gone_version, a.created_at_ms, a.begin_version
FROM aggregates a
WHERE a.category_no = :category_no AND a.aggregate_id > :after
  AND (:status IS NULL OR :status = CASE
           WHEN a.status = 'ACTIVE' AND a.begin_version > 0 AND a.begin_version = a.gone_version
                AND NOT EXISTS (SELECT 1 FROM aggregate_events e WHERE e.aggregate_no = a.aggregate_no) THEN 'EMPTY'
           ELSE a.status END)
ORDER BY a.aggregate_id LIMIT :count;

-- name: insert_aggregate
INSERT INTO aggregates (tenant_id, aggregate_id, category_no, status, created_at_ms) VALUES (?, ?, ?, 'ACTIVE', ?)
RETURNING aggregate_no;

-- name: update_aggregate_status
UPDATE aggregates SET status = ? WHERE aggregate_no = ?;

-- name: select_category
SELECT category_no FROM categories WHERE tenant_id = ? AND aggregate_type = ?;

-- name: select_category_name
SELECT aggregate_type FROM categories WHERE category_no = ?;

-- name: select_categories
SELECT category_no, aggregate_type FROM categories WHERE tenant_id = ? ORDER BY aggregate_type;

-- name: insert_category
INSERT INTO categories (tenant_id, aggregate_type) VALUES (?, ?) RETURNING category_no;

-- name: select_event_type
SELECT event_type_no FROM aggregate_event_types WHERE event_type = ?;

-- name: insert_event_type
INSERT INTO aggregate_event_types (event_type) VALUES (?) RETURNING event_type_no;

-- name: select_event_types
SELECT event_type_no FROM aggregate_event_types WHERE event_type IN (SELECT value FROM json_each(?));

-- name: select_event_types@postgresql
SELECT event_type_no FROM aggregate_event_types WHERE event_type IN (SELECT json_array_elements_text(CAST(? AS JSON)));

-- name: select_head
SELECT max(coalesce((SELECT max(position) FROM aggregate_events), 0), coalesce((SELECT used FROM aggregate_positions), 0));

-- name: select_head@postgresql
SELECT greatest(coalesce((SELECT max(position) FROM aggregate_events), 0), coalesce((SELECT used FROM aggregate_positions), 0));

-- name: select_newest_record
SELECT record FROM aggregate_events ORDER BY position DESC LIMIT 1;

-- name: insert_event
INSERT INTO aggregate_events (position, aggregate_no, version, category_no, event_type_no, record) VALUES (?, ?, ?, ?, ?, ?);

-- name: select_event_receipt
SELECT receipt FROM aggregate_event_ids WHERE tenant_id = ? AND event_id = ?;

-- name: insert_event_receipt
INSERT INTO aggregate_event_ids (tenant_id, event_id, receipt) VALUES (?, ?, ?);

-- name: select_events
SELECT record FROM aggregate_events
WHERE aggregate_no = ? AND version > ? AND version <= ? ORDER BY version;

-- name: select_page
SELECT record FROM aggregate_events
WHERE position > :after AND position <= :until
  AND category_no IN (SELECT value FROM json_each(:categories))
  AND (:event_types IS NULL OR event_type_no IN (SELECT value FROM json_each(:event_types)))
  AND (:aggregates IS NULL OR aggregate_no IN (SELECT value FROM json_each(:aggregates)))
ORDER BY position LIMIT :count;

-- name: select_page@postgresql
SELECT record FROM aggregate_events
WHERE position > :after AND position <= :until
  AND category_no IN (SELECT CAST(json_array_elements_text(CAST(:categories AS JSON)) AS BIGINT))
  AND (:event_types IS NULL OR event_type_no IN (SELECT CAST(json_array_elements_text(CAST(:event_types AS JSON)) AS BIGINT)))
  AND (:aggregates IS NULL OR aggregate_no IN (SELECT CAST(json_array_elements_text(CAST(:aggregates AS JSON)) AS BIGINT)))
ORDER BY position LIMIT :count;

-- name: select_page_of_category
SELECT record FROM aggregate_events
WHERE position > :after AND position <= :until AND category_no = :category ORDER BY position LIMIT :count;

-- name: select_page_of_all
SELECT record FROM aggregate_events WHERE position > :after AND position <= :until ORDER BY position LIMIT :count;

-- name: select_aggregate_nos
SELECT aggregate_no FROM aggregates WHERE tenant_id = ? AND aggregate_id IN (SELECT value FROM json_each(?));

-- name: select_aggregate_nos@postgresql
SELECT aggregate_no FROM aggregates WHERE tenant_id = ? AND aggregate_id IN (SELECT json_array_elements_text(CAST(? AS JSON)));

-- name: select_other_tenant
SELECT 1 FROM categories WHERE tenant_id != ? LIMIT 1;

-- name: upsert_snapshot
INSERT INTO aggregate_snapshots (aggregate_no, fold_hash, version, last_timestamp_ms, max_timestamp_ms, taken_at_ms, key_ids, state)
VALUES (:aggregate_no, :fold_hash, :version, :last_timestamp_ms, :max_timestamp_ms, :taken_at_ms, :key_ids, :state)
ON CONFLICT (aggregate_no, fold_hash) DO UPDATE SET version = excluded.version,
    last_timestamp_ms = excluded.last_timestamp_ms, max_timestamp_ms = excluded.max_timestamp_ms,
    taken_at_ms = excluded.taken_at_ms, key_ids = excluded.key_ids, state = excluded.state
WHERE excluded.version >= aggregate_snapshots.version;

-- name: select_snapshot
SELECT version, last_timestamp_ms, max_timestamp_ms, taken_at_ms, key_ids, state FROM aggregate_snapshots
WHERE aggregate_no = ? AND fold_hash = ?;

-- name: select_snapshots
SELECT fold_hash, version, last_timestamp_ms, max_timestamp_ms, taken_at_ms, key_ids, state FROM aggregate_snapshots
WHERE aggregate_no = ? ORDER BY taken_at_ms;

-- name: delete_snapshots
DELETE FROM aggregate_snapshots WHERE aggregate_no = ?;

-- name: delete_other_snapshots
DELETE FROM aggregate_snapshots WHERE aggregate_no = ? AND fold_hash != ?;

-- name: select_base
SELECT fold_hash, version, last_timestamp_ms, max_timestamp_ms, taken_at_ms, key_ids, state FROM aggregate_bases
WHERE aggregate_no = ?;

-- name: replace_base
INSERT INTO aggregate_bases (aggregate_no, fold_hash, version, last_timestamp_ms, max_timestamp_ms, taken_at_ms, key_ids, state)
VALUES (:aggregate_no, :fold_hash, :version, :last_timestamp_ms, :max_timestamp_ms, :taken_at_ms, :key_ids, :state)
ON CONFLICT (aggregate_no) DO UPDATE SET fold_hash = excluded.fold_hash, version = excluded.version,
    last_timestamp_ms = excluded.last_timestamp_ms, max_timestamp_ms = excluded.max_timestamp_ms,
    taken_at_ms = excluded.taken_at_ms, key_ids = excluded.key_ids, state = excluded.state;

-- name: delete_base
DELETE FROM aggregate_bases WHERE aggregate_no = ?;

-- name: select_archive
SELECT last_version, events, checksum, data FROM aggregate_archives WHERE aggregate_no = ?;

-- name: insert_archive
INSERT INTO aggregate_archives (aggregate_no, last_version, events, archived_at_ms, checksum, data) VALUES (?, ?, ?, ?, ?, ?);

-- name: delete_archive
DELETE FROM aggregate_archives WHERE aggregate_no = ?;

-- name: select_records
SELECT record FROM aggregate_events WHERE aggregate_no = ? AND version <= ? ORDER BY version LIMIT ?;

-- name: select_record_bytes
SELECT coalesce(sum(length(record)), 0) FROM aggregate_events WHERE aggregate_no = ?;

-- name: delete_events
DELETE FROM aggregate_events WHERE aggregate_no = ? AND version <= ?;

-- name: delete_event_receipt
DELETE FROM aggregate_event_ids WHERE tenant_id = ? AND event_id = ?;

-- name: keep_positions
INSERT INTO aggregate_positions (one, used) VALUES (1, ?) ON CONFLICT (one) DO UPDATE SET used = max(used, excluded.used);

-- name: keep_positions@postgresql
INSERT INTO aggregate_positions (one, used) VALUES (1, ?) ON CONFLICT (one) DO UPDATE SET used = greatest(aggregate_positions.used, excluded.used);

-- name: update_aggregate_gone
UPDATE aggregates SET gone_version = ? WHERE aggregate_no = ?;

-- name: update_aggregate_deleted
UPDATE aggregates SET status = ?, gone_version = ?, begin_version = ? WHERE aggregate_no = ?;

-- name: select_retention
SELECT aggregate_type, max_age_ms, max_count, retention_fold FROM categories WHERE tenant_id = ? AND aggregate_type = ?;

-- name: select_retentions
SELECT aggregate_type, max_age_ms, max_count, retention_fold FROM categories
WHERE tenant_id = ? AND (max_age_ms IS NOT NULL OR max_count IS NOT NULL) ORDER BY aggregate_type;

-- name: select_tenants_with_retention
SELECT DISTINCT tenant_id FROM categories WHERE max_age_ms IS NOT NULL OR max_count IS NOT NULL ORDER BY tenant_id;

-- name: upsert_retention
INSERT INTO categories (tenant_id, aggregate_type, max_age_ms, max_count, retention_fold) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (tenant_id, aggregate_type) DO UPDATE SET max_age_ms = excluded.max_age_ms, max_count = excluded.max_count,
    retention_fold = excluded.retention_fold;

-- name: select_record_from
SELECT position, record FROM aggregate_events WHERE position >= ? ORDER BY position LIMIT 1;

-- name: select_version_until
SELECT max(version) FROM aggregate_events WHERE aggregate_no = ? AND position <= ?;

-- name: select_due
SELECT * FROM (
    SELECT a.aggregate_no, a.aggregate_id, a.begin_version,
           (SELECT min(e.version) FROM aggregate_events e WHERE e.aggregate_no = a.aggregate_no) AS first_version,
           (SELECT max(e.version) FROM aggregate_events e WHERE e.aggregate_no = a.aggregate_no) AS last_version,
           (SELECT e.position FROM aggregate_events e WHERE e.aggregate_no = a.aggregate_no ORDER BY e.version LIMIT 1)
           AS first_position
    FROM aggregates a
    WHERE a.category_no = :category_no AND a.aggregate_id > :after AND a.status = 'ACTIVE'
) AS due
WHERE first_position <= :old OR last_version - first_version >= :max_count
ORDER BY aggregate_id LIMIT :count;

-- name: select_aggregate_id
SELECT aggregate_id FROM aggregates WHERE aggregate_no = ?;
