-- name: create_tables
CREATE TABLE IF NOT EXISTS events (
    event_id VARCHAR, tenant_id VARCHAR, stream_id VARCHAR, stream VARCHAR, lane VARCHAR, "partition" INTEGER, "offset" BIGINT,
    event_type VARCHAR, source_capability VARCHAR, aggregate_id VARCHAR, aggregate_type VARCHAR, "key" VARCHAR,
    payload VARCHAR, metadata VARCHAR, correlation_id VARCHAR, causation_id VARCHAR, user_id VARCHAR, schema_id VARCHAR,
    traceparent VARCHAR, serialization_format VARCHAR, max_retries INTEGER, "timestamp" TIMESTAMP, published_at TIMESTAMP
);
CREATE TABLE IF NOT EXISTS processing_history (
    history_id VARCHAR, event_id VARCHAR, tenant_id VARCHAR, processor_id VARCHAR, processor_name VARCHAR,
    processing_stage VARCHAR, status VARCHAR, started_at TIMESTAMP, completed_at TIMESTAMP, processing_duration_ms DOUBLE,
    output VARCHAR, error_type VARCHAR, error_message VARCHAR, stack_trace VARCHAR, retry_count INTEGER,
    stream_id VARCHAR, lane VARCHAR, "partition" INTEGER, "offset" BIGINT
);
CREATE TABLE IF NOT EXISTS dead_letters (
    dead_letter_id VARCHAR, tenant_id VARCHAR, event_id VARCHAR, event_type VARCHAR, stream VARCHAR, lane VARCHAR,
    "partition" INTEGER, "offset" BIGINT, processor_id VARCHAR, processor_name VARCHAR, step VARCHAR, error_type VARCHAR,
    error_message VARCHAR, attempts INTEGER, failed_at TIMESTAMP, payload_raw BLOB
);
CREATE TABLE IF NOT EXISTS late_events (
    event_id VARCHAR, tenant_id VARCHAR, processor_id VARCHAR, processor_name VARCHAR, stream VARCHAR, lane VARCHAR,
    "partition" INTEGER, "offset" BIGINT, window_start TIMESTAMP, window_end TIMESTAMP, watermark TIMESTAMP,
    observed_at TIMESTAMP
);
CREATE TABLE IF NOT EXISTS processor_run_events (
    run_id VARCHAR, tenant_id VARCHAR, processor_id VARCHAR, processor_name VARCHAR, flow VARCHAR, status VARCHAR,
    workers INTEGER, observed_at TIMESTAMP, events_in BIGINT, events_out BIGINT, events_filtered BIGINT, events_late BIGINT,
    events_dead BIGINT, error VARCHAR
);
CREATE TABLE IF NOT EXISTS history_position (next_offset BIGINT, skipped_events BIGINT);
INSERT INTO history_position SELECT 0, 0 WHERE NOT EXISTS (FROM history_position);
CREATE OR REPLACE VIEW processor_runs AS
SELECT run_id, tenant_id, processor_id, any_value(processor_name) AS processor_name, any_value(flow) AS flow,
       arg_max(status, observed_at) AS status, arg_max(workers, observed_at) AS workers, min(observed_at) AS started_at,
       max(observed_at) FILTER (status <> 'RUNNING') AS ended_at, arg_max(events_in, observed_at) AS events_in,
       arg_max(events_out, observed_at) AS events_out, arg_max(events_filtered, observed_at) AS events_filtered,
       arg_max(events_late, observed_at) AS events_late, arg_max(events_dead, observed_at) AS events_dead,
       arg_max(error, observed_at) AS error
FROM processor_run_events GROUP BY run_id, tenant_id, processor_id;

-- name: select_position
SELECT next_offset FROM history_position;

-- name: update_position
UPDATE history_position SET next_offset = ?, skipped_events = skipped_events + ?;

-- name: select_skipped
SELECT skipped_events FROM history_position;

-- name: select_event
SELECT * FROM main.events WHERE tenant_id = ? AND event_id = ? LIMIT 1;

-- name: select_steps
SELECT history_id, processor_id, processor_name, processing_stage, status, started_at, completed_at, processing_duration_ms,
       output, error_type, error_message, stack_trace, retry_count
FROM main.processing_history WHERE tenant_id = ? AND event_id = ? ORDER BY started_at, completed_at, history_id;

-- name: drop_all
DELETE FROM events; DELETE FROM processing_history; DELETE FROM dead_letters; DELETE FROM late_events;
DELETE FROM processor_run_events; UPDATE history_position SET next_offset = 0, skipped_events = 0;
