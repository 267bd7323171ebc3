-- Asked over a tenant's views; $names are bound values.

-- name: event
SELECT event_id, event_type, stream_id, stream, lane, "partition", "offset", "key", aggregate_type, aggregate_id, source_capability,
       user_id, correlation_id, causation_id, schema_id, traceparent, "timestamp", deliver_at, expires_at, published_at,
       payload, payload_raw IS NOT NULL AS is_raw
FROM events WHERE event_id = $event_id ORDER BY published_at, stream LIMIT 1;

-- name: steps
SELECT processor_id, processor_name, processing_stage, status, started_at, completed_at, processing_duration_ms, output,
       error_type, error_message, stack_trace, stream_id, lane, "partition", "offset"
FROM processing_history WHERE event_id = $event_id ORDER BY started_at, completed_at, history_id LIMIT $most;

-- name: outputs
SELECT event_id, event_type, stream, lane, "partition", "offset", "timestamp", published_at
FROM events WHERE causation_id = $event_id ORDER BY published_at, stream, "partition", lane, "offset" LIMIT $most;

-- name: dead_letters
SELECT dead_letter_id, stream, lane, "partition", "offset", processor_id, processor_name, step, error_type, error_message,
       stack_trace, attempts, failed_at
FROM dead_letters WHERE event_id = $event_id OR dead_letter_id = $event_id ORDER BY failed_at, dead_letter_id LIMIT $most;

-- name: late
SELECT processor_id, processor_name, window_start, window_end, watermark, observed_at
FROM late_events WHERE event_id = $event_id ORDER BY observed_at, window_start LIMIT $most;

-- name: window_events
SELECT e.event_id, e.event_type, e.stream, e.lane, e."partition", e."offset", e."timestamp"
FROM events e JOIN processing_history h
  ON h.event_id = e.event_id AND h.stream_id = e.stream_id AND h.lane = e.lane AND h."partition" = e."partition"
 AND h."offset" = e."offset"
WHERE h.processor_id = $processor_id AND h.processing_stage IN ('PROCESSING', 'ENRICHMENT') AND h.status = 'COMPLETED'
  AND ($start_ms IS NULL OR epoch_ms(e."timestamp") >= $start_ms)
  AND ($end_ms IS NULL OR epoch_ms(e."timestamp") < $end_ms)
  AND ($until_us IS NULL OR epoch_us(h.started_at) <= $until_us)
  AND {same_key}
  AND NOT EXISTS (
      FROM late_events l WHERE l.event_id = e.event_id AND l.processor_id = h.processor_id
       AND ($start_ms IS NULL OR epoch_ms(l.window_start) = $start_ms)
  )
QUALIFY row_number() OVER (PARTITION BY e.stream, e.lane, e."partition", e."offset" ORDER BY h.started_at) = 1
ORDER BY e."timestamp", e.stream, e."partition", e.lane, e."offset" LIMIT $most;

-- name: results
SELECT event_id, event_type, stream, lane, "partition", "offset", "timestamp", published_at
FROM events
WHERE event_type = $name AND source_capability = $flow AND stream = $stream AND json_valid(payload)
  AND try_cast(payload->>'$.window_start' AS TIMESTAMP) <= $at::TIMESTAMP
  AND try_cast(payload->>'$.window_end' AS TIMESTAMP) > $at::TIMESTAMP
  AND {same_key}
ORDER BY published_at, "offset" LIMIT $most;
