-- name: create_tables
CREATE TABLE IF NOT EXISTS streams (
    stream_no INTEGER PRIMARY KEY,
    stream_id TEXT NOT NULL UNIQUE,
    tenant_id TEXT NOT NULL,
    name TEXT NOT NULL,
    config TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    UNIQUE (tenant_id, name)
);
CREATE TABLE IF NOT EXISTS splits (
    split_no INTEGER PRIMARY KEY,
    stream_no INTEGER NOT NULL,
    partition INTEGER NOT NULL,
    lane INTEGER NOT NULL,
    begin_offset INTEGER NOT NULL DEFAULT 0,
    end_offset INTEGER NOT NULL DEFAULT 0,
    stored_bytes INTEGER NOT NULL DEFAULT 0,
    UNIQUE (stream_no, partition, lane)
);
CREATE TABLE IF NOT EXISTS batches (
    batch_no INTEGER PRIMARY KEY,
    split_no INTEGER NOT NULL,
    base_offset INTEGER NOT NULL,
    count INTEGER NOT NULL,
    codec INTEGER NOT NULL,
    min_timestamp_ms INTEGER NOT NULL,
    max_timestamp_ms INTEGER NOT NULL,
    appended_at_ms INTEGER NOT NULL,
    id_min TEXT,
    id_max TEXT,
    explicit_ids INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    body BLOB NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS batches_by_offset ON batches (split_no, base_offset);
CREATE INDEX IF NOT EXISTS batches_by_id ON batches (id_max, id_min) WHERE id_max IS NOT NULL;
CREATE INDEX IF NOT EXISTS batches_of_undated_ids ON batches (id_min, id_max) WHERE id_min < 'evt_0000000001';
CREATE TABLE IF NOT EXISTS event_ids (
    hash INTEGER NOT NULL,
    batch_no INTEGER NOT NULL,
    PRIMARY KEY (hash, batch_no)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS marks (
    owner TEXT NOT NULL,
    key TEXT NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (owner, key)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS group_offsets (
    consumer_group TEXT NOT NULL,
    split_no INTEGER NOT NULL,
    committed_offset INTEGER NOT NULL,
    PRIMARY KEY (consumer_group, split_no)
) WITHOUT ROWID;

-- name: insert_stream
INSERT INTO streams (stream_id, tenant_id, name, config, created_at_ms) VALUES (?, ?, ?, ?, ?);

-- name: insert_split
INSERT INTO splits (stream_no, partition, lane) VALUES (?, ?, ?);

-- name: select_streams
SELECT stream_no, stream_id, config, created_at_ms FROM streams
WHERE :tenant_id IS NULL OR tenant_id = :tenant_id
ORDER BY tenant_id, name;

-- name: select_stream_by_name
SELECT stream_no, stream_id, config, created_at_ms FROM streams
WHERE tenant_id = :tenant_id AND (stream_id = :reference OR name = :reference)
ORDER BY stream_id = :reference DESC LIMIT 1;

-- name: select_stream_by_id
SELECT stream_no, stream_id, config, created_at_ms FROM streams WHERE stream_id = ?;

-- name: select_stream_config
SELECT config FROM streams WHERE stream_id = ?;

-- name: update_stream_config
UPDATE streams SET config = ? WHERE stream_id = ?;

-- name: delete_stream
DELETE FROM streams WHERE stream_no = ?;

-- name: select_splits
SELECT split_no, partition, lane, begin_offset, end_offset, stored_bytes FROM splits
WHERE stream_no = ? ORDER BY partition, lane;

-- name: select_split
SELECT begin_offset, end_offset FROM splits WHERE split_no = ?;

-- name: update_split_end
UPDATE splits SET end_offset = ?, stored_bytes = stored_bytes + ? WHERE split_no = ?;

-- name: update_split_begin
UPDATE splits SET begin_offset = ?, stored_bytes = stored_bytes - ? WHERE split_no = ?;

-- name: insert_batch
INSERT INTO batches (split_no, base_offset, count, codec, min_timestamp_ms, max_timestamp_ms, appended_at_ms,
                     id_min, id_max, explicit_ids, checksum, body)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: select_batches
SELECT base_offset, count, codec, min_timestamp_ms, max_timestamp_ms, appended_at_ms, body, checksum FROM batches
WHERE split_no = :split_no AND base_offset >= coalesce(
    (SELECT max(base_offset) FROM batches WHERE split_no = :split_no AND base_offset <= :offset), 0)
ORDER BY base_offset;

-- name: select_batch
SELECT split_no, base_offset, count, codec, min_timestamp_ms, max_timestamp_ms, appended_at_ms, body, checksum
FROM batches WHERE batch_no = ?;

-- name: select_batches_by_id
SELECT batch_no, id_min, id_max FROM batches WHERE id_max >= ? AND id_min <= ?;

-- name: select_batches_of_undated_ids
SELECT batch_no, id_min, id_max FROM batches WHERE id_min < 'evt_0000000001' AND id_max >= ? AND id_min <= ?;

-- name: select_split_place
SELECT s.stream_id, s.tenant_id, p.lane, p.partition FROM splits p JOIN streams s USING (stream_no) WHERE p.split_no = ?;

-- name: select_offset_for_time
SELECT min(base_offset) FROM batches WHERE split_no = ? AND max_timestamp_ms >= ?;

-- name: select_oldest_batches
SELECT b.batch_no, b.split_no, b.base_offset, b.count, b.appended_at_ms, length(b.body), b.explicit_ids
FROM batches b JOIN splits p USING (split_no)
WHERE p.stream_no = ? ORDER BY b.batch_no LIMIT ?;

-- name: select_batches_before
SELECT batch_no, split_no, base_offset, count, appended_at_ms, length(body), explicit_ids
FROM batches WHERE split_no = ? AND base_offset + count <= ? ORDER BY base_offset LIMIT ?;

-- name: delete_batch
DELETE FROM batches WHERE batch_no = ?;

-- name: insert_event_id
INSERT OR IGNORE INTO event_ids (hash, batch_no) VALUES (?, ?);

-- name: delete_event_id
DELETE FROM event_ids WHERE hash = ? AND batch_no = ?;

-- name: select_event_ids
SELECT hash, batch_no FROM event_ids WHERE hash IN (SELECT value FROM json_each(?));

-- name: select_mark
SELECT value FROM marks WHERE owner = ? AND key = ?;

-- name: upsert_mark
INSERT INTO marks (owner, key, value) VALUES (?, ?, ?) ON CONFLICT (owner, key) DO UPDATE SET value = excluded.value;

-- name: select_marks
SELECT key, value FROM marks WHERE owner = ?;

-- name: delete_marks
DELETE FROM marks WHERE owner = ?;

-- name: upsert_group_offset
INSERT INTO group_offsets (consumer_group, split_no, committed_offset) VALUES (?, ?, ?)
ON CONFLICT (consumer_group, split_no) DO UPDATE SET committed_offset = excluded.committed_offset;

-- name: select_group_offsets
SELECT s.stream_id, p.lane, p.partition, g.committed_offset
FROM group_offsets g JOIN splits p USING (split_no) JOIN streams s USING (stream_no) WHERE g.consumer_group = ?;

-- name: delete_group_offsets
DELETE FROM group_offsets WHERE split_no = ?;

-- name: delete_splits
DELETE FROM splits WHERE stream_no = ?;
