-- register_worker
-- A worker's row appears when its process starts; its id is new at every start.
INSERT INTO workers (id, device, host, pid, state, beat, started_at)
VALUES (:id, :device, :host, :pid, 'live', 0, :now)
ON CONFLICT (id) DO NOTHING;

-- beat
-- A dead worker cannot come back: no row changes, and the worker exits.
UPDATE workers SET beat = beat + 1 WHERE id = :id AND state = 'live';

-- device_stats
UPDATE workers SET stats = :stats WHERE id = :id;

-- devices
SELECT id, device, host, started_at, stats FROM workers WHERE state = 'live' ORDER BY host, device, id;

-- served
-- What a worker has done so far with one model version.
UPDATE placements SET ended = :ended, rate = :rate, stats = :stats WHERE worker_id = :worker_id AND model = :model AND version = :version;

-- beats
-- How often each live worker has beaten.
SELECT id, beat FROM workers WHERE state = 'live';

-- mark_dead
-- Whoever saw the process die declares it dead at once.
UPDATE workers SET state = 'dead' WHERE id = :id AND state = 'live';

-- mark_dead_at
-- Whoever saw the beat stand still declares the worker dead, unless it has beaten since.
UPDATE workers SET state = 'dead' WHERE id = :id AND state = 'live' AND beat = :beat;

-- forget_worker
-- A worker that ended well leaves no row behind.
DELETE FROM workers WHERE id = :id;

-- forget_dead
-- A dead worker's row goes when nothing is claimed in its name any more.
DELETE FROM workers WHERE state = 'dead' AND NOT EXISTS (SELECT 1 FROM claims WHERE claims.worker_id = workers.id);

-- forget_placements
-- Nothing is loaded on a worker that has no row.
DELETE FROM placements WHERE NOT EXISTS (SELECT 1 FROM workers WHERE workers.id = placements.worker_id);

-- forget_holdings
DELETE FROM holdings WHERE NOT EXISTS (SELECT 1 FROM workers WHERE workers.id = holdings.worker_id);

-- hold_version
-- Which files a worker has of a version.
INSERT INTO holdings (worker_id, model, version, digest) VALUES (:worker_id, :model, :version, :digest)
ON CONFLICT (worker_id, model, version) DO UPDATE SET digest = excluded.digest;

-- let_go_version
DELETE FROM holdings WHERE worker_id = :worker_id AND model = :model AND version = :version;

-- register_version
-- A version as it stands in the folder. What its loaded model said of itself is kept while neither the folder's files
-- nor its manifest have changed. The digest gives way to another only when no other worker that lives has those files
-- any more, and never where it is pinned. `sha256` is what releases before 0008 compare: of the model file alone.
INSERT INTO versions (model, version, path, sha256, digest, framework, declared, manifest, error, created_at)
VALUES (:model, :version, :path, :sha256, :digest, :framework, :manifest, :manifest, :error, :now)
ON CONFLICT (model, version) DO UPDATE SET
    path = excluded.path,
    framework = CASE WHEN coalesce(versions.digest, excluded.digest) = excluded.digest AND versions.declared = excluded.declared
        THEN versions.framework ELSE excluded.framework END,
    manifest = CASE WHEN coalesce(versions.digest, excluded.digest) = excluded.digest AND versions.declared = excluded.declared
        THEN versions.manifest ELSE excluded.manifest END,
    loaded_at = CASE WHEN coalesce(versions.digest, excluded.digest) = excluded.digest THEN versions.loaded_at END,
    memory_bytes = CASE WHEN coalesce(versions.digest, excluded.digest) = excluded.digest THEN versions.memory_bytes END,
    sha256 = excluded.sha256,
    digest = excluded.digest,
    declared = excluded.declared,
    error = excluded.error
WHERE coalesce(versions.digest, '') IN ('', excluded.digest) OR (:pinned = 0 AND NOT EXISTS (
    SELECT 1 FROM holdings h JOIN workers w ON w.id = h.worker_id
    WHERE h.model = :model AND h.version = :version AND h.digest = versions.digest AND h.worker_id <> :worker_id
        AND w.state = 'live'));

-- registered_digest
SELECT digest FROM versions WHERE model = :model AND version = :version;

-- describe_version
-- After a load: what the graph said of inputs and outputs.
UPDATE versions SET framework = :framework, manifest = :manifest WHERE model = :model AND version = :version;

-- place
-- A worker's own word on a version it was told to load.
INSERT INTO placements (worker_id, model, version, device, state, reason, loaded_at, memory_bytes)
VALUES (:worker_id, :model, :version, :device, :state, :reason, CASE WHEN :ready = 1 THEN :now END, :memory_bytes)
ON CONFLICT (worker_id, model, version) DO UPDATE SET
    device = excluded.device,
    state = excluded.state,
    reason = excluded.reason,
    loaded_at = coalesce(excluded.loaded_at, placements.loaded_at),
    memory_bytes = excluded.memory_bytes;

-- loaded_version
-- When any worker last made it ready, and what an instance took.
UPDATE versions SET loaded_at = :now, memory_bytes = coalesce(:memory_bytes, memory_bytes) WHERE model = :model AND version = :version;

-- all_versions
SELECT model, version, path, coalesce(digest, sha256), framework, manifest, error, created_at, loaded_at, memory_bytes, wish, wished_at FROM versions
ORDER BY model, created_at, version;

-- all_placements
-- A placement counts while its worker lives.
SELECT p.model, p.version, p.worker_id, p.device, p.state, p.reason, p.loaded_at, p.memory_bytes, p.ended, p.rate, p.stats
FROM placements p JOIN workers w ON w.id = p.worker_id
WHERE w.state = 'live'
ORDER BY p.model, p.version, p.worker_id;

-- wish
-- What an operator wants of a version; null: as the policy has it.
UPDATE versions SET wish = :wish, wished_at = :now WHERE model = :model AND version = :version;

-- all_routes
SELECT model, traffic, paused FROM routes;

-- all_aliases
SELECT model, alias, version FROM aliases;

-- point_alias
INSERT INTO aliases (model, alias, version) VALUES (:model, :alias, :version)
ON CONFLICT (model, alias) DO UPDATE SET version = excluded.version;

-- forget_alias
DELETE FROM aliases WHERE model = :model AND alias = :alias;

-- split_traffic
INSERT INTO routes (model, traffic) VALUES (:model, :traffic)
ON CONFLICT (model) DO UPDATE SET traffic = excluded.traffic;

-- pause
INSERT INTO routes (model, paused) VALUES (:model, :paused)
ON CONFLICT (model) DO UPDATE SET paused = excluded.paused;

-- read_input
SELECT i.body, i.content_type, i.blob_bytes FROM predictions p JOIN inputs i ON i.id = p.id WHERE p.id = :id AND p.tenant_id = :tenant_id;

-- cancel
-- Queued: canceled at once. In progress: canceling, until the device lets go of it.
UPDATE predictions SET status = CASE status WHEN 0 THEN 5 ELSE 2 END, queued = NULL, revision = revision + 1,
    completed_at = CASE status WHEN 0 THEN :now END,
    log = CASE status WHEN 1 THEN coalesce(log || ',', '') || '[1,' || started_at || '],[2,' || :now || ']' ELSE log END
WHERE id = :id AND tenant_id = :tenant_id AND status IN (0, 1) AND shadow_of IS NULL;

-- retried
-- From the beginning, but for the attempts made. The log is told what the row forgets; if it ends with a cancel, the
-- claim before that is in it already. An entry has twenty characters.
status = 0, queued = (1 = 1), failed = NULL, revision = revision + 1, claim = NULL,
    position = :now, expires_at = :now + queue_timeout_us, charged = 0, losses = 0, started_at = NULL,
    completed_at = NULL, error_code = NULL, error_message = NULL, output = NULL, predict_us = NULL, batch_size = NULL,
    progress = NULL, webhook_status = NULL,
    log = coalesce(log || ',', '')
        || CASE WHEN started_at IS NULL OR substr(log, length(log) - 19, 3) = '[2,' THEN ''
            ELSE '[1,' || started_at || '],' END
        || '[' || status || ',' || completed_at || '],[0,' || :now || ']';

-- retriable
-- Not an item of a batch, which has been counted, nor a shadow, of which nobody knows.
status IN (4, 5, 6) AND deleted_at IS NULL AND batch_id IS NULL AND shadow_of IS NULL;

-- retry
UPDATE predictions SET {retried}
WHERE id = :id AND tenant_id = :tenant_id AND {retriable};

-- redrive_page
-- Those to be retried among the `scan` next rows of all tenants, oldest first within each.
SELECT CAST(id AS text) FROM (
    SELECT tenant_id, id, model, version, status, error_code, completed_at, deleted_at, batch_id, shadow_of
    FROM predictions WHERE (tenant_id, id) > (:from_tenant, :after)
    ORDER BY tenant_id, id LIMIT :scan) p
WHERE {redrivable}
ORDER BY p.tenant_id, p.id LIMIT :limit;

-- redrive_failed
-- The same of failed ones, which have an index.
SELECT CAST(id AS text) FROM (
    SELECT tenant_id, id, model, version, status, error_code, completed_at, deleted_at, batch_id, shadow_of
    FROM predictions WHERE (tenant_id, id) > (:from_tenant, :after) AND failed
    ORDER BY tenant_id, id LIMIT :scan) p
WHERE {redrivable}
ORDER BY p.tenant_id, p.id LIMIT :limit;

-- redrivable
{retriable} AND status = CAST(:status AS integer) AND completed_at >= :since AND completed_at < :until
    AND tenant_id = coalesce(CAST(:tenant AS text), tenant_id)
    AND model = coalesce(CAST(:model AS text), model) AND version = coalesce(CAST(:version AS text), version)
    AND (CAST(:code AS text) IS NULL OR error_code = CAST(:code AS text));

-- redrive_scanned
-- The last row that a page has looked at, where it looked at as many as it may.
SELECT tenant_id, CAST(id AS text) FROM predictions WHERE (tenant_id, id) > (:from_tenant, :after)
ORDER BY predictions.tenant_id, predictions.id LIMIT 1 OFFSET :skip;

-- redrive_scanned_failed
SELECT tenant_id, CAST(id AS text) FROM predictions WHERE (tenant_id, id) > (:from_tenant, :after) AND failed
ORDER BY predictions.tenant_id, predictions.id LIMIT 1 OFFSET :skip;

-- tenant_of
SELECT tenant_id FROM predictions WHERE id = :id;

-- forgotten
-- What it was about is gone; that it was there is not.
deleted_at = :now, revision = revision + 1, failed = NULL, metadata = '{}', output = NULL,
    output_type = NULL, output_bytes = NULL,
    error_code = NULL, error_message = NULL, progress = NULL, log = NULL;

-- delete_prediction
UPDATE predictions SET {forgotten}
WHERE id = :id AND tenant_id = :tenant_id AND status IN (3, 4, 5, 6) AND deleted_at IS NULL AND shadow_of IS NULL;

-- delete_input
DELETE FROM inputs WHERE id = :id;

-- forgotten_shadow
-- One that has not ended is canceled, and its claim with it: what a worker makes of it is not written.
{forgotten}, status = CASE WHEN status < 3 THEN 5 ELSE status END, queued = NULL,
    claim = CASE WHEN status < 3 THEN NULL ELSE claim END, completed_at = coalesce(completed_at, :now);

-- shadows_of
SELECT CAST(id AS text) FROM predictions WHERE shadow_of = :id;

-- list_shadows
-- Of a version, newest first. It is compared together with the id, so that the index of shadows is walked.
SELECT CAST(id AS text), CAST(shadow_of AS text) FROM predictions
WHERE (model, version, id) < (:model, :version, :after) AND (model, version, id) >= (:model, :version, :first)
    AND shadow_of IS NOT NULL
ORDER BY predictions.model DESC, predictions.version DESC, predictions.id DESC LIMIT :limit;

-- delete_told
-- Deliveries that are still owed are sent all the same: what they tell has happened.
DELETE FROM deliveries WHERE prediction_id = :id AND state <> 0;

-- list_predictions
-- One page, newest first, of what is among the `scan` next rows: a filter that few rows pass does not read them all. The
-- tenant is compared together with the id: with an equality a planner may walk all tenants' rows by their ids alone.
SELECT CAST(id AS text) FROM (
    SELECT tenant_id, id, model, version, status, deleted_at, shadow_of FROM predictions
    WHERE (tenant_id, id) < (:tenant_id, :after) AND tenant_id >= :tenant_id
    ORDER BY tenant_id DESC, id DESC LIMIT :scan) p
WHERE deleted_at IS NULL AND shadow_of IS NULL AND status = coalesce(CAST(:status AS integer), status)
    AND model = coalesce(CAST(:model AS text), model) AND version = coalesce(CAST(:version AS text), version)
ORDER BY p.tenant_id DESC, p.id DESC LIMIT :limit;

-- list_failed
-- The same of failed ones, which have an index.
SELECT CAST(id AS text) FROM (
    SELECT tenant_id, id, model, version, shadow_of FROM predictions
    WHERE (tenant_id, id) < (:tenant_id, :after) AND tenant_id >= :tenant_id AND failed
    ORDER BY tenant_id DESC, id DESC LIMIT :scan) p
WHERE shadow_of IS NULL AND model = coalesce(CAST(:model AS text), model) AND version = coalesce(CAST(:version AS text), version)
ORDER BY p.tenant_id DESC, p.id DESC LIMIT :limit;

-- list_items
-- The same of one batch, the last line first.
SELECT CAST(id AS text) FROM (
    SELECT batch_index, tenant_id, id, model, version, status, deleted_at FROM predictions
    WHERE batch_id = :batch_id
        AND batch_index < coalesce((SELECT batch_index FROM predictions WHERE id = :after), 9223372036854775807)
    ORDER BY batch_index DESC LIMIT :scan) p
WHERE tenant_id = :tenant_id AND deleted_at IS NULL AND status = coalesce(CAST(:status AS integer), status)
    AND model = coalesce(CAST(:model AS text), model) AND version = coalesce(CAST(:version AS text), version)
ORDER BY batch_index DESC LIMIT :limit;

-- scanned
-- The last row that a page has looked at, where it looked at as many as it may.
SELECT CAST(id AS text) FROM predictions WHERE (tenant_id, id) < (:tenant_id, :after) AND tenant_id >= :tenant_id
ORDER BY predictions.tenant_id DESC, predictions.id DESC LIMIT 1 OFFSET :skip;

-- scanned_failed
SELECT CAST(id AS text) FROM predictions WHERE (tenant_id, id) < (:tenant_id, :after) AND tenant_id >= :tenant_id
    AND failed
ORDER BY predictions.tenant_id DESC, predictions.id DESC LIMIT 1 OFFSET :skip;

-- scanned_items
SELECT CAST(id AS text) FROM predictions
WHERE batch_id = :batch_id
    AND batch_index < coalesce((SELECT batch_index FROM predictions WHERE id = :after), 9223372036854775807)
ORDER BY batch_index DESC LIMIT 1 OFFSET :skip;

-- hint
SELECT CAST(id AS text), size, shape, position FROM predictions WHERE id = :id AND status = 0;

-- count_by_status
SELECT status, count(*) FROM predictions GROUP BY status;

-- hold_lease
-- Taken when nobody holds it, when it has run out by the database's clock, or by its holder again.
INSERT INTO leases (name, holder, until) VALUES (:lease, :holder, :now + :duration)
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until
WHERE leases.holder = excluded.holder OR leases.until < :now;

-- lease_left
SELECT until - :now FROM leases WHERE name = :lease;

-- admit_tenant
-- Classes are given in turn. Two tenants that come at the same moment may get the same one, which does no harm.
-- SQLite reads ON after a FROM as a join's without the WHERE.
INSERT INTO tenants (tenant_id, class) SELECT CAST(:tenant_id AS text), count(*) % :classes FROM tenants WHERE true
ON CONFLICT (tenant_id) DO NOTHING;

-- class_of
SELECT class FROM tenants WHERE tenant_id = :tenant_id;

-- weigh_tenant
UPDATE tenants SET weight = :weight WHERE tenant_id = :tenant_id;

-- classes
SELECT class, max(weight) FROM tenants GROUP BY class ORDER BY class;

-- add_key
-- A key is known by its digest: the bootstrap key is added at every start, and stays revoked once it is.
INSERT INTO keys (id, name, tenant_id, scopes, prefix, digest, created_at, rate)
VALUES (:id, :label, :tenant_id, :scopes, :prefix, :digest, :now, :rate)
ON CONFLICT DO NOTHING;

-- all_keys
SELECT id, name, k.tenant_id, scopes, prefix, digest, created_at, revoked_at, rate, coalesce(weight, 1)
FROM keys k LEFT JOIN tenants t ON t.tenant_id = k.tenant_id
ORDER BY created_at, id;

-- revoke_key
UPDATE keys SET revoked_at = coalesce(revoked_at, :now) WHERE id = :id;

-- due_receivers
-- Those with a delivery that is due, one step of the index each however many wait.
WITH RECURSIVE r (receiver) AS (
    SELECT min(receiver) FROM deliveries WHERE state = 0
    UNION ALL
    SELECT (SELECT min(d.receiver) FROM deliveries d WHERE d.state = 0 AND d.receiver > r.receiver)
    FROM r WHERE r.receiver IS NOT NULL)
SELECT receiver FROM r
WHERE receiver IS NOT NULL
    AND EXISTS (SELECT 1 FROM deliveries d WHERE d.state = 0 AND d.receiver = r.receiver AND d.due_at <= :now);

-- owed_webhooks
-- How many wait, counted so far, and when the first of them is due, of so many receivers.
WITH RECURSIVE r (receiver, n) AS (
    SELECT min(receiver), 1 FROM deliveries WHERE state = 0
    UNION ALL
    SELECT (SELECT min(d.receiver) FROM deliveries d WHERE d.state = 0 AND d.receiver > r.receiver), n + 1
    FROM r WHERE r.receiver IS NOT NULL AND n < 1000)
SELECT (SELECT count(*) FROM (SELECT 1 FROM deliveries WHERE state = 0 LIMIT 10000) counted),
    (SELECT min((SELECT min(d.due_at) FROM deliveries d WHERE d.state = 0 AND d.receiver = r.receiver)) FROM r);

-- redeliver
-- At once, and the schedule from its beginning; one that is under way is left alone.
UPDATE deliveries SET state = 0, step = 0, due_at = :now WHERE id = :id AND leased IS NULL;

-- delivery
SELECT id, prediction_id, event, url, at, due_at, state, log FROM deliveries WHERE id = :id AND tenant_id = :tenant_id;

-- deliveries_of
SELECT id, prediction_id, event, url, at, due_at, state, log FROM deliveries WHERE prediction_id = :prediction_id
    AND tenant_id = :tenant_id
ORDER BY at, id;

-- webhook_secret
SELECT secret, previous, rotated_at FROM webhook_secrets WHERE tenant_id = :tenant_id;

-- add_webhook_secret
-- Of several that make one at once, the first is kept.
INSERT INTO webhook_secrets (tenant_id, secret) VALUES (:tenant_id, :secret) ON CONFLICT (tenant_id) DO NOTHING;

-- rotate_webhook_secret
INSERT INTO webhook_secrets (tenant_id, secret, previous, rotated_at) VALUES (:tenant_id, :secret, :previous, :now)
ON CONFLICT (tenant_id) DO UPDATE SET
    secret = excluded.secret, previous = excluded.previous, rotated_at = excluded.rotated_at;

-- begin_batch
-- Of several that come with one idempotency key, the first is the batch.
INSERT INTO batches (id, tenant_id, model, version, alias, line, priority, max_attempts, window_us, webhook,
    idempotency_key, idempotency_digest, digest, created_at, touched_at)
VALUES (:id, :tenant_id, :model, :version, :alias, :line, :priority, :max_attempts, :window_us, :webhook,
    :idempotency_key, :idempotency_digest, :digest, :now, :now)
ON CONFLICT DO NOTHING;

-- read_batch
SELECT * FROM batches WHERE id = :id;

-- keyed_batch
SELECT * FROM batches WHERE tenant_id = :tenant_id AND idempotency_key = :key;

-- open_batches
-- All that somebody has to look after.
SELECT * FROM batches WHERE completed_at IS NULL ORDER BY id;

-- newest_batches
-- Of all tenants, whatever their state: their ids are their age.
SELECT * FROM batches ORDER BY id DESC LIMIT :limit;

-- list_batches
SELECT * FROM batches WHERE (tenant_id, id) < (:tenant_id, :after) AND tenant_id >= :tenant_id
    AND status = coalesce(CAST(:status AS integer), status)
ORDER BY batches.tenant_id DESC, batches.id DESC LIMIT :limit;

-- advance_batch
-- A block is stored once, after the one before it, while the batch still takes any.
UPDATE batches SET blocks = blocks + 1, digest = :after, last_line = :last_line, total = total + :items,
    touched_at = :now
WHERE id = :id AND blocks = :number AND digest = :before AND status = 0 AND ending IS NULL;

-- seal_batch
UPDATE batches SET status = 1, sealed_at = :now, touched_at = :now, expires_at = :now + window_us,
    revision = revision + 1
WHERE id = :id AND blocks = :blocks AND digest = :digest AND total > 0 AND status = 0 AND ending IS NULL;

-- abandon_batch
-- Its key is free for another try.
UPDATE batches SET ending = 4, error = :reason, idempotency_key = NULL, revision = revision + 1
WHERE id = :id AND status = 0 AND ending IS NULL AND touched_at <= :now - :untouched;

-- cancel_batch
UPDATE batches SET status = 2, ending = 5, revision = revision + 1
WHERE id = :id AND tenant_id = :tenant_id AND status IN (0, 1) AND coalesce(ending, 6) = 6;

-- expire_batch
UPDATE batches SET ending = 6, revision = revision + 1
WHERE id = :id AND status = 1 AND ending IS NULL AND expires_at <= :now;

-- feed_batch
UPDATE batches SET fed = :to WHERE id = :id AND fed = :fed AND status = 1 AND ending IS NULL;

-- count_batch
UPDATE batches SET counted = :counted, succeeded = succeeded + :succeeded, failed = failed + :failed,
    canceled = canceled + :canceled, expired = expired + :expired, ahead = :ahead, rate = :rate, revision = revision + 1
WHERE id = :id AND counted = :before AND completed_at IS NULL;

-- complete_batch
-- Once: all that came in has ended, and nothing more will come in.
UPDATE batches SET completed_at = :now, ahead = NULL, revision = revision + 1,
    status = CASE WHEN ending IS NULL OR ending = 6 AND expired = 0 THEN 3 ELSE ending END
WHERE id = :id AND completed_at IS NULL AND counted >= last_line AND (sealed_at IS NOT NULL OR ending IS NOT NULL);

-- owe_batch
INSERT INTO deliveries (id, prediction_id, tenant_id, event, url, receiver, at, due_at, record)
VALUES (:id, :batch_id, :tenant_id, :event, :url, :receiver, :at, :at, :record)
ON CONFLICT DO NOTHING;

-- purge_batches
-- A batch outlives its items, and what it still owes.
DELETE FROM batches WHERE completed_at < :before
    AND NOT EXISTS (SELECT 1 FROM predictions p WHERE p.batch_id = batches.id)
    AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.prediction_id = batches.id);

-- first_unended
-- Of the items between two lines, in their order.
SELECT batch_index FROM predictions
WHERE batch_id = :id AND batch_index > :after AND batch_index <= :until AND status < 3
ORDER BY batch_index LIMIT 1;

-- count_items
-- How those between two lines have ended.
SELECT status, count(*) FROM predictions
WHERE batch_id = :id AND batch_index > :after AND batch_index <= :until AND status >= 3 GROUP BY status;

-- farthest_item
-- The last that is not where it was when it came.
SELECT batch_index FROM predictions
WHERE batch_id = :id AND batch_index > :after AND batch_index <= :fed AND status > 0 AND attempt > 0
ORDER BY batch_index DESC LIMIT 1;
