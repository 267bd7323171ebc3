-- What brokers do not know of the consumer groups that they coordinate.

CREATE TABLE broker_groups (
    group_id TEXT COLLATE "C" PRIMARY KEY,
    tenant_id TEXT COLLATE "C" NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    record TEXT NOT NULL,
    UNIQUE (tenant_id, name)
);
CREATE TABLE broker_group_members (
    group_id TEXT COLLATE "C" NOT NULL,
    member_id TEXT COLLATE "C" NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (group_id, member_id)
);
CREATE TABLE broker_group_commits (
    group_id TEXT COLLATE "C" NOT NULL,
    split TEXT COLLATE "C" NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (group_id, split)
);
