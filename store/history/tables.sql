-- name: create_tables
CREATE SCHEMA base;
CREATE TABLE base.events (
    event_id VARCHAR, tenant_id VARCHAR, stream_id VARCHAR, stream VARCHAR, lane VARCHAR, "partition" INTEGER, "offset" BIGINT,
    event_type VARCHAR, source_capability VARCHAR, aggregate_id VARCHAR, aggregate_type VARCHAR, "key" VARCHAR,
    payload VARCHAR, payload_raw BLOB, metadata VARCHAR, correlation_id VARCHAR, causation_id VARCHAR, user_id VARCHAR,
    schema_id VARCHAR, traceparent VARCHAR, serialization_format VARCHAR, compression_type VARCHAR, max_retries INTEGER,
    "timestamp" TIMESTAMP, deliver_at TIMESTAMP, expires_at TIMESTAMP, published_at TIMESTAMP, record_offset BIGINT
);
CREATE TABLE base.processing_history (
    history_id VARCHAR, event_id VARCHAR, tenant_id VARCHAR, processor_id VARCHAR, processor_name VARCHAR,
    processing_stage VARCHAR, status VARCHAR, started_at TIMESTAMP, completed_at TIMESTAMP, processing_duration_ms DOUBLE,
    output VARCHAR, error_type VARCHAR, error_message VARCHAR, stack_trace VARCHAR, retry_count INTEGER,
    stream_id VARCHAR, lane VARCHAR, "partition" INTEGER, "offset" BIGINT, record_offset BIGINT
);
CREATE TABLE base.dead_letters (
    dead_letter_id VARCHAR, tenant_id VARCHAR, event_id VARCHAR, event_type VARCHAR, stream_id VARCHAR, stream VARCHAR,
    lane VARCHAR, "partition" INTEGER, "offset" BIGINT, processor_id VARCHAR, processor_name VARCHAR, step VARCHAR,
    error_type VARCHAR, error_message VARCHAR, stack_trace VARCHAR, attempts INTEGER, failed_at TIMESTAMP, payload_raw BLOB,
    record_offset BIGINT
);
CREATE TABLE base.late_events (
    event_id VARCHAR, tenant_id VARCHAR, processor_id VARCHAR, processor_name VARCHAR, stream VARCHAR, lane VARCHAR,
    "partition" INTEGER, "offset" BIGINT, window_start TIMESTAMP, window_end TIMESTAMP, watermark TIMESTAMP,
    observed_at TIMESTAMP, record_offset BIGINT
);
CREATE TABLE base.processor_run_events (
    record_offset BIGINT, run_id VARCHAR, tenant_id VARCHAR, processor_id VARCHAR, processor_name VARCHAR, flow VARCHAR,
    status VARCHAR, workers INTEGER, observed_at TIMESTAMP, events_in BIGINT, events_out BIGINT, events_filtered BIGINT,
    events_late BIGINT, events_dead BIGINT, error VARCHAR
);
CREATE TABLE base.rebalances (
    tenant_id VARCHAR, group_id VARCHAR, group_name VARCHAR, strategy VARCHAR, generation BIGINT, reason VARCHAR,
    members_before VARCHAR, members_after VARCHAR, assignment_before VARCHAR, assignment_after VARCHAR,
    started_at TIMESTAMP, completed_at TIMESTAMP, duration_ms DOUBLE, record_offset BIGINT
);
CREATE TABLE base.state (
    format INTEGER, stream_id VARCHAR, next_offset BIGINT, skipped_events BIGINT, skipped_records BIGINT, rolled_until BIGINT
);
CREATE TABLE base.days (day DATE, first_offset BIGINT);

-- name: view
CREATE OR REPLACE VIEW main.{table} AS SELECT * EXCLUDE (record_offset) FROM ({source});

-- name: view_processor_run_events
CREATE OR REPLACE VIEW main.processor_runs AS
SELECT run_id, tenant_id, processor_id, arg_max(processor_name, record_offset) AS processor_name,
       arg_max(flow, record_offset) AS flow, arg_max(status, record_offset) AS status,
       arg_max(workers, record_offset) AS workers, min(observed_at) AS started_at,
       CASE WHEN arg_max(status, record_offset) IN ('STOPPED', 'COMPLETED', 'FAILED') THEN max(observed_at) END AS ended_at,
       arg_max(events_in, record_offset) AS events_in, arg_max(events_out, record_offset) AS events_out,
       arg_max(events_filtered, record_offset) AS events_filtered, arg_max(events_late, record_offset) AS events_late,
       arg_max(events_dead, record_offset) AS events_dead, arg_max(error, record_offset) AS error
FROM ({source}) GROUP BY run_id, tenant_id, processor_id;

-- name: create_guards
CREATE OR REPLACE MACRO {schema}.repeat(thing, times) AS system.main.repeat(thing,
    CASE WHEN times * strlen(thing::VARCHAR) > 1000000 THEN error('repeat: more than 1,000,000 characters') ELSE times END);
CREATE OR REPLACE MACRO {schema}.lpad(text, size, filling) AS system.main.lpad(text,
    CASE WHEN size > 1000000 THEN error('lpad: more than 1,000,000 characters') ELSE size END, filling);
CREATE OR REPLACE MACRO {schema}.rpad(text, size, filling) AS system.main.rpad(text,
    CASE WHEN size > 1000000 THEN error('rpad: more than 1,000,000 characters') ELSE size END, filling);
CREATE OR REPLACE MACRO {schema}.list_resize(list, size) AS system.main.list_resize(list,
        CASE WHEN size > 1000000 THEN error('list_resize: more than 1,000,000 items') ELSE size END),
    (list, size, value) AS system.main.list_resize(list,
        CASE WHEN size > 1000000 THEN error('list_resize: more than 1,000,000 items') ELSE size END, value);
CREATE OR REPLACE MACRO {schema}.array_resize(list, size) AS system.main.list_resize(list,
        CASE WHEN size > 1000000 THEN error('array_resize: more than 1,000,000 items') ELSE size END),
    (list, size, value) AS system.main.list_resize(list,
        CASE WHEN size > 1000000 THEN error('array_resize: more than 1,000,000 items') ELSE size END, value);
CREATE OR REPLACE MACRO {schema}.range(stop) AS system.main.range(
        CASE WHEN stop > 1000000 THEN error('range: more than 1,000,000 items') ELSE stop END),
    (start, stop) AS system.main.range(start,
        CASE WHEN stop - start > 1000000 THEN error('range: more than 1,000,000 items') ELSE stop END),
    (start, stop, step) AS system.main.range(start,
        CASE WHEN abs((try_cast(stop::VARCHAR AS DOUBLE) - try_cast(start::VARCHAR AS DOUBLE)) / try_cast(step::VARCHAR AS DOUBLE))
            > 1000000 THEN error('range: more than 1,000,000 items') ELSE stop END, step);
CREATE OR REPLACE MACRO {schema}.generate_series(stop) AS system.main.generate_series(
        CASE WHEN stop > 1000000 THEN error('generate_series: more than 1,000,000 items') ELSE stop END),
    (start, stop) AS system.main.generate_series(start,
        CASE WHEN stop - start > 1000000 THEN error('generate_series: more than 1,000,000 items') ELSE stop END),
    (start, stop, step) AS system.main.generate_series(start,
        CASE WHEN abs((try_cast(stop::VARCHAR AS DOUBLE) - try_cast(start::VARCHAR AS DOUBLE)) / try_cast(step::VARCHAR AS DOUBLE))
            > 1000000 THEN error('generate_series: more than 1,000,000 items') ELSE stop END, step);

-- name: insert_state
INSERT INTO base.state VALUES (?, ?, 0, 0, 0, 0);

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
SELECT * FROM main.events WHERE tenant_id = ? AND event_id = ? LIMIT 1;

-- name: select_steps
SELECT history_id, processor_id, processor_name, processing_stage, status, started_at, completed_at, processing_duration_ms,
       output, error_type, error_message, stack_trace, retry_count
FROM main.processing_history WHERE tenant_id = ? AND event_id = ? ORDER BY started_at, completed_at, history_id;

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
DELETE FROM base.days;
UPDATE base.state SET next_offset = rolled_until, skipped_events = 0, skipped_records = 0;

-- name: select_rolled_until
SELECT rolled_until FROM base.state;

-- name: update_rolled_until
UPDATE base.state SET rolled_until = $1, next_offset = greatest(next_offset, $1);

-- name: select_days
SELECT day, first_offset FROM base.days ORDER BY day;

-- name: insert_day
INSERT INTO base.days VALUES (?, ?);

-- name: delete_days
DELETE FROM base.days WHERE first_offset < ?;

-- name: base_rows
SELECT * FROM base.{table}

-- name: file_rows
SELECT * FROM read_parquet([{paths}])

-- name: delete_rolled
DELETE FROM base.{table} WHERE record_offset < ?;

-- name: copy_day
COPY (SELECT * FROM base.{table} WHERE record_offset >= {begin} AND record_offset < {end} ORDER BY tenant_id, record_offset)
TO {path} (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 50000);

-- name: count_day
SELECT count(*) FROM base.{table} WHERE record_offset >= ? AND record_offset < ?;
