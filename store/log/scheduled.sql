-- name: create_tables
CREATE TABLE IF NOT EXISTS scheduled_events (
    schedule_no INTEGER PRIMARY KEY,
    due_ms INTEGER NOT NULL,
    split_no INTEGER NOT NULL,
    tenant_id TEXT NOT NULL,
    event_id TEXT NOT NULL,
    timestamp_ms INTEGER NOT NULL,
    scheduled_at_ms INTEGER NOT NULL,
    notes_stream_id TEXT,
    notes BLOB,
    checksum INTEGER NOT NULL,
    body BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS scheduled_by_due ON scheduled_events (due_ms);
CREATE INDEX IF NOT EXISTS scheduled_by_split ON scheduled_events (split_no, due_ms);
CREATE INDEX IF NOT EXISTS scheduled_by_id ON scheduled_events (event_id);

-- name: insert_scheduled
INSERT INTO scheduled_events
    (due_ms, split_no, tenant_id, event_id, timestamp_ms, scheduled_at_ms, notes_stream_id, notes, checksum, body)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: select_earliest
SELECT min(due_ms) FROM scheduled_events;

-- name: select_by_ids
SELECT e.event_id, e.due_ms, s.stream_id, p.lane, p.partition
FROM scheduled_events e CROSS JOIN splits p USING (split_no) CROSS JOIN streams s USING (stream_no)
WHERE e.tenant_id = ? AND e.event_id IN (SELECT value FROM json_each(?));

-- name: select_due
SELECT schedule_no, due_ms, split_no, stream_id, p.lane, p.partition, timestamp_ms, scheduled_at_ms, notes_stream_id, notes,
       checksum, body
FROM scheduled_events e CROSS JOIN splits p USING (split_no) CROSS JOIN streams s USING (stream_no)
WHERE due_ms <= ? ORDER BY due_ms, schedule_no LIMIT ?;

-- name: select_page
SELECT schedule_no, due_ms, split_no, stream_id, p.lane, p.partition, timestamp_ms, scheduled_at_ms, notes_stream_id, notes,
       checksum, body
FROM scheduled_events e CROSS JOIN splits p USING (split_no) CROSS JOIN streams s USING (stream_no)
WHERE e.tenant_id = :tenant_id AND (:stream_id IS NULL OR stream_id = :stream_id)
      AND (due_ms, schedule_no) > (:due_ms, :schedule_no)
ORDER BY due_ms, schedule_no LIMIT :limit;

-- name: delete_scheduled
DELETE FROM scheduled_events WHERE schedule_no = ?;

-- name: put_off
UPDATE scheduled_events SET due_ms = ? WHERE schedule_no = ?;

-- name: delete_by_id
DELETE FROM scheduled_events WHERE tenant_id = ? AND event_id = ?;

-- name: delete_by_split
DELETE FROM scheduled_events WHERE split_no = ?;

-- name: delete_orphans
DELETE FROM scheduled_events WHERE due_ms <= ? AND split_no NOT IN (SELECT split_no FROM splits);
