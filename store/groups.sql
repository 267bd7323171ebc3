-- name: create_tables
CREATE TABLE IF NOT EXISTS consumer_groups (
    group_id TEXT PRIMARY KEY,
    tenant_id TEXT NOT NULL,
    name TEXT NOT NULL,
    record TEXT NOT NULL,
    UNIQUE (tenant_id, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS group_members (
    group_id TEXT NOT NULL,
    member_id TEXT NOT NULL,
    heartbeat_at_ms INTEGER NOT NULL,
    polled_at_ms INTEGER NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (group_id, member_id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS group_commits (
    commit_no INTEGER PRIMARY KEY,
    group_id TEXT NOT NULL,
    split_no INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    committed_offset INTEGER NOT NULL,
    end_offset INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS group_commits_by_split ON group_commits (group_id, split_no);
-- The number of a split that is dropped may be given to a later one, which must not inherit its commits.
CREATE TRIGGER IF NOT EXISTS forget_commits_of_split AFTER DELETE ON splits BEGIN
    DELETE FROM group_commits WHERE split_no = OLD.split_no;
END;

CREATE TABLE IF NOT EXISTS group_clock (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    wall_minus_boot_ms INTEGER NOT NULL
);

-- name: select_clock
SELECT wall_minus_boot_ms FROM group_clock;

-- name: upsert_clock
INSERT INTO group_clock (one, wall_minus_boot_ms) VALUES (1, ?)
ON CONFLICT (one) DO UPDATE SET wall_minus_boot_ms = excluded.wall_minus_boot_ms;

-- name: shift_members
UPDATE group_members SET heartbeat_at_ms = heartbeat_at_ms + :shift_ms, polled_at_ms = polled_at_ms + :shift_ms;

-- name: select_all_groups
SELECT record FROM consumer_groups;

-- name: insert_group
INSERT INTO consumer_groups (group_id, tenant_id, name, record) VALUES (?, ?, ?, ?);

-- name: update_group
UPDATE consumer_groups SET record = ? WHERE group_id = ?;

-- name: select_group
SELECT record FROM consumer_groups WHERE group_id = ?;

-- name: select_group_of_tenant
SELECT record FROM consumer_groups
WHERE tenant_id = :tenant_id AND (group_id = :reference OR name = :reference)
ORDER BY group_id = :reference DESC LIMIT 1;

-- name: select_groups
SELECT record FROM consumer_groups WHERE tenant_id = ? ORDER BY name;

-- name: delete_group
DELETE FROM consumer_groups WHERE group_id = ?;

-- name: upsert_member
INSERT INTO group_members (group_id, member_id, heartbeat_at_ms, polled_at_ms, record) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (group_id, member_id) DO UPDATE SET
    heartbeat_at_ms = excluded.heartbeat_at_ms, polled_at_ms = excluded.polled_at_ms, record = excluded.record;

-- name: select_members
SELECT heartbeat_at_ms, polled_at_ms, record FROM group_members WHERE group_id = ? ORDER BY member_id;

-- name: delete_member
DELETE FROM group_members WHERE group_id = ? AND member_id = ?;

-- name: delete_members
DELETE FROM group_members WHERE group_id = ?;

-- name: select_streams
SELECT s.stream_id, s.name, (SELECT max(p.partition) + 1 FROM splits p WHERE p.stream_no = s.stream_no)
FROM streams s WHERE s.stream_id IN (SELECT value FROM json_each(:stream_ids))
OR (s.tenant_id = :tenant_id AND s.name = :retry_stream) ORDER BY s.name = :retry_stream, s.name;

-- name: select_split
SELECT p.split_no, p.begin_offset, p.end_offset FROM splits p JOIN streams s USING (stream_no)
WHERE s.stream_id = ? AND p.partition = ? AND p.lane = ?;

-- name: upsert_offset
INSERT INTO group_offsets (consumer_group, split_no, committed_offset) VALUES (?, ?, ?)
ON CONFLICT (consumer_group, split_no) DO UPDATE SET committed_offset = excluded.committed_offset;

-- name: delete_offsets
DELETE FROM group_offsets WHERE consumer_group = ?;

-- name: insert_commit
INSERT INTO group_commits (group_id, split_no, at_ms, committed_offset, end_offset) VALUES (?, ?, ?, ?, ?);

-- name: delete_old_commits
DELETE FROM group_commits WHERE group_id = :group_id AND split_no = :split_no AND commit_no <= (
    SELECT commit_no FROM group_commits WHERE group_id = :group_id AND split_no = :split_no
    ORDER BY commit_no DESC LIMIT 1 OFFSET :kept);

-- name: select_commits
SELECT s.stream_id, p.lane, p.partition, c.at_ms, c.committed_offset, c.end_offset
FROM group_commits c JOIN splits p USING (split_no) JOIN streams s USING (stream_no)
WHERE c.group_id = ? ORDER BY c.commit_no;

-- name: delete_commits
DELETE FROM group_commits WHERE group_id = ?;
