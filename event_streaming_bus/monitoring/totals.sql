-- name: select_streams
SELECT stream_no, stream_id, config, created_at_ms FROM streams WHERE substr(name, 1, 1) <> '_' ORDER BY created_at_ms, stream_no;

-- name: select_totals
SELECT stream_no, lane, sum(end_offset), sum(stored_bytes) FROM splits GROUP BY stream_no, lane;
