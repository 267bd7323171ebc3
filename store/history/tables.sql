-- name: create_tables
CREATE SCHEMA base;
CREATE TABLE base.events (
    event_id VARCHAR, tenant_id VARCHAR, stream_id VARCHAR, stream VARCHAR, lane VARCHAR, "partition" INTEGER, "offset" BIGINT,
    event_type VARCHAR, source_capability VARCHAR, aggregate_id VARCHAR, aggregate_type VARCHAR, "key" VARCHAR,
    payload VARCHAR, payload_raw BLOB, metadata VARCHAR, correlation_id VARCHAR, causation_id VARCHAR, user_id VARCHAR,
    schema_id VARCHAR, traceparent VARCHAR, serialization_format VARCHAR, compression_type VARCHAR, max_retries INTEGER,
    "timestamp" TIMESTAMP, published_at TIMESTAMP
);
CREATE TABLE base.processing_history (
    history_id VARCHAR, event_id VARCHAR, tenant_id VARCHAR, processor_id VARCHAR, processor_name VARCHAR,
    processing_stage VARCHAR, status VARCHAR, started_at TIMESTAMP, completed_at TIMESTAMP, processing_duration_ms DOUBLE,
    output VARCHAR, error_type VARCHAR, error_message VARCHAR, stack_trace VARCHAR, retry_count INTEGER,
    stream_id VARCHAR, lane VARCHAR, "partition" INTEGER, "offset" BIGINT
);
CREATE TABLE base.dead_letters (
    dead_letter_id VARCHAR, tenant_id VARCHAR, event_id VARCHAR, event_type VARCHAR, stream_id VARCHAR, stream VARCHAR,
    lane VARCHAR, "partition" INTEGER, "offset" BIGINT, processor_id VARCHAR, processor_name VARCHAR, step VARCHAR,
    error_type VARCHAR, error_message VARCHAR, stack_trace VARCHAR, attempts INTEGER, failed_at TIMESTAMP, payload_raw BLOB
);
CREATE TABLE base.late_events (
    event_id VARCHAR, tenant_id VARCHAR, processor_id VARCHAR, processor_name VARCHAR, stream VARCHAR, lane VARCHAR,
    "partition" INTEGER, "offset" BIGINT, window_start TIMESTAMP, window_end TIMESTAMP, watermark TIMESTAMP,
    observed_at TIMESTAMP
);
CREATE TABLE base.processor_run_events (
    record_offset BIGINT, run_id VARCHAR, tenant_id VARCHAR, processor_id VARCHAR, processor_name VARCHAR, flow VARCHAR,
    status VARCHAR, workers INTEGER, observed_at TIMESTAMP, events_in BIGINT, events_out BIGINT, events_filtered BIGINT,
    events_late BIGINT, events_dead BIGINT, error VARCHAR
);
CREATE TABLE base.rebalances (
    tenant_id VARCHAR, group_id VARCHAR, group_name VARCHAR, strategy VARCHAR, generation BIGINT, reason VARCHAR,
    members_before VARCHAR, members_after VARCHAR, assignment_before VARCHAR, assignment_after VARCHAR,
    started_at TIMESTAMP, completed_at TIMESTAMP, duration_ms DOUBLE
);
CREATE TABLE base.state (
    format INTEGER, stream_id VARCHAR, next_offset BIGINT, skipped_events BIGINT, skipped_records BIGINT
);
CREATE VIEW main.events AS FROM base.events;
CREATE VIEW main.processing_history AS FROM base.processing_history;
CREATE VIEW main.dead_letters AS FROM base.dead_letters;
CREATE VIEW main.late_events AS FROM base.late_events;
CREATE VIEW main.rebalances AS FROM base.rebalances;
CREATE VIEW main.processor_runs AS
SELECT run_id, tenant_id, processor_id, arg_max(processor_name, record_offset) AS processor_name,
       arg_max(flow, record_offset) AS flow, arg_max(status, record_offset) AS status,
       arg_max(workers, record_offset) AS workers, min(observed_at) AS started_at,
       CASE WHEN arg_max(status, record_offset) IN ('STOPPED', 'COMPLETED', 'FAILED') THEN max(observed_at) END AS ended_at,
       arg_max(events_in, record_offset) AS events_in, arg_max(events_out, record_offset) AS events_out,
       arg_max(events_filtered, record_offset) AS events_filtered, arg_max(events_late, record_offset) AS events_late,
       arg_max(events_dead, record_offset) AS events_dead, arg_max(error, record_offset) AS error
FROM base.processor_run_events GROUP BY run_id, tenant_id, processor_id;

-- name: insert_state
INSERT INTO base.state VALUES (?, ?, 0, 0, 0);

-- name: select_tables
SELECT schema_name || '.' || table_name FROM duckdb_tables() WHERE NOT internal;

-- name: select_locked
SELECT current_setting('lock_configuration');

-- name: select_state
SELECT format, stream_id FROM base.state;

-- name: select_position
SELECT next_offset FROM base.state;

-- name: select_skipped
SELECT skipped_events, skipped_records FROM base.state;

-- name: update_position
UPDATE base.state SET next_offset = ?, skipped_events = skipped_events + ?, skipped_records = skipped_records + ?;

-- name: insert_events
INSERT INTO base.events BY NAME
SELECT * REPLACE (CASE WHEN json_valid(payload) THEN payload END AS payload,
                  CASE WHEN json_valid(payload) THEN NULL ELSE coalesce(payload_raw, encode(payload)) END AS payload_raw)
FROM incoming;

-- name: select_event
SELECT * FROM base.events WHERE tenant_id = ? AND event_id = ? LIMIT 1;

-- name: select_steps
SELECT history_id, processor_id, processor_name, processing_stage, status, started_at, completed_at, processing_duration_ms,
       output, error_type, error_message, stack_trace, retry_count
FROM base.processing_history WHERE tenant_id = ? AND event_id = ? ORDER BY started_at, completed_at, history_id;

-- name: select_taken_names
SELECT lower(table_name) FROM duckdb_tables() WHERE schema_name IN ('main', 'pg_catalog', 'base')
UNION SELECT lower(view_name) FROM duckdb_views() WHERE schema_name IN ('main', 'pg_catalog', 'base');

-- name: delete_rows
DELETE FROM base.events;
DELETE FROM base.processing_history;
DELETE FROM base.dead_letters;
DELETE FROM base.late_events;
DELETE FROM base.processor_run_events;
DELETE FROM base.rebalances;
UPDATE base.state SET next_offset = 0, skipped_events = 0, skipped_records = 0;
