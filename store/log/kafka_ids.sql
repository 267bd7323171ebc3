-- name: create_tables
CREATE TABLE IF NOT EXISTS ids_position (only_row INTEGER PRIMARY KEY CHECK (only_row = 0), position INTEGER NOT NULL);
INSERT OR IGNORE INTO ids_position VALUES (0, 0);
CREATE TABLE IF NOT EXISTS places (
    place_no INTEGER PRIMARY KEY,
    tenant_id TEXT NOT NULL,
    stream_id TEXT NOT NULL,
    lane INTEGER NOT NULL,
    partition INTEGER NOT NULL,
    UNIQUE (stream_id, lane, partition)
);
CREATE TABLE IF NOT EXISTS brought_ids (
    hash BLOB NOT NULL,
    place_no INTEGER NOT NULL,
    offset INTEGER NOT NULL,
    record INTEGER NOT NULL,
    PRIMARY KEY (hash, place_no, offset)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS brought_ids_by_record ON brought_ids (record);
CREATE TABLE IF NOT EXISTS own_runs (
    place_no INTEGER NOT NULL,
    first_offset INTEGER NOT NULL,
    count INTEGER NOT NULL,
    id_min TEXT NOT NULL,
    id_max TEXT NOT NULL,
    record INTEGER NOT NULL,
    PRIMARY KEY (place_no, first_offset)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS own_runs_by_id ON own_runs (id_max, id_min);
CREATE INDEX IF NOT EXISTS own_runs_by_record ON own_runs (record);

-- name: select_position
SELECT position FROM ids_position;

-- name: update_position
UPDATE ids_position SET position = ?;

-- name: insert_place
INSERT OR IGNORE INTO places (tenant_id, stream_id, lane, partition) VALUES (?, ?, ?, ?);

-- name: select_place
SELECT place_no FROM places WHERE stream_id = ? AND lane = ? AND partition = ?;

-- name: insert_brought
INSERT OR IGNORE INTO brought_ids (hash, place_no, offset, record) VALUES (?, ?, ?, ?);

-- name: insert_run
INSERT OR IGNORE INTO own_runs (place_no, first_offset, count, id_min, id_max, record) VALUES (?, ?, ?, ?, ?, ?);

-- name: select_brought
SELECT hash, stream_id, lane, partition, offset FROM brought_ids JOIN places USING (place_no)
WHERE hash = ? ORDER BY record;

-- name: select_runs
SELECT stream_id, lane, partition, first_offset, count, id_min, id_max FROM own_runs JOIN places USING (place_no)
WHERE tenant_id = ? AND id_max >= ? AND id_min <= ? ORDER BY record;

-- name: delete_brought_before
DELETE FROM brought_ids WHERE record < ?;

-- name: delete_runs_before
DELETE FROM own_runs WHERE record < ?;
