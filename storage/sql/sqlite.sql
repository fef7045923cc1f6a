-- insert_predictions
-- Rows that are there already are left alone: the same group is sent again when the answer to its COMMIT was lost, and
-- an idempotency key belongs to the row that came with it first.
INSERT INTO predictions (id, tenant_id, model, version, alias, line, position, created_at, priority, size, shape,
    max_attempts, metadata, expires_at, queue_timeout_us, execution_timeout_us, webhook, webhook_events,
    idempotency_key, idempotency_digest, traceparent, shadow_of)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO NOTHING;

-- insert_inputs
INSERT INTO inputs (id, body, content_type, blob_bytes)
VALUES (?, ?, ?, ?)
ON CONFLICT (id) DO NOTHING;

-- positions
-- Of rows that an earlier try of the same group has inserted.
SELECT id, position FROM predictions WHERE id IN (SELECT value FROM json_each(:ids));

-- holders
-- Of idempotency keys: submission, the row that has its key, and whether the two are the same request.
SELECT r.value ->> 'id', p.id, p.idempotency_digest = r.value ->> 'digest'
FROM json_each(:rows) r CROSS JOIN predictions p
WHERE p.tenant_id = r.value ->> 'tenant_id' AND p.idempotency_key = r.value ->> 'key';

-- forget_inputs
-- Of submissions that made no row.
DELETE FROM inputs WHERE id IN (SELECT value FROM json_each(:ids))
    AND NOT EXISTS (SELECT 1 FROM predictions p WHERE p.id = inputs.id);

-- claim
-- Takes what is still queued, for a worker that is live; which rows those were is read by the claim. By id and status,
-- not by the marker `queued`: with that a planner that believes the queue to be short would walk all of it.
UPDATE predictions SET status = 1, queued = NULL, attempt = attempt + 1, revision = revision + 1, claim = :claim,
    started_at = :now, expires_at = NULL
WHERE id IN (SELECT value FROM json_each(:ids)) AND status = 0 AND model = :model AND version = :version
    AND (expires_at IS NULL OR expires_at > :now)
    AND EXISTS (SELECT 1 FROM workers WHERE id = :worker_id AND state = 'live');

-- record_claim
-- What `claim`, the statement before, has taken: mostly all that it was asked for, and then they are not looked up.
INSERT INTO claims (id, worker_id, ids, at)
SELECT :claim, :worker_id, CASE WHEN json_array_length(:ids) = changes() THEN :ids ELSE (
    SELECT json_group_array(id) FROM predictions WHERE id IN (SELECT value FROM json_each(:ids)) AND claim = :claim) END,
    :now;

-- claimed
-- Which of the rows that it asked for a claim owns, in one answer: each row fetched by itself would cost a turn of the interpreter's lock.
SELECT json_group_array(json_array(p.id, p.line, p.size, p.shape, p.position, p.created_at, p.started_at, p.attempt,
    p.revision, p.charged, p.losses, p.max_attempts, p.execution_timeout_us, hex(i.body), i.content_type,
    i.blob_bytes))
FROM json_each(:ids) e CROSS JOIN predictions p CROSS JOIN inputs i
WHERE p.id = e.value AND p.claim = :claim AND p.status = 1 AND i.id = p.id;

-- finishing
-- The rows that the fence lets through, of ids by their claims. Nobody else writes before this transaction ends, so they
-- are still the same in its next statement.
SELECT json_group_array(json_array(p.id, p.claim, p.status, p.revision, p.attempt, p.started_at))
FROM json_each(:claims) c, json_each(c.value) e CROSS JOIN predictions p
WHERE p.id = e.value AND p.claim = c.key AND p.status IN (1, 2);

-- finish
-- Rows of one claim that end alike but for their outputs: what they share is bound once, which is three times as fast.
WITH f (id, output) AS (
VALUES (?, ?))
UPDATE predictions SET status = CAST(? AS integer), failed = nullif(CAST(? AS integer), 0), revision = revision + 1, error_code = ?,
    error_message = ?, predict_us = ?, batch_size = ?, output_type = ?, output_bytes = ?, completed_at = ?,
    output = f.output
FROM f
WHERE predictions.id = f.id AND predictions.claim = ? AND predictions.status IN (1, 2);

-- settle
-- A claim of which nothing remains is forgotten.
DELETE FROM claims WHERE id IN (SELECT value FROM json_each(:claims));

-- settle_checked
-- The same for claims that may have rows left.
DELETE FROM claims WHERE id IN (SELECT value FROM json_each(:claims)) AND NOT EXISTS (
    SELECT 1 FROM json_each(claims.ids) e CROSS JOIN predictions p
    WHERE p.id = e.value AND p.claim = claims.id AND p.status IN (1, 2));

-- ended_under
-- Rows that ended under these claims: what an earlier try of the same finish has done.
SELECT json_group_array(json_array(p.id, p.claim, p.status, p.revision, p.attempt, p.started_at, p.completed_at))
FROM json_each(:rows) r CROSS JOIN predictions p
WHERE p.id = r.value ->> 'id' AND p.claim = r.value ->> 'claim' AND p.status IN (3, 4, 5);

-- give_back
-- Back to its place in the line; canceled if that was asked for; failed if its last chance is used up.
WITH f AS (
    SELECT p.id,
        CASE WHEN p.status = 2 THEN 5 WHEN r.value ->> 'charge' AND p.charged + 1 >= p.max_attempts THEN 4 ELSE 0 END AS next,
        max(p.losses + (r.value ->> 'lost'), r.value ->> 'losses') AS losses,
        p.charged + (r.value ->> 'charge') AS charged, r.value ->> 'code' AS code, r.value ->> 'message' AS message
    FROM json_each(:rows) r CROSS JOIN predictions p
    WHERE p.id = r.value ->> 'id' AND p.claim = r.value ->> 'claim' AND p.status IN (1, 2))
UPDATE predictions SET status = f.next, revision = revision + 1, losses = f.losses, charged = f.charged,
    queued = CASE WHEN f.next = 0 THEN 1 END,
    failed = CASE WHEN f.next = 4 THEN 1 END,
    log = CASE WHEN f.next = 0 THEN coalesce(log || ',', '') || '[1,' || started_at || '],[0,' || :now || ']' ELSE log END,
    claim = CASE WHEN f.next <> 0 THEN claim END,
    started_at = CASE WHEN f.next <> 0 THEN started_at END,
    completed_at = CASE WHEN f.next <> 0 THEN :now END,
    error_code = CASE WHEN f.next = 4 THEN f.code END,
    error_message = CASE WHEN f.next = 4 THEN f.message END
FROM f
WHERE predictions.id = f.id
RETURNING id, line, priority, size, shape, position, status, revision, claim, attempt, started_at, completed_at,
    error_code, error_message;

-- dead_claims
-- Of workers that are dead or have no row, oldest first.
SELECT c.id, c.ids FROM claims c
WHERE NOT EXISTS (SELECT 1 FROM workers w WHERE w.id = c.worker_id AND w.state = 'live')
ORDER BY c.at LIMIT :limit;

-- worker_claims
-- What a worker owns, and the rows of it that have not ended.
SELECT c.id, (
    SELECT json_group_array(p.id) FROM json_each(c.ids) e CROSS JOIN predictions p
    WHERE p.id = e.value AND p.claim = c.id AND p.status IN (1, 2))
FROM claims c WHERE c.worker_id = :worker_id;

-- cancel_queued
-- By the primary key: the plus keeps the index of tenants out of it.
UPDATE predictions SET status = 5, queued = NULL, revision = revision + 1, completed_at = :now
WHERE id IN (SELECT value FROM json_each(:ids)) AND +tenant_id = :tenant_id AND status = 0
RETURNING id, revision, attempt, completed_at;

-- cancel_line
-- A page of what a line had at a position, oldest first, without items of batches.
UPDATE predictions SET status = 5, queued = NULL, revision = revision + 1, completed_at = :now
WHERE id IN (
    SELECT id FROM predictions WHERE queued AND line = :line AND position < :before AND batch_id IS NULL
    ORDER BY position, id LIMIT :limit)
RETURNING id, revision, attempt, completed_at;

-- redrive
UPDATE predictions SET {retried}
WHERE id IN (SELECT value FROM json_each(:ids)) AND status = CAST(:status AS integer) AND {retriable}
RETURNING id, line, priority, size, shape, position;

-- delete_shadows
UPDATE predictions SET {forgotten_shadow}
WHERE shadow_of = :id AND deleted_at IS NULL;

-- delete_shadow_inputs
DELETE FROM inputs WHERE id IN (SELECT id FROM predictions WHERE shadow_of = :id);

-- canceling
SELECT id, claim FROM predictions WHERE id IN (SELECT value FROM json_each(:ids)) AND status = 2;

-- progress
-- What models said of items that they still run.
UPDATE predictions SET progress = r.progress, revision = revision + 1
FROM (SELECT value ->> 'id' AS id, value ->> 'claim' AS claim, value ->> 'progress' AS progress FROM json_each(:rows)) r
WHERE predictions.id = r.id AND predictions.claim = r.claim AND predictions.status IN (1, 2);

-- expire
UPDATE predictions SET status = 6, queued = NULL, revision = revision + 1, completed_at = :now
WHERE id IN (
    SELECT id FROM predictions WHERE queued AND expires_at IS NOT NULL AND expires_at <= :now
    ORDER BY expires_at LIMIT :limit)
RETURNING id, revision, attempt, completed_at;

-- purge_page
-- One page of the oldest ids, and of it what ended before a time. Ids begin with the time of creation, so that no index
-- by completion is needed: it would make every finish write to it. Who still owes a webhook stays, and so do the
-- items of a batch until it may go.
SELECT max(id), json_group_array(id) FILTER (WHERE status IN (3, 4, 5, 6) AND completed_at < :before AND NOT owed)
FROM (
    SELECT id, status, completed_at,
        EXISTS (SELECT 1 FROM deliveries d WHERE d.prediction_id = predictions.id AND d.state = 0)
            OR EXISTS (SELECT 1 FROM batches b WHERE b.id = batch_id AND coalesce(b.completed_at, :before) >= :before)
            AS owed
    FROM predictions WHERE id > :after AND id < :until ORDER BY id LIMIT :limit);

-- purge_blobs
-- Of rows that are about to go, those that have something in the blob store.
SELECT json_group_array(p.id) FROM json_each(:ids) e CROSS JOIN predictions p
WHERE p.id = e.value AND (p.output_bytes IS NOT NULL
    OR EXISTS (SELECT 1 FROM inputs i WHERE i.id = p.id AND i.blob_bytes IS NOT NULL));

-- with_blobs
-- Of ids that have something in the blob store, those whose rows are there for it.
SELECT p.id FROM json_each(:ids) e CROSS JOIN predictions p WHERE p.id = e.value AND p.deleted_at IS NULL;

-- purge_inputs
DELETE FROM inputs WHERE id IN (SELECT value FROM json_each(:ids));

-- purge_deliveries
DELETE FROM deliveries WHERE prediction_id IN (SELECT value FROM json_each(:ids));

-- purge_predictions
DELETE FROM predictions WHERE id IN (SELECT value FROM json_each(:ids));

-- read
SELECT json_group_array(json_array(id, tenant_id, model, version, alias, line, position, priority, status, revision,
    attempt, max_attempts, claim, metadata, CASE WHEN :outputs AND output IS NOT NULL THEN hex(output) END,
    error_code, error_message, created_at, started_at, completed_at, expires_at, predict_us, batch_size,
    CASE WHEN webhook IS NULL THEN 0 ELSE coalesce(webhook_status, 1) END, progress, log, deleted_at,
    batch_id, custom_id, output_type, output_bytes, shadow_of))
FROM predictions WHERE id IN (SELECT value FROM json_each(:ids));

-- oldest_queued
SELECT json_group_array(json_array(priority, id, size, shape, position)) FROM (
    SELECT priority, id, size, shape, position FROM predictions
    WHERE queued AND line = :line AND position < :before AND (expires_at IS NULL OR expires_at > :now)
    ORDER BY position, id LIMIT :limit);

-- waiting
-- Which of some lines have a queued row before a position, one step of the index each.
SELECT r.value ->> 'line' FROM json_each(:marks) r
WHERE EXISTS (
    SELECT 1 FROM predictions WHERE queued AND line = r.value ->> 'line' AND position < r.value ->> 'before');

-- depth
-- How many wait in some lines, counted no further than a limit.
SELECT count(*) FROM (
    SELECT 1 FROM predictions WHERE queued AND line IN (SELECT value FROM json_each(:lines)) LIMIT :limit);

-- first_positions
SELECT json_group_array(position) FROM (
    SELECT position FROM predictions WHERE queued AND line = :line ORDER BY position, id LIMIT :limit);

-- backlog
-- Counted so far and no further: a deep line costs no more than a busy one.
SELECT l.value,
    (SELECT count(*) FROM (SELECT 1 FROM predictions WHERE queued AND line = l.value LIMIT :at_most)),
    (SELECT min(position) FROM predictions WHERE queued AND line = l.value)
FROM json_each(:lines) l;

-- due_deliveries
-- The longest due of one receiver.
SELECT json_group_array(id) FROM (
    SELECT id FROM deliveries WHERE state = 0 AND receiver = :receiver AND due_at <= :now ORDER BY due_at LIMIT :room);

-- lease_deliveries
-- They are due again when the lease ends, should their deliverer be gone by then.
UPDATE deliveries SET leased = 1, attempts = attempts + 1, step = step + 1, due_at = :now + :lease
WHERE id IN (SELECT value FROM json_each(:ids));

-- leased_deliveries
SELECT json_group_array(json_array(id, tenant_id, event, url, receiver, at, attempts, step, log, record,
    CASE WHEN output IS NOT NULL THEN hex(output) END,
    (SELECT p.traceparent FROM predictions p WHERE p.id = prediction_id)))
FROM deliveries WHERE id IN (SELECT value FROM json_each(:ids));

-- record_deliveries
-- What came of attempts, unless another has begun meanwhile. Not `state = 0`: a planner that believes few to be pending
-- would walk the index of all that are.
WITH r AS MATERIALIZED (
    SELECT value ->> 'id' AS id, value ->> 'attempts' AS attempts, value ->> 'state' AS state, value ->> 'delay' AS delay,
        value ->> 'log' AS log
    FROM json_each(:rows))
UPDATE deliveries SET state = r.state, leased = NULL, due_at = :now + r.delay, log = r.log
FROM r WHERE deliveries.id = r.id AND deliveries.attempts = r.attempts AND deliveries.state < 1;

-- renew_deliveries
-- Those that are still being sent, in the same attempt.
UPDATE deliveries SET due_at = :now + :lease
FROM json_each(:rows) r
WHERE deliveries.id = r.value ->> 'id' AND attempts = r.value ->> 'attempts' AND state = 0 AND leased;

-- note_webhooks
-- What a prediction's receiver was told, once it is owed nothing more; events before an explicit retry do not count.
UPDATE predictions SET revision = revision + 1, webhook_status = d.status
FROM (
    SELECT prediction_id, CASE WHEN min(state) = 0 THEN 1 WHEN max(state) = 2 THEN 3 ELSE 2 END AS status
    FROM deliveries JOIN predictions p ON p.id = prediction_id
    WHERE prediction_id IN (SELECT value FROM json_each(:ids)) AND at >= p.position GROUP BY prediction_id) d
WHERE id = d.prediction_id AND (predictions.status >= 3 OR webhook_events & 1 = 0)
    AND coalesce(webhook_status, 1) <> d.status;

-- insert_items
-- Lines of a batch's file: queued without the mark, or failed for what is wrong with them.
INSERT INTO predictions (id, tenant_id, model, version, alias, line, position, created_at, completed_at, priority, size,
    shape, max_attempts, metadata, status, queued, failed, error_code, error_message, batch_id, batch_index, custom_id)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- item_hints
SELECT json_group_array(json_array(batch_index, priority, id, size, shape, position)) FROM (
    SELECT batch_index, priority, id, size, shape, position FROM predictions
    WHERE batch_id = :id AND batch_index > :after AND status = 0 ORDER BY batch_index LIMIT :limit);

-- item_results
SELECT json_group_array(json_array(batch_index, id, custom_id, status, CASE WHEN output IS NOT NULL THEN hex(output) END,
    error_code, error_message, claim, output_type, output_bytes, deleted_at)) FROM (
    SELECT batch_index, id, custom_id, status, output, error_code, error_message, claim, output_type, output_bytes, deleted_at
    FROM predictions WHERE batch_id = :id AND batch_index > :after ORDER BY batch_index LIMIT :limit);

-- end_items
UPDATE predictions SET status = CASE WHEN CAST(:expired AS integer) = 1 THEN 6 ELSE 5 END, queued = NULL,
    revision = revision + 1, completed_at = :now
WHERE id IN (
    SELECT id FROM predictions WHERE batch_id = :id AND batch_index > :after AND status = 0
    ORDER BY batch_index LIMIT :limit)
RETURNING batch_index, id, revision, attempt, completed_at;

-- cancel_items
UPDATE predictions SET status = 2, revision = revision + 1,
    log = coalesce(log || ',', '') || '[1,' || started_at || '],[2,' || :now || ']'
WHERE id IN (
    SELECT id FROM predictions WHERE batch_id = :id AND batch_index > :after AND status = 1
    ORDER BY batch_index LIMIT :limit)
RETURNING id;

-- recent_failures
-- The last failures of all tenants, one step of the index to each tenant and its newest from there; how many failed
-- lately comes with every row.
WITH RECURSIVE t (tenant_id, n) AS (
    SELECT min(tenant_id), 1 FROM predictions WHERE failed
    UNION ALL
    SELECT (SELECT min(p.tenant_id) FROM predictions p WHERE p.failed AND p.tenant_id > t.tenant_id), n + 1
    FROM t WHERE t.tenant_id IS NOT NULL AND n < :tenants)
SELECT f.id, f.tenant_id, f.model, f.version, f.attempt, f.error_code, substr(f.error_message, 1, :characters),
    f.created_at, f.completed_at, f.batch_id,
    count(*) FILTER (WHERE f.completed_at >= :now - :lately) OVER ()
FROM t CROSS JOIN predictions f ON f.id IN (
    SELECT p.id FROM predictions p
    WHERE p.failed AND (p.tenant_id, p.id) <= (t.tenant_id, :last) AND p.tenant_id >= t.tenant_id
    ORDER BY p.tenant_id DESC, p.id DESC LIMIT :scan)
WHERE f.shadow_of IS NULL
ORDER BY f.completed_at DESC, f.id DESC LIMIT :limit;
