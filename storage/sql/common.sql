-- register_worker
-- A worker's row appears when its process starts; its id is new at every start.
INSERT INTO workers (id, device, host, pid, state, beat, started_at)
VALUES (:id, :device, :host, :pid, 'live', 0, :now)
ON CONFLICT (id) DO NOTHING;

-- beat
-- A dead worker cannot come back: no row changes, and the worker exits.
UPDATE workers SET beat = beat + 1 WHERE id = :id AND state = 'live';

-- served
-- What a worker has done so far with one model version.
UPDATE placements SET ended = :ended, rate = :rate WHERE worker_id = :worker_id AND model = :model AND version = :version;

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

-- register_version
-- A version as it stands in the folder. What its loaded model said of itself is kept while neither the folder's files
-- nor its manifest have changed.
INSERT INTO versions (model, version, path, sha256, framework, declared, manifest, error, created_at)
VALUES (:model, :version, :path, :sha256, :framework, :manifest, :manifest, :error, :now)
ON CONFLICT (model, version) DO UPDATE SET
    path = excluded.path,
    framework = CASE WHEN versions.sha256 = excluded.sha256 AND versions.declared = excluded.declared
        THEN versions.framework ELSE excluded.framework END,
    manifest = CASE WHEN versions.sha256 = excluded.sha256 AND versions.declared = excluded.declared
        THEN versions.manifest ELSE excluded.manifest END,
    sha256 = excluded.sha256,
    declared = excluded.declared,
    error = excluded.error;

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
-- When any worker last made it ready.
UPDATE versions SET loaded_at = :now WHERE model = :model AND version = :version;

-- all_versions
SELECT model, version, path, sha256, framework, manifest, error, created_at, loaded_at FROM versions
ORDER BY model, created_at, version;

-- all_placements
-- A placement counts while its worker lives.
SELECT p.model, p.version, p.worker_id, p.device, p.state, p.reason, p.loaded_at, p.memory_bytes, p.ended, p.rate
FROM placements p JOIN workers w ON w.id = p.worker_id
WHERE w.state = 'live'
ORDER BY p.model, p.version, p.worker_id;

-- read_input
SELECT i.body FROM predictions p JOIN inputs i ON i.id = p.id WHERE p.id = :id AND p.tenant_id = :tenant_id;

-- count_by_status
SELECT status, count(*) FROM predictions GROUP BY status;

-- hold_lease
-- Taken when nobody holds it, when it has run out by the database's clock, or by its holder again.
INSERT INTO leases (name, holder, until) VALUES (:lease, :holder, :now + :duration)
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until
WHERE leases.holder = excluded.holder OR leases.until < :now;

-- add_key
-- A key is known by its digest: the bootstrap key is added at every start, and stays revoked once it is.
INSERT INTO keys (id, name, tenant_id, scopes, prefix, digest, created_at)
VALUES (:id, :label, :tenant_id, :scopes, :prefix, :digest, :now)
ON CONFLICT DO NOTHING;

-- all_keys
SELECT id, name, tenant_id, scopes, prefix, digest, created_at, revoked_at FROM keys ORDER BY created_at, id;

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
