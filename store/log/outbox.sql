-- name: create_tables
-- Numbers grow in the order in which the transactions were committed, and none is given twice.
CREATE TABLE IF NOT EXISTS outbox (
    outbox_no INTEGER PRIMARY KEY AUTOINCREMENT,
    due_ms INTEGER NOT NULL,
    deliver_at_ms INTEGER,
    is_taken INTEGER NOT NULL DEFAULT 0,
    tenant_id TEXT NOT NULL,
    event_id TEXT NOT NULL,
    stream_id TEXT NOT NULL,
    lane INTEGER NOT NULL,
    partition INTEGER NOT NULL,
    timestamp_ms INTEGER NOT NULL,
    kept_at_ms INTEGER NOT NULL,
    notes_stream_id TEXT,
    notes BLOB,
    checksum INTEGER NOT NULL,
    body BLOB NOT NULL,
    UNIQUE (tenant_id, event_id)
);
CREATE INDEX IF NOT EXISTS outbox_by_due ON outbox (due_ms, outbox_no);

-- name: insert_row
INSERT INTO outbox (due_ms, deliver_at_ms, tenant_id, event_id, stream_id, lane, partition, timestamp_ms, kept_at_ms,
                    notes_stream_id, notes, checksum, body)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: select_any
SELECT 1 FROM outbox LIMIT 1;

-- name: select_earliest
SELECT min(due_ms) FROM outbox;

-- name: select_earliest_delayed
SELECT min(due_ms) FROM outbox WHERE due_ms > 0;

-- name: select_by_ids
SELECT event_id, stream_id, lane, partition, deliver_at_ms FROM outbox
WHERE tenant_id = ? AND event_id IN (SELECT value FROM json_each(?));

-- name: select_by_ids@postgresql
SELECT event_id, stream_id, lane, partition, deliver_at_ms FROM outbox
WHERE tenant_id = ? AND event_id IN (SELECT json_array_elements_text(CAST(? AS JSON)));

-- name: select_due
SELECT outbox_no, stream_id, lane, partition, timestamp_ms, kept_at_ms, notes_stream_id, notes, checksum, body FROM (
    SELECT o.*, sum(length(o.body)) OVER (ORDER BY o.due_ms, o.outbox_no) - length(o.body) AS bytes_before FROM (
        SELECT * FROM outbox WHERE due_ms >= :begin_ms AND due_ms <= :until_ms ORDER BY due_ms, outbox_no LIMIT :count
    ) AS o
) AS due
WHERE bytes_before < :max_bytes ORDER BY due_ms, outbox_no;

-- name: select_page
SELECT outbox_no, due_ms, stream_id, lane, partition, timestamp_ms, kept_at_ms, checksum, body FROM outbox
WHERE tenant_id = :tenant_id AND (:stream_id IS NULL OR stream_id = :stream_id)
      AND deliver_at_ms IS NOT NULL AND is_taken = 0 AND (due_ms, outbox_no) > (:due_ms, :outbox_no)
ORDER BY due_ms, outbox_no LIMIT :count;

-- name: take
UPDATE outbox SET is_taken = 1 WHERE outbox_no = ?;

-- name: put_off
UPDATE outbox SET due_ms = ?, is_taken = 0 WHERE outbox_no = ?;

-- name: delete_row
DELETE FROM outbox WHERE outbox_no = ?;

-- name: delete_waiting
DELETE FROM outbox WHERE tenant_id = ? AND event_id = ? AND deliver_at_ms IS NOT NULL AND is_taken = 0;

-- name: delete_of_stream
DELETE FROM outbox WHERE stream_id = ?;
