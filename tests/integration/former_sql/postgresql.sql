-- insert_predictions
-- Rows that are there already are left alone: the same group is sent again when the answer to its COMMIT was lost, and
-- an idempotency key belongs to the row that came with it first. Inserted in the order of keys and ids, so that two
-- groups cannot deadlock; positions rise with the order in which they were submitted.
WITH r AS MATERIALIZED (
    SELECT * FROM ROWS FROM (
        json_to_recordset(:rows::json) AS (id uuid, tenant_id text, model text, version text, alias text, line text,
            priority smallint, size bigint, shape text, max_attempts integer, metadata text, queue_timeout_us bigint,
            execution_timeout_us bigint, webhook text, webhook_events smallint, idempotency_key text,
            idempotency_digest text, traceparent text, content_type text, blob_bytes bigint, shadow_of uuid),
        unnest(:bodies::bytea[])) WITH ORDINALITY
    AS r (id, tenant_id, model, version, alias, line, priority, size, shape, max_attempts, metadata, queue_timeout_us,
        execution_timeout_us, webhook, webhook_events, idempotency_key, idempotency_digest, traceparent,
        content_type, blob_bytes, shadow_of, body, n)),
i AS (
    INSERT INTO inputs (id, body, content_type, blob_bytes) SELECT id, body, content_type, blob_bytes FROM r ORDER BY id
    ON CONFLICT (id) DO NOTHING)
INSERT INTO predictions (id, tenant_id, model, version, alias, line, position, created_at, priority, size, shape,
    max_attempts, metadata, expires_at, queue_timeout_us, execution_timeout_us, webhook, webhook_events,
    idempotency_key, idempotency_digest, traceparent, shadow_of)
SELECT id, tenant_id, model, version, alias, line, :now + n, :now + n, priority, size, shape, max_attempts, metadata,
    :now + n + queue_timeout_us, queue_timeout_us, execution_timeout_us, webhook, webhook_events, idempotency_key,
    idempotency_digest, traceparent, shadow_of
FROM r ORDER BY tenant_id, idempotency_key, id
ON CONFLICT DO NOTHING
RETURNING id::text, position;

-- positions
-- Of rows that an earlier try of the same group has inserted.
SELECT id::text, position FROM predictions WHERE id = ANY(:ids::uuid[]);

-- holders
-- Of idempotency keys: submission, the row that has its key, and whether the two are the same request.
SELECT r.id, p.id::text, p.idempotency_digest = r.digest
FROM json_to_recordset(:rows::json) AS r (id text, tenant_id text, key text, digest text)
CROSS JOIN LATERAL (
    SELECT id, idempotency_digest FROM predictions WHERE tenant_id = r.tenant_id AND idempotency_key = r.key LIMIT 1) p;

-- forget_inputs
-- Of submissions that made no row.
DELETE FROM inputs i WHERE id = ANY(:ids::uuid[]) AND NOT EXISTS (SELECT FROM predictions p WHERE p.id = i.id);

-- claim
-- Takes what is still queued and nobody else is about to change, for a worker that is live. By id and status, not by
-- the marker `queued`: with that a planner that believes the queue to be short would walk all of it.
WITH c AS MATERIALIZED (
    SELECT id FROM predictions
    WHERE id = ANY(:ids::uuid[]) AND status = 0 AND model = :model AND version = :version
        AND (expires_at IS NULL OR expires_at > :now)
    ORDER BY id FOR NO KEY UPDATE SKIP LOCKED),
k AS (
    INSERT INTO claims (id, worker_id, ids, at)
    SELECT :claim::uuid, :worker_id::text, array_agg(id), :now FROM c
    HAVING count(*) > 0 AND EXISTS (SELECT FROM workers WHERE id = :worker_id::text AND state = 'live')
    RETURNING ids)
UPDATE predictions p SET status = 1, queued = NULL, attempt = attempt + 1, revision = revision + 1,
    claim = :claim::uuid, started_at = :now, expires_at = NULL
FROM k, inputs i
WHERE p.id = ANY(k.ids) AND i.id = p.id
RETURNING p.id::text, p.line, p.size, p.shape, p.position, p.created_at, p.started_at, p.attempt, p.revision, p.charged,
    p.losses, p.max_attempts, p.execution_timeout_us, i.body, i.content_type, i.blob_bytes;

-- claimed
-- The rows that a claim owns.
SELECT p.id::text, p.line, p.size, p.shape, p.position, p.created_at, p.started_at, p.attempt, p.revision, p.charged,
    p.losses, p.max_attempts, p.execution_timeout_us, i.body, i.content_type, i.blob_bytes
FROM claims c JOIN predictions p ON p.id = ANY(c.ids) AND p.claim = c.id AND p.status = 1 JOIN inputs i ON i.id = p.id
WHERE c.id = :claim::uuid;

-- finish
-- One transaction for the results of several claims, in the order of the rows' ids whatever claim they belong to. What
-- fails while it is being canceled is canceled. Each row is looked up by its key: a join may be planned as a walk over
-- the whole table while that is small, and the plan is kept.
WITH r AS MATERIALIZED (
    SELECT * FROM ROWS FROM (
        json_to_recordset(:rows::json) AS (id uuid, claim uuid, status smallint, error_code text, error_message text,
            predict_us bigint, batch_size integer, output_type text, output_bytes bigint),
        unnest(:outputs::bytea[]))
    AS r (id, claim, status, error_code, error_message, predict_us, batch_size, output_type, output_bytes, output)
    ORDER BY id),
f AS MATERIALIZED (
    SELECT r.id, CASE WHEN p.status = 2 AND r.status = 4 THEN 5 ELSE r.status END AS status,
        CASE WHEN p.status = 1 THEN r.error_code END AS error_code,
        CASE WHEN p.status = 1 THEN r.error_message END AS error_message, r.predict_us, r.batch_size, r.output,
        r.output_type, r.output_bytes
    FROM r CROSS JOIN LATERAL (
        SELECT status FROM predictions WHERE id = r.id AND claim = r.claim AND status IN (1, 2)
        FOR NO KEY UPDATE) p),
d AS (
    DELETE FROM claims WHERE id = ANY(:claims::uuid[]))
UPDATE predictions p SET status = f.status, failed = CASE WHEN f.status = 4 THEN true END, revision = revision + 1,
    error_code = f.error_code, error_message = f.error_message, predict_us = f.predict_us, batch_size = f.batch_size,
    completed_at = :now, output = f.output, output_type = f.output_type, output_bytes = f.output_bytes
FROM f
WHERE p.id = f.id
RETURNING p.id::text, p.claim::text, p.status, p.revision, p.attempt, p.started_at, p.completed_at;

-- settle_checked
-- Claims of which nothing remains are forgotten.
DELETE FROM claims c WHERE id = ANY(:claims::uuid[]) AND NOT EXISTS (
    SELECT FROM predictions p WHERE p.id = ANY(c.ids) AND p.claim = c.id AND p.status IN (1, 2));

-- ended_under
-- Rows that ended under these claims: what an earlier try of the same finish has done.
SELECT p.id::text, p.claim::text, p.status, p.revision, p.attempt, p.started_at, p.completed_at
FROM json_to_recordset(:rows::json) AS r (id uuid, claim uuid)
CROSS JOIN LATERAL (SELECT * FROM predictions WHERE id = r.id AND claim = r.claim LIMIT 1) p
WHERE p.status IN (3, 4, 5);

-- give_back
-- Back to its place in the line; canceled if that was asked for; failed if its last chance is used up.
WITH r AS MATERIALIZED (
    SELECT * FROM json_to_recordset(:rows::json) AS r (id uuid, claim uuid, losses integer, lost integer, charge integer,
        code text, message text) ORDER BY id),
f AS MATERIALIZED (
    SELECT r.id,
        CASE WHEN p.status = 2 THEN 5 WHEN r.charge = 1 AND p.charged + 1 >= p.max_attempts THEN 4 ELSE 0 END AS next,
        greatest(p.losses + r.lost, r.losses) AS losses, p.charged + r.charge AS charged, r.code, r.message
    FROM r CROSS JOIN LATERAL (
        SELECT status, losses, charged, max_attempts FROM predictions
        WHERE id = r.id AND claim = r.claim AND status IN (1, 2)
        FOR NO KEY UPDATE SKIP LOCKED) p)
UPDATE predictions p SET status = f.next, revision = revision + 1, losses = f.losses, charged = f.charged,
    queued = CASE WHEN f.next = 0 THEN true END,
    failed = CASE WHEN f.next = 4 THEN true END,
    log = CASE WHEN f.next = 0 THEN coalesce(log || ',', '') || '[1,' || started_at || '],[0,' || :now || ']' ELSE log END,
    claim = CASE WHEN f.next <> 0 THEN claim END,
    started_at = CASE WHEN f.next <> 0 THEN started_at END,
    completed_at = CASE WHEN f.next <> 0 THEN :now END,
    error_code = CASE WHEN f.next = 4 THEN f.code END,
    error_message = CASE WHEN f.next = 4 THEN f.message END
FROM f
WHERE p.id = f.id
RETURNING p.id::text, p.line, p.priority, p.size, p.shape, p.position, p.status, p.revision, p.claim::text, p.attempt,
    p.started_at, p.completed_at, p.error_code, p.error_message;

-- dead_claims
-- Of workers that are dead or have no row, oldest first.
SELECT c.id::text, to_json(c.ids)::text FROM claims c
WHERE NOT EXISTS (SELECT FROM workers w WHERE w.id = c.worker_id AND w.state = 'live')
ORDER BY c.at LIMIT :limit;

-- worker_claims
-- What a worker owns, and the rows of it that have not ended.
SELECT c.id::text, (
    SELECT coalesce(json_agg(p.id), '[]')::text FROM predictions p
    WHERE p.id = ANY(c.ids) AND p.claim = c.id AND p.status IN (1, 2))
FROM claims c WHERE c.worker_id = :worker_id;

-- cancel_queued
-- A row that is locked is being claimed: it is not queued any more.
WITH f AS MATERIALIZED (
    SELECT id FROM predictions WHERE id = ANY(:ids::uuid[]) AND tenant_id = :tenant_id AND status = 0
    ORDER BY id FOR NO KEY UPDATE SKIP LOCKED)
UPDATE predictions p SET status = 5, queued = NULL, revision = revision + 1, completed_at = :now
FROM f WHERE p.id = f.id
RETURNING p.id::text, p.revision, p.attempt, p.completed_at;

-- cancel_line
-- A page of what a line had at a position, oldest first, without items of batches. A row that is locked is being
-- claimed: it is not queued any more.
WITH f AS MATERIALIZED (
    SELECT id FROM predictions WHERE queued AND line = :line AND position < :before AND batch_id IS NULL
    ORDER BY position, predictions.id LIMIT :limit FOR NO KEY UPDATE SKIP LOCKED)
UPDATE predictions p SET status = 5, queued = NULL, revision = revision + 1, completed_at = :now
FROM f WHERE p.id = f.id
RETURNING p.id::text, p.revision, p.attempt, p.completed_at;

-- redrive
-- A row that is locked is being retried or deleted by somebody else.
WITH f AS MATERIALIZED (
    SELECT id FROM predictions WHERE id = ANY(:ids::uuid[]) AND status = CAST(:status AS integer) AND {retriable}
    ORDER BY id FOR NO KEY UPDATE SKIP LOCKED)
UPDATE predictions p SET {retried}
FROM f WHERE p.id = f.id
RETURNING p.id::text, p.line, p.priority, p.size, p.shape, p.position;

-- delete_shadows
-- Found first and put in order then: with both at once all rows would be walked in the order of their ids.
WITH s AS MATERIALIZED (SELECT id FROM predictions WHERE shadow_of = :id AND deleted_at IS NULL),
o AS MATERIALIZED (SELECT id FROM s ORDER BY id),
f AS MATERIALIZED (
    SELECT o.id FROM o CROSS JOIN LATERAL (SELECT FROM predictions WHERE id = o.id FOR NO KEY UPDATE) p)
UPDATE predictions p SET {forgotten_shadow}
FROM f WHERE p.id = f.id;

-- delete_shadow_inputs
DELETE FROM inputs WHERE id = ANY(ARRAY(SELECT id FROM predictions WHERE shadow_of = :id));

-- canceling
SELECT id::text, claim::text FROM predictions WHERE id = ANY(:ids::uuid[]) AND status = 2;

-- progress
-- What models said of items that they still run.
WITH r AS MATERIALIZED (
    SELECT * FROM json_to_recordset(:rows::json) AS r (id uuid, claim uuid, progress text) ORDER BY id),
f AS MATERIALIZED (
    SELECT r.id, r.progress FROM r CROSS JOIN LATERAL (
        SELECT FROM predictions WHERE id = r.id AND claim = r.claim AND status IN (1, 2)
        FOR NO KEY UPDATE SKIP LOCKED) p)
UPDATE predictions p SET progress = f.progress, revision = revision + 1 FROM f WHERE p.id = f.id;

-- expire
WITH f AS MATERIALIZED (
    SELECT id FROM predictions WHERE queued AND expires_at IS NOT NULL AND expires_at <= :now
    ORDER BY expires_at LIMIT :limit FOR NO KEY UPDATE SKIP LOCKED)
UPDATE predictions p SET status = 6, queued = NULL, revision = revision + 1, completed_at = :now
FROM f WHERE p.id = f.id
RETURNING p.id::text, p.revision, p.attempt, p.completed_at;

-- purge
-- One page of the oldest ids, and of it what ended before a time. Ids begin with the time of creation, so that no index
-- by completion is needed: it would make every finish write to it. Who still owes a webhook stays, and so do the
-- items of a batch until it may go.
WITH page AS MATERIALIZED (
    SELECT id FROM predictions WHERE id > :after::uuid AND id < :until::uuid ORDER BY id LIMIT :limit),
f AS MATERIALIZED (
    SELECT p.id FROM page JOIN predictions p ON p.id = page.id
    WHERE p.status IN (3, 4, 5, 6) AND p.completed_at < :before
        AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.prediction_id = p.id AND d.state = 0)
        AND NOT EXISTS (SELECT 1 FROM batches b WHERE b.id = p.batch_id AND coalesce(b.completed_at, :before) >= :before)
    ORDER BY p.id FOR UPDATE OF p SKIP LOCKED),
w AS (
    DELETE FROM deliveries WHERE prediction_id IN (SELECT id FROM f)),
i AS (
    DELETE FROM inputs WHERE id IN (SELECT id FROM f) RETURNING id, blob_bytes),
d AS (
    DELETE FROM predictions WHERE id IN (SELECT id FROM f) RETURNING id, output_bytes)
SELECT (SELECT id::text FROM page ORDER BY id DESC LIMIT 1), (SELECT count(*) FROM d),
    (SELECT coalesce(json_agg(d.id), '[]')::text FROM d LEFT JOIN i ON i.id = d.id
        WHERE d.output_bytes IS NOT NULL OR i.blob_bytes IS NOT NULL);

-- with_blobs
-- Of ids that have something in the blob store, those whose rows are there for it.
SELECT id::text FROM predictions WHERE id = ANY(:ids::uuid[]) AND deleted_at IS NULL;

-- read
SELECT id::text, tenant_id, model, version, alias, line, position, priority, status, revision, attempt, max_attempts,
    claim::text, metadata, CASE WHEN :outputs THEN output END, error_code, error_message, created_at, started_at,
    completed_at, expires_at, predict_us, batch_size, CASE WHEN webhook IS NULL THEN 0 ELSE coalesce(webhook_status, 1) END, progress, log,
    deleted_at, batch_id::text, custom_id, output_type, output_bytes, shadow_of::text
FROM predictions WHERE id = ANY(:ids::uuid[]);

-- oldest_queued
SELECT priority, id::text, size, shape, position FROM predictions
WHERE queued AND line = :line AND position < :before AND (expires_at IS NULL OR expires_at > :now)
ORDER BY position, predictions.id LIMIT :limit;

-- waiting
-- Which of some lines have a queued row before a position, one step of the index each; the ORDER BY keeps the planner
-- from walking all that is queued.
SELECT r.line FROM json_to_recordset(:marks::json) AS r (line text, before bigint)
CROSS JOIN LATERAL (
    SELECT 1 FROM predictions p WHERE p.queued AND p.line = r.line AND p.position < r.before
    ORDER BY p.position, p.id LIMIT 1) f;

-- depth
-- How many wait in some lines, counted no further than a limit.
SELECT count(*) FROM (SELECT FROM predictions WHERE queued AND line = ANY(:lines::text[]) LIMIT :limit) f;

-- first_positions
SELECT coalesce(json_agg(position), '[]')::text FROM (
    SELECT position FROM predictions WHERE queued AND line = :line ORDER BY position, predictions.id LIMIT :limit) f;

-- backlog
-- Counted so far and no further: a deep line costs no more than a busy one.
SELECT l.line,
    (SELECT count(*) FROM (SELECT FROM predictions p WHERE p.queued AND p.line = l.line LIMIT :at_most) q),
    (SELECT min(p.position) FROM predictions p WHERE p.queued AND p.line = l.line)
FROM unnest(:lines::text[]) l (line);

-- now
SELECT :now;

-- lease_deliveries
-- The longest due of each receiver. They are due again when the lease ends, should their deliverer be gone by then.
WITH d AS MATERIALIZED (
    SELECT due.id FROM json_to_recordset(:rooms::json) AS r (receiver text, room integer) CROSS JOIN LATERAL (
        SELECT id FROM deliveries WHERE state = 0 AND receiver = r.receiver AND due_at <= :now
        ORDER BY due_at LIMIT r.room FOR NO KEY UPDATE SKIP LOCKED) due)
UPDATE deliveries SET leased = true, attempts = attempts + 1, step = step + 1, due_at = :now + :lease
FROM d WHERE deliveries.id = d.id
RETURNING deliveries.id, tenant_id, event, url, receiver, at, attempts, step, log, record, output,
    (SELECT p.traceparent FROM predictions p WHERE p.id = prediction_id);

-- renew_deliveries
-- Those that are still being sent, in the same attempt.
UPDATE deliveries SET due_at = :now + :lease
FROM json_to_recordset(:rows::json) AS r (id text, attempts integer)
WHERE deliveries.id = r.id AND deliveries.attempts = r.attempts AND state = 0 AND leased;

-- record_deliveries
-- What came of attempts, unless another has begun meanwhile. Not `state = 0`: a planner that believes few to be pending
-- would walk the index of all that are. By the place where each locked row lies: a join by id may be planned as a walk
-- over all deliveries while they are few, and the plan is kept.
WITH r AS MATERIALIZED (
    SELECT * FROM json_to_recordset(:rows::json) AS r (id text, attempts integer, state smallint, delay bigint, log text)),
f AS MATERIALIZED (
    SELECT d.place, r.* FROM r CROSS JOIN LATERAL (
        SELECT ctid AS place FROM deliveries WHERE id = r.id AND attempts = r.attempts AND state < 1
        FOR NO KEY UPDATE) d)
UPDATE deliveries SET state = f.state, leased = NULL, due_at = :now + f.delay, log = f.log
FROM f WHERE deliveries.ctid = f.place;

-- lock_predictions
-- Predictions before deliveries, and in the order of their ids: nobody who ends several deadlocks.
SELECT id FROM predictions WHERE id = ANY(:ids::uuid[]) ORDER BY id FOR NO KEY UPDATE;

-- note_webhooks
-- What a prediction's receiver was told, once it is owed nothing more; events before an explicit retry do not count.
WITH i AS MATERIALIZED (SELECT DISTINCT id FROM unnest(:ids::uuid[]) AS i (id)),
d AS MATERIALIZED (
    SELECT i.id, told.status FROM i CROSS JOIN LATERAL (
        SELECT CASE WHEN min(state) = 0 THEN 1 WHEN max(state) = 2 THEN 3 ELSE 2 END AS status FROM deliveries
        WHERE prediction_id = i.id AND at >= (SELECT position FROM predictions WHERE id = i.id)
        HAVING count(*) > 0) told)
UPDATE predictions p SET revision = revision + 1, webhook_status = d.status
FROM d
WHERE p.id = d.id AND (p.status >= 3 OR p.webhook_events & 1 = 0) AND coalesce(p.webhook_status, 1) <> d.status;

-- item_hints
SELECT batch_index, priority, id::text, size, shape, position FROM predictions
WHERE batch_id = :id AND batch_index > :after AND status = 0 ORDER BY batch_index LIMIT :limit;

-- item_results
SELECT batch_index, id::text, custom_id, status, output, error_code, error_message, claim::text, output_type,
    output_bytes, deleted_at
FROM predictions WHERE batch_id = :id AND batch_index > :after ORDER BY batch_index LIMIT :limit;

-- end_items
-- A row that is locked is being claimed: it is not queued any more.
WITH f AS MATERIALIZED (
    SELECT id FROM predictions WHERE batch_id = :id AND batch_index > :after AND status = 0
    ORDER BY batch_index LIMIT :limit FOR NO KEY UPDATE SKIP LOCKED)
UPDATE predictions p SET status = CASE WHEN CAST(:expired AS integer) = 1 THEN 6 ELSE 5 END, queued = NULL,
    revision = revision + 1, completed_at = :now
FROM f WHERE p.id = f.id
RETURNING p.batch_index, p.id::text, p.revision, p.attempt, p.completed_at;

-- cancel_items
WITH f AS MATERIALIZED (
    SELECT id FROM predictions WHERE batch_id = :id AND batch_index > :after AND status = 1
    ORDER BY batch_index LIMIT :limit FOR NO KEY UPDATE SKIP LOCKED)
UPDATE predictions p SET status = 2, revision = revision + 1,
    log = coalesce(log || ',', '') || '[1,' || started_at || '],[2,' || :now || ']'
FROM f WHERE p.id = f.id
RETURNING p.id::text;

-- recent_failures
-- The last failures of all tenants, one step of the index to each tenant and its newest from there; how many failed
-- lately comes with every row.
WITH RECURSIVE t (tenant_id, n) AS (
    SELECT min(tenant_id), 1 FROM predictions WHERE failed
    UNION ALL
    SELECT (SELECT min(p.tenant_id) FROM predictions p WHERE p.failed AND p.tenant_id > t.tenant_id), n + 1
    FROM t WHERE t.tenant_id IS NOT NULL AND n < :tenants)
SELECT f.id::text, f.tenant_id, f.model, f.version, f.attempt, f.error_code, left(f.error_message, :characters),
    f.created_at, f.completed_at, f.batch_id::text,
    count(*) FILTER (WHERE f.completed_at >= :now - :lately) OVER ()
FROM t CROSS JOIN LATERAL (
    SELECT * FROM predictions p
    WHERE p.failed AND (p.tenant_id, p.id) <= (t.tenant_id, :last::uuid) AND p.tenant_id >= t.tenant_id
    ORDER BY p.tenant_id DESC, p.id DESC LIMIT :scan) f
WHERE f.shadow_of IS NULL
ORDER BY f.completed_at DESC, f.id DESC LIMIT :limit;
