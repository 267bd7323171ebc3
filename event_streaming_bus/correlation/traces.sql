-- Asked over a tenant's views. {names} stand for literals. Ids are compared by their hashes, of which the memory holds many
-- millions; that it is the cause indeed is looked at afterwards. An event that was put aside may be there twice under its id.

-- name: effects
WITH RECURSIVE links AS MATERIALIZED (
    SELECT hash(event_id) AS id, hash(causation_id) AS cause, published_at, "offset"
    FROM events WHERE causation_id IS NOT NULL
), found(id, published_at, "offset", depth) AS (
    SELECT hash({event_id}), NULL::TIMESTAMP, 0, 0
    UNION
    SELECT id, published_at, "offset", depth FROM (
        SELECT links.*, found.depth + 1 AS depth FROM found JOIN links ON links.cause = found.id
        WHERE found.depth < {depth} AND links.id <> hash({event_id})
        ORDER BY links.published_at, links."offset", links.id LIMIT {most}
    )
), chosen AS (
    SELECT id, min(depth) AS depth, min(published_at) AS at_first, min("offset") AS first_offset FROM found GROUP BY id
    ORDER BY depth, at_first, first_offset, id LIMIT {most}
)
SELECT event_id, event_type, stream, lane, "partition", "offset", aggregate_type, aggregate_id,
       epoch_ms("timestamp"), epoch_ms(published_at), user_id, correlation_id, causation_id
FROM events JOIN chosen ON hash(events.event_id) = chosen.id
QUALIFY row_number() OVER (PARTITION BY event_id ORDER BY published_at, stream, "partition", lane, "offset") = 1
ORDER BY depth, published_at, "offset", event_id;

-- name: causes
WITH RECURSIVE links AS MATERIALIZED (
    SELECT hash(event_id) AS id, hash(causation_id) AS cause FROM events WHERE causation_id IS NOT NULL
), found(id, depth) AS (
    SELECT hash({event_id}), 0
    UNION
    SELECT links.cause, found.depth + 1 FROM found JOIN links ON links.id = found.id WHERE found.depth < {depth}
)
SELECT event_id, event_type, stream, lane, "partition", "offset", aggregate_type, aggregate_id,
       epoch_ms("timestamp"), epoch_ms(published_at), user_id, correlation_id, causation_id
FROM events WHERE hash(event_id) IN (SELECT id FROM found)
QUALIFY row_number() OVER (PARTITION BY event_id ORDER BY published_at, stream, "partition", lane, "offset") = 1;

-- name: correlated
SELECT event_id, event_type, stream, lane, "partition", "offset", aggregate_type, aggregate_id,
       epoch_ms("timestamp"), epoch_ms(published_at), user_id, correlation_id, causation_id
FROM events WHERE correlation_id = {correlation_id}
QUALIFY row_number() OVER (PARTITION BY event_id ORDER BY published_at, stream, "partition", lane, "offset") = 1
ORDER BY published_at, "offset", event_id LIMIT {most};
