-- The tables of all stores. Texts compare byte by byte, as in SQLite.

CREATE TABLE processors (
    processor_id TEXT COLLATE "C" PRIMARY KEY,
    tenant_id TEXT COLLATE "C" NOT NULL,
    flow TEXT COLLATE "C" NOT NULL,
    processor_name TEXT COLLATE "C" NOT NULL,
    config TEXT NOT NULL,
    status TEXT NOT NULL,
    created_by TEXT,
    created_at_ms BIGINT NOT NULL,
    updated_at_ms BIGINT NOT NULL,
    last_error TEXT,
    UNIQUE (tenant_id, flow, processor_name)
);

CREATE TABLE route_versions (
    tenant_id TEXT COLLATE "C" NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    version BIGINT NOT NULL,
    is_current BIGINT NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (tenant_id, name, version)
);
CREATE TABLE route_changes (
    tenant_id TEXT COLLATE "C" PRIMARY KEY,
    change_no BIGINT NOT NULL
);

CREATE TABLE settings (
    name TEXT COLLATE "C" PRIMARY KEY,
    value TEXT NOT NULL,
    changed_at_ms BIGINT NOT NULL,
    changed_by TEXT
);

CREATE TABLE saved_queries (
    tenant_id TEXT COLLATE "C" NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (tenant_id, name)
);

CREATE TABLE idempotency_keys (
    tenant_id TEXT COLLATE "C" NOT NULL,
    route TEXT COLLATE "C" NOT NULL,
    key TEXT COLLATE "C" NOT NULL,
    request_hash TEXT NOT NULL,
    status BIGINT NOT NULL,
    content_type TEXT NOT NULL,
    body BYTEA,
    created_at_ms BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, route, key)
);
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (tenant_id, created_at_ms);
CREATE TABLE published_once (
    tenant_id TEXT COLLATE "C" NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    receipts BYTEA NOT NULL,
    created_at_ms BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, name)
);
CREATE INDEX published_once_by_age ON published_once (created_at_ms);

CREATE TABLE schema_texts (
    tenant_id TEXT COLLATE "C" NOT NULL,
    context TEXT COLLATE "C" NOT NULL,
    id BIGINT NOT NULL,
    guid TEXT COLLATE "C" NOT NULL,
    contents TEXT NOT NULL,
    PRIMARY KEY (tenant_id, context, id),
    UNIQUE (tenant_id, context, guid)
);
CREATE TABLE schema_highest_ids (
    tenant_id TEXT COLLATE "C" NOT NULL,
    context TEXT COLLATE "C" NOT NULL,
    id BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, context)
);
CREATE TABLE schema_versions (
    version_no BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    schema_id TEXT COLLATE "C" NOT NULL UNIQUE,
    tenant_id TEXT COLLATE "C" NOT NULL,
    subject TEXT COLLATE "C" NOT NULL,
    version BIGINT NOT NULL,
    context TEXT COLLATE "C" NOT NULL,
    id BIGINT NOT NULL,
    is_deleted BIGINT NOT NULL DEFAULT 0,
    record TEXT NOT NULL,
    UNIQUE (tenant_id, subject, version)
);
CREATE INDEX schema_versions_of_id ON schema_versions (tenant_id, context, id);
CREATE TABLE schema_references (
    tenant_id TEXT COLLATE "C" NOT NULL,
    subject TEXT COLLATE "C" NOT NULL,
    version BIGINT NOT NULL,
    by_context TEXT COLLATE "C" NOT NULL,
    by_id BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, subject, version, by_context, by_id)
);
CREATE TABLE schema_settings (
    tenant_id TEXT COLLATE "C" NOT NULL,
    subject TEXT COLLATE "C" NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (tenant_id, subject, name)
);

CREATE TABLE subject_keys (
    no BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key_id TEXT COLLATE "C" NOT NULL UNIQUE,
    tenant_id TEXT COLLATE "C" NOT NULL,
    subject_hash TEXT COLLATE "C" NOT NULL,
    epoch BIGINT NOT NULL,
    created_at_ms BIGINT NOT NULL,
    wrapped BYTEA NOT NULL,
    UNIQUE (tenant_id, subject_hash)
);
CREATE TABLE shredded_keys (
    key_id TEXT COLLATE "C" PRIMARY KEY,
    tenant_id TEXT COLLATE "C" NOT NULL,
    subject_hash TEXT COLLATE "C" NOT NULL,
    certificate_id TEXT NOT NULL
);
CREATE INDEX shredded_keys_of_subject ON shredded_keys (tenant_id, subject_hash);
CREATE TABLE erasures (
    no BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id TEXT COLLATE "C" NOT NULL,
    certificate_id TEXT COLLATE "C" NOT NULL UNIQUE,
    certificate BYTEA NOT NULL,
    is_audited BIGINT NOT NULL
);
CREATE INDEX erasures_of_tenant ON erasures (tenant_id, no);
CREATE TABLE key_facts (
    name TEXT COLLATE "C" PRIMARY KEY,
    value TEXT NOT NULL
);
INSERT INTO key_facts (name, value) VALUES ('shreds', '0');

CREATE TABLE api_tokens (
    token_id TEXT COLLATE "C" PRIMARY KEY,
    tenant_id TEXT COLLATE "C" NOT NULL,
    secret_hash BYTEA NOT NULL,
    record TEXT NOT NULL,
    created_at_ms BIGINT NOT NULL,
    expires_at_ms BIGINT,
    revoked_at_ms BIGINT,
    revoked_by TEXT
);
CREATE TABLE api_token_uses (
    token_id TEXT COLLATE "C" PRIMARY KEY,
    last_used_at_ms BIGINT NOT NULL,
    address TEXT
);
CREATE TABLE api_token_changes (one BIGINT PRIMARY KEY CHECK (one = 1), change_no BIGINT NOT NULL);
INSERT INTO api_token_changes (one, change_no) VALUES (1, 0);

CREATE TABLE audit_entries (
    seq BIGINT PRIMARY KEY,
    at_ms BIGINT NOT NULL,
    tenant_id TEXT COLLATE "C" NOT NULL,
    actor TEXT NOT NULL,
    token_id TEXT,
    address TEXT,
    action TEXT NOT NULL,
    target TEXT NOT NULL,
    outcome TEXT NOT NULL,
    reason TEXT,
    before TEXT,
    after TEXT,
    request_id TEXT,
    repeated BIGINT NOT NULL,
    previous_hash TEXT NOT NULL,
    hash TEXT NOT NULL
);
CREATE INDEX audit_entries_by_tenant ON audit_entries (tenant_id, seq);
CREATE TABLE audit_checkpoints (
    block BIGINT PRIMARY KEY,
    seq BIGINT NOT NULL,
    at_ms BIGINT NOT NULL,
    hash TEXT NOT NULL,
    key_id TEXT NOT NULL,
    format_version BIGINT NOT NULL,
    signature TEXT NOT NULL
);
-- This keeps entries from being changed by mistake; the hashes tell what somebody did who took the trigger away.
CREATE FUNCTION audit_entries_stay() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'entries of the audit are neither changed nor removed';
END $$;
CREATE TRIGGER audit_entries_stay BEFORE UPDATE OR DELETE ON audit_entries FOR EACH ROW EXECUTE FUNCTION audit_entries_stay();

CREATE TABLE categories (
    category_no BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id TEXT COLLATE "C" NOT NULL,
    aggregate_type TEXT COLLATE "C" NOT NULL,
    max_age_ms BIGINT,
    max_count BIGINT,
    retention_fold TEXT,
    UNIQUE (tenant_id, aggregate_type)
);
CREATE TABLE aggregates (
    aggregate_no BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id TEXT COLLATE "C" NOT NULL,
    aggregate_id TEXT COLLATE "C" NOT NULL,
    category_no BIGINT NOT NULL,
    status TEXT NOT NULL,
    gone_version BIGINT NOT NULL DEFAULT 0,
    begin_version BIGINT NOT NULL DEFAULT 0,
    created_at_ms BIGINT NOT NULL,
    UNIQUE (tenant_id, aggregate_id)
);
CREATE INDEX aggregates_by_category ON aggregates (category_no, aggregate_id);
CREATE TABLE aggregate_events (
    position BIGINT PRIMARY KEY,
    aggregate_no BIGINT NOT NULL,
    version BIGINT NOT NULL,
    category_no BIGINT NOT NULL,
    event_type_no BIGINT NOT NULL,
    record BYTEA NOT NULL,
    -- Whatever happens, an aggregate has one event of a version.
    UNIQUE (aggregate_no, version)
);
CREATE TABLE aggregate_archives (
    aggregate_no BIGINT PRIMARY KEY,
    last_version BIGINT NOT NULL,
    events BIGINT NOT NULL,
    archived_at_ms BIGINT NOT NULL,
    checksum BIGINT NOT NULL,
    data BYTEA NOT NULL
);
CREATE TABLE aggregate_positions (
    one BIGINT PRIMARY KEY CHECK (one = 1),
    used BIGINT NOT NULL
);
CREATE TABLE aggregate_event_types (
    event_type_no BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_type TEXT COLLATE "C" NOT NULL UNIQUE
);
CREATE TABLE aggregate_event_ids (
    tenant_id TEXT COLLATE "C" NOT NULL,
    event_id TEXT COLLATE "C" NOT NULL,
    receipt BYTEA NOT NULL,
    PRIMARY KEY (tenant_id, event_id)
);
CREATE TABLE aggregate_snapshots (
    aggregate_no BIGINT NOT NULL,
    fold_hash TEXT COLLATE "C" NOT NULL,
    version BIGINT NOT NULL,
    last_timestamp_ms BIGINT NOT NULL,
    max_timestamp_ms BIGINT NOT NULL,
    taken_at_ms BIGINT NOT NULL,
    key_ids TEXT NOT NULL,
    state BYTEA NOT NULL,
    PRIMARY KEY (aggregate_no, fold_hash)
);
CREATE TABLE aggregate_bases (
    aggregate_no BIGINT PRIMARY KEY,
    fold_hash TEXT NOT NULL,
    version BIGINT NOT NULL,
    last_timestamp_ms BIGINT NOT NULL,
    max_timestamp_ms BIGINT NOT NULL,
    taken_at_ms BIGINT NOT NULL,
    key_ids TEXT NOT NULL,
    state BYTEA NOT NULL
);

-- Numbers grow in the order in which the transactions were committed: those that write here run one at a time.
CREATE TABLE outbox (
    outbox_no BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    due_ms BIGINT NOT NULL,
    deliver_at_ms BIGINT,
    is_taken BIGINT NOT NULL DEFAULT 0,
    tenant_id TEXT COLLATE "C" NOT NULL,
    event_id TEXT COLLATE "C" NOT NULL,
    stream_id TEXT COLLATE "C" NOT NULL,
    lane BIGINT NOT NULL,
    partition BIGINT NOT NULL,
    timestamp_ms BIGINT NOT NULL,
    kept_at_ms BIGINT NOT NULL,
    notes_stream_id TEXT COLLATE "C",
    notes BYTEA,
    checksum BIGINT NOT NULL,
    body BYTEA NOT NULL,
    UNIQUE (tenant_id, event_id)
);
CREATE INDEX outbox_by_due ON outbox (due_ms, outbox_no);

-- The nodes that serve, and which of them leads: it holds a lock of its session, and says so here for the others.
CREATE TABLE nodes (
    node_id TEXT COLLATE "C" PRIMARY KEY,
    url TEXT NOT NULL,
    is_leader BOOLEAN NOT NULL DEFAULT FALSE,
    started_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    seen_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
