-- name: create_tables
CREATE TABLE IF NOT EXISTS broker_groups (
    group_id TEXT PRIMARY KEY,
    tenant_id TEXT NOT NULL,
    name TEXT NOT NULL,
    record TEXT NOT NULL,
    UNIQUE (tenant_id, name)
);
CREATE TABLE IF NOT EXISTS broker_group_members (
    group_id TEXT NOT NULL,
    member_id TEXT NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (group_id, member_id)
);
CREATE TABLE IF NOT EXISTS broker_group_commits (
    group_id TEXT NOT NULL,
    split TEXT NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (group_id, split)
);

-- name: put_group
INSERT INTO broker_groups (group_id, tenant_id, name, record) VALUES (?, ?, ?, ?)
ON CONFLICT (group_id) DO UPDATE SET record = excluded.record;

-- name: select_group
SELECT record FROM broker_groups WHERE group_id = ?;

-- name: select_group_of_tenant
SELECT record FROM broker_groups
WHERE tenant_id = :tenant_id AND (group_id = :reference OR name = :reference)
ORDER BY CASE WHEN group_id = :reference THEN 0 ELSE 1 END LIMIT 1;

-- name: select_groups
SELECT record FROM broker_groups WHERE tenant_id = ? ORDER BY name;

-- name: delete_group
DELETE FROM broker_groups WHERE group_id = ?;

-- name: put_member
INSERT INTO broker_group_members (group_id, member_id, record) VALUES (?, ?, ?)
ON CONFLICT (group_id, member_id) DO UPDATE SET record = excluded.record;

-- name: select_members
SELECT record FROM broker_group_members WHERE group_id = ? ORDER BY member_id;

-- name: delete_member
DELETE FROM broker_group_members WHERE group_id = ? AND member_id = ?;

-- name: delete_members
DELETE FROM broker_group_members WHERE group_id = ?;

-- name: put_commits
INSERT INTO broker_group_commits (group_id, split, record) VALUES (?, ?, ?)
ON CONFLICT (group_id, split) DO UPDATE SET record = excluded.record;

-- name: select_commits
SELECT split, record FROM broker_group_commits WHERE group_id = ? ORDER BY split;

-- name: select_commits_of_split
SELECT record FROM broker_group_commits WHERE group_id = ? AND split = ?;

-- name: delete_commits
DELETE FROM broker_group_commits WHERE group_id = ?;
