-- name: set_up
-- The server's own limits, below the client's deadline; a commit that is reported must survive a crash.
SELECT set_config('statement_timeout', %(deadline)s, false), set_config('lock_timeout', '3s', false),
    set_config('idle_in_transaction_session_timeout', '15s', false), set_config('synchronous_commit', 'on', false),
    set_config('TimeZone', 'UTC', false)

-- name: series_ids
-- Names that are known; those that are not are missing from the answer.
SELECT s.device_id, s.metric_name, s.id
FROM series s JOIN unnest(%(devices)s::text[], %(metrics)s::text[]) AS wanted (device_id, metric_name) USING (device_id, metric_name)

-- name: add_series
-- In one order everywhere, so that two recorders adding the same names do not deadlock.
INSERT INTO series (device_id, metric_name)
SELECT device_id, metric_name FROM unnest(%(devices)s::text[], %(metrics)s::text[]) AS new (device_id, metric_name) ORDER BY 1, 2
ON CONFLICT DO NOTHING

-- name: add_telemetry
-- Arrays in binary form, built by column; `original` may be shorter than the others, the rest is null.
INSERT INTO telemetry (series_id, ts, disc, value, quality, flags, original)
SELECT * FROM unnest(%b::integer[], %b::timestamptz[], %b::bigint[], %b::double precision[], %b::smallint[], %b::smallint[], %b::text[])
ON CONFLICT DO NOTHING

-- name: copy_telemetry
-- For pages of new readings: half the work of the query above, but a reading that is there already fails it.
COPY telemetry (series_id, ts, disc, value, quality, flags) FROM STDIN (FORMAT binary)

-- name: add_anomalies
-- A row is a function of its reading, so that one that is there already is the same.
INSERT INTO anomaly_detections
    (id, model_id, device_id, metric_name, value, anomaly_score, is_anomaly, confidence, timestamp, metadata, episode_id)
SELECT id, model_id, device_id, metric_name, value, score, score < 0, confidence, instant(timestamp),
    jsonb_build_object('expected', expected, 'lower', lower, 'upper', upper, 'raw_score', raw_score, 'reasons', reasons,
        'model_version', model_version, 'historical', historical), episode_id
FROM jsonb_to_recordset(%s) AS anomaly (id uuid, model_id uuid, model_version integer, device_id text, metric_name text,
    timestamp bigint, value double precision, score double precision, raw_score double precision, confidence double precision,
    expected double precision, lower double precision, upper double precision, reasons jsonb, historical boolean, episode_id uuid)
ON CONFLICT DO NOTHING

-- name: put_episodes
-- The later state wins, a closed one for good: states of one episode may come twice, and several in one page.
INSERT INTO anomaly_episodes AS known
    (id, device_id, metric_name, model_id, model_version, started_at, updated_at, closed_at, readings, peak_confidence, historical)
SELECT DISTINCT ON (id) id, device_id, metric_name, model_id, model_version, instant(started_at), instant(updated_at),
    instant(closed_at), readings, peak_confidence, historical
FROM jsonb_to_recordset(%s) AS episode (id uuid, device_id text, metric_name text, model_id uuid, model_version integer,
    started_at bigint, updated_at bigint, closed_at bigint, readings integer, peak_confidence double precision, historical boolean)
ORDER BY id, closed_at IS NOT NULL DESC, episode.updated_at DESC, readings DESC
ON CONFLICT (id) DO UPDATE SET updated_at = excluded.updated_at, closed_at = excluded.closed_at, readings = excluded.readings,
    peak_confidence = excluded.peak_confidence, historical = excluded.historical
WHERE (excluded.closed_at IS NOT NULL, excluded.updated_at, excluded.readings)
    > (known.closed_at IS NOT NULL, known.updated_at, known.readings)

-- name: known_readings
-- Which of these, counted from 1, are recorded.
SELECT wanted.number::integer
FROM unnest(%s::integer[], %s::bigint[], %s::bigint[]) WITH ORDINALITY AS wanted (series_id, ts, disc, number)
JOIN telemetry t ON t.series_id = wanted.series_id AND t.ts = instant(wanted.ts) AND t.disc = wanted.disc

-- name: add_dead_letter
-- One row a message, whatever its size: an array of payloads could outgrow what one parameter may hold. Receive times are unique in a
-- log, so that a page which comes twice counts nothing twice.
INSERT INTO dead_letters AS known (digest, log_id, received, last_received, topic, payload, reason, detail)
SELECT digest, log_id, instant(received), instant(received), topic, payload, reason, detail
FROM (VALUES (%b, %s::uuid, %s::bigint, %s, %b, %s, %s)) AS letter (digest, log_id, received, topic, payload, reason, detail)
ON CONFLICT (digest) DO UPDATE SET times = known.times + 1, last_received = excluded.last_received, log_id = excluded.log_id
WHERE excluded.last_received > known.last_received

-- name: retire_model
-- Make room for the model that takes over: one active a series.
UPDATE ml_models SET status = 'archived' WHERE device_id = %s AND metric_name = %s AND status = 'active' AND id <> %s

-- name: put_model
-- What may change after training is set again.
INSERT INTO ml_models (id, device_id, metric_name, model_path, status, accuracy, false_positive_rate, training_samples, trained_at,
    version, threshold, parameters, figures, sha256, reason)
SELECT id, device_id, metric_name, model_path, status, accuracy, false_positive_rate, training_samples, instant(trained_at),
    version, threshold, parameters, figures, sha256, reason
FROM jsonb_to_record(%s) AS model (id uuid, device_id text, metric_name text, version integer, status text, model_path text,
    trained_at bigint, training_samples integer, threshold double precision, parameters jsonb, figures jsonb, sha256 text,
    accuracy double precision, false_positive_rate double precision, reason text)
ON CONFLICT (id) DO UPDATE SET model_path = excluded.model_path, status = excluded.status, accuracy = excluded.accuracy,
    false_positive_rate = excluded.false_positive_rate, threshold = excluded.threshold, figures = excluded.figures,
    sha256 = excluded.sha256, reason = excluded.reason

-- name: cursor
-- How far a log is recorded.
SELECT seq FROM ingest_cursor WHERE log_id = %s

-- name: reach
-- Never backwards: an older page that comes again does not undo a newer one.
INSERT INTO ingest_cursor AS known (log_id, seq) VALUES (%s, %s::bigint)
ON CONFLICT (log_id) DO UPDATE SET seq = greatest(known.seq, excluded.seq)

-- name: today
-- The server's date: partitions follow its clock, which is the one that many writers share.
SELECT (now() AT TIME ZONE 'UTC')::date

-- name: partitions
-- The weeks of telemetry that have a partition.
SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'telemetry'::regclass

-- name: carry_cursor
-- No further than the log itself goes: what was recorded after it is not of its entries.
INSERT INTO ingest_cursor (log_id, seq) SELECT %s, least(seq, %s) FROM ingest_cursor WHERE log_id = %s

-- name: carry_jobs
UPDATE training_jobs SET instance = %s WHERE instance = %s

-- name: share_out
SELECT share_out(%s, %s, %s, %s)

-- name: add_week
SELECT add_week(%s)

-- name: forget
-- Older than so many days by the server's clock.
SELECT forget(%s, now() - %s * interval '1 day', %s)

-- name: series_with_readings
-- Names alone do not count: a series may have been named by a page that then failed.
SELECT device_id, metric_name FROM series s WHERE EXISTS (SELECT FROM telemetry t WHERE t.series_id = s.id) ORDER BY 1, 2

-- name: series_id
SELECT id FROM series WHERE device_id = %s AND metric_name = %s

-- name: good_readings
-- The newest of one series, in time order, as a binary stream that is a table of fixed width. What an operator confirmed to be a
-- fault is not to be learnt.
COPY (
    SELECT ts, value FROM (
        SELECT ts, disc, value FROM telemetry
        WHERE series_id = %(series)s AND ts >= instant(%(since)s) AND quality = 0 AND ts NOT IN (
            SELECT a.timestamp FROM series s JOIN anomaly_detections a USING (device_id, metric_name)
            JOIN feedback f ON f.episode_id = a.episode_id AND f.verdict = 'confirmed' WHERE s.id = %(series)s
        )
        ORDER BY ts DESC, disc DESC LIMIT %(most)s
    ) AS newest ORDER BY ts, disc
) TO STDOUT (FORMAT binary)

-- name: anomalous_times
SELECT microseconds(a.timestamp) FROM anomaly_detections a LEFT JOIN feedback f ON f.episode_id = a.episode_id
WHERE a.device_id = %s AND a.metric_name = %s AND a.is_anomaly AND a.timestamp >= instant(%s::bigint)
    AND f.verdict IS DISTINCT FROM 'dismissed'

-- name: episode_times
SELECT microseconds(a.timestamp) FROM anomaly_detections a LEFT JOIN feedback f ON f.episode_id = a.episode_id
WHERE a.device_id = %s AND a.metric_name = %s AND a.is_anomaly AND a.timestamp >= instant(%s::bigint)
    AND a.episode_id IS NOT NULL AND f.verdict IS DISTINCT FROM 'dismissed'

-- name: migrations_table
-- Asked for by name first: a role that may not create tables can still see that nothing is to be done.
SELECT to_regclass('schema_migrations') IS NOT NULL

-- name: add_migrations_table
CREATE TABLE schema_migrations (
    version integer PRIMARY KEY,
    name text NOT NULL,
    sha256 text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)

-- name: migrations
SELECT version, name, sha256 FROM schema_migrations ORDER BY version

-- name: add_migration
INSERT INTO schema_migrations (version, name, sha256) VALUES (%s, %s, %s)

-- name: one_at_a_time
-- For this session: whoever else migrates this database waits.
SELECT pg_advisory_lock(7308604897068083045)

-- name: claim
-- For this session: no other daemon of this name records into this database. The name of the session tells whose it is.
SELECT set_config('application_name', %(session)s, false), pg_try_advisory_lock(hashtextextended(%(name)s, 7308604897068083047))

-- name: end_own_session
-- One of ours that the server still takes for alive, after a network that swallowed its end.
SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE locktype = 'advisory' AND objsubid = 1 AND granted AND pg_locks.database = datid AND datname = current_database()
    AND (classid::bigint << 32 | objid::bigint) = hashtextextended(%(name)s, 7308604897068083047)
    AND pid <> pg_backend_pid() AND application_name = %(session)s AND usename = current_user

-- name: one_at_a_time_here
-- Until the transaction ends: whoever else makes partitions waits.
SELECT pg_advisory_xact_lock(7308604897068083046)

-- name: counts
-- Readings of a span, and how many of them differ in series and time.
SELECT count(*), count(DISTINCT (series_id, ts)) FROM telemetry WHERE ts >= instant(%s) AND ts < instant(%s)

-- name: api_keys
-- All of them: a plant has a handful, and who is asked for a revoked one shall say so.
SELECT id, name, digest, permissions, microseconds(created_at), microseconds(expires_at), microseconds(revoked_at),
    microseconds(last_used_at), predictions_a_minute
FROM api_keys ORDER BY created_at, id

-- name: add_api_key
INSERT INTO api_keys (id, name, digest, permissions, created_at, expires_at, predictions_a_minute)
VALUES (%s, %s, %s, %s, instant(%s::bigint), instant(%s::bigint), %s)

-- name: revoke_api_key
-- The first revocation stays.
UPDATE api_keys SET revoked_at = coalesce(revoked_at, instant(%s::bigint)) WHERE id = %s

-- name: use_api_keys
-- Never backwards: several daemons may share the keys.
UPDATE api_keys SET last_used_at = greatest(last_used_at, instant(used.at))
FROM unnest(%s::text[], %s::bigint[]) AS used (id, at) WHERE api_keys.id = used.id

-- name: audit
INSERT INTO audit_log (who, origin, action, subject, before, after) VALUES (%s, %s, %s, %s, %s, %s)

-- name: anomalies
-- A page, newest first; what a filter leaves open is null, which the planner sees since the statement is not prepared.
SELECT id::text, model_id::text, (metadata->>'model_version')::integer, device_id, metric_name, microseconds(timestamp), value,
    anomaly_score, (metadata->>'raw_score')::double precision, confidence, (metadata->>'expected')::double precision,
    (metadata->>'lower')::double precision, (metadata->>'upper')::double precision, metadata->'reasons',
    (metadata->>'historical')::boolean, episode_id::text
FROM anomaly_detections
WHERE (%(device_id)s::text IS NULL OR device_id = %(device_id)s) AND (%(metric_name)s::text IS NULL OR metric_name = %(metric_name)s)
    AND (%(model_id)s::uuid IS NULL OR model_id = %(model_id)s::uuid)
    AND (%(episode_id)s::uuid IS NULL OR episode_id = %(episode_id)s::uuid)
    AND (%(since)s::bigint IS NULL OR timestamp >= instant(%(since)s)) AND (%(until)s::bigint IS NULL OR timestamp < instant(%(until)s))
    AND (%(least_confidence)s::double precision IS NULL OR confidence >= %(least_confidence)s)
    AND (%(after_time)s::bigint IS NULL OR (timestamp, id) < (instant(%(after_time)s), %(after_id)s::uuid))
ORDER BY timestamp DESC, id DESC LIMIT %(most)s

-- name: count_anomalies
-- All that the filter lets through, of every page.
SELECT count(*) FROM anomaly_detections
WHERE (%(device_id)s::text IS NULL OR device_id = %(device_id)s) AND (%(metric_name)s::text IS NULL OR metric_name = %(metric_name)s)
    AND (%(model_id)s::uuid IS NULL OR model_id = %(model_id)s::uuid)
    AND (%(episode_id)s::uuid IS NULL OR episode_id = %(episode_id)s::uuid)
    AND (%(since)s::bigint IS NULL OR timestamp >= instant(%(since)s)) AND (%(until)s::bigint IS NULL OR timestamp < instant(%(until)s))
    AND (%(least_confidence)s::double precision IS NULL OR confidence >= %(least_confidence)s)

-- name: episodes
-- As anomalies; with what an operator said of them.
SELECT e.id::text, device_id, metric_name, model_id::text, model_version, microseconds(started_at), microseconds(updated_at),
    microseconds(closed_at), readings, peak_confidence, historical, f.verdict, f.note, f.given_by, microseconds(f.given_at)
FROM anomaly_episodes e LEFT JOIN feedback f ON f.episode_id = e.id
WHERE (%(device_id)s::text IS NULL OR device_id = %(device_id)s) AND (%(metric_name)s::text IS NULL OR metric_name = %(metric_name)s)
    AND (%(model_id)s::uuid IS NULL OR model_id = %(model_id)s::uuid)
    AND (%(episode_id)s::uuid IS NULL OR e.id = %(episode_id)s::uuid)
    AND (%(since)s::bigint IS NULL OR started_at >= instant(%(since)s)) AND (%(until)s::bigint IS NULL OR started_at < instant(%(until)s))
    AND (%(least_confidence)s::double precision IS NULL OR peak_confidence >= %(least_confidence)s)
    AND (%(open)s::boolean IS NULL OR (closed_at IS NULL) = %(open)s)
    AND (%(after_time)s::bigint IS NULL OR (started_at, e.id) < (instant(%(after_time)s), %(after_id)s::uuid))
ORDER BY started_at DESC, e.id DESC LIMIT %(most)s

-- name: count_episodes
SELECT count(*) FROM anomaly_episodes e
WHERE (%(device_id)s::text IS NULL OR device_id = %(device_id)s) AND (%(metric_name)s::text IS NULL OR metric_name = %(metric_name)s)
    AND (%(model_id)s::uuid IS NULL OR model_id = %(model_id)s::uuid)
    AND (%(episode_id)s::uuid IS NULL OR e.id = %(episode_id)s::uuid)
    AND (%(since)s::bigint IS NULL OR started_at >= instant(%(since)s)) AND (%(until)s::bigint IS NULL OR started_at < instant(%(until)s))
    AND (%(least_confidence)s::double precision IS NULL OR peak_confidence >= %(least_confidence)s)
    AND (%(open)s::boolean IS NULL OR (closed_at IS NULL) = %(open)s)

-- name: tally
-- What a model found since then, and what operators said of all its episodes.
SELECT (SELECT count(*) FROM anomaly_detections WHERE model_id = %(model_id)s::uuid AND timestamp >= instant(%(since)s)),
    (SELECT count(*) FROM anomaly_episodes WHERE model_id = %(model_id)s::uuid AND started_at >= instant(%(since)s)),
    count(*) FILTER (WHERE verdict = 'confirmed'), count(*) FILTER (WHERE verdict = 'dismissed')
FROM feedback JOIN anomaly_episodes e ON e.id = episode_id WHERE e.model_id = %(model_id)s::uuid

-- name: confidences
-- What a series showed, in time order: enough to say what another threshold would have done.
SELECT microseconds(timestamp), confidence FROM anomaly_detections
WHERE device_id = %s AND metric_name = %s AND timestamp >= instant(%s::bigint) ORDER BY timestamp LIMIT %s

-- name: put_feedback
-- The last word counts; the audit log has those before it.
INSERT INTO feedback (episode_id, verdict, note, given_by, given_at) VALUES (%s, %s, %s, %s, instant(%s::bigint))
ON CONFLICT (episode_id) DO UPDATE SET verdict = excluded.verdict, note = excluded.note, given_by = excluded.given_by,
    given_at = excluded.given_at

-- name: series_exists
SELECT EXISTS (SELECT FROM series WHERE device_id = %s AND metric_name = %s)

-- name: add_job
-- One of a series at a time, and no more than so many waiting.
INSERT INTO training_jobs (id, instance, kind, device_id, metric_name, window_days, champion_id, requested_by, status, created_at)
SELECT %(id)s, %(instance)s, %(kind)s, %(device_id)s, %(metric_name)s, %(window_days)s, %(champion_id)s, %(requested_by)s, 'queued',
    instant(%(created_at)s::bigint)
WHERE (SELECT count(*) FROM training_jobs WHERE status = 'queued') < %(most)s
ON CONFLICT (device_id, metric_name) WHERE status IN ('queued', 'running') DO NOTHING

-- name: job_of_series
SELECT id::text FROM training_jobs WHERE device_id = %s AND metric_name = %s AND status IN ('queued', 'running')

-- name: jobs
-- A page, newest first, or one by its id.
SELECT id::text, kind, device_id, metric_name, window_days, champion_id::text, requested_by, status, progress, microseconds(created_at),
    microseconds(started_at), microseconds(finished_at), model_id::text, seconds, outcome, reason
FROM training_jobs
WHERE (%(id)s::uuid IS NULL OR id = %(id)s::uuid) AND (%(status)s::text IS NULL OR status = %(status)s)
    AND (%(after_time)s::bigint IS NULL OR (created_at, id) < (instant(%(after_time)s), %(after_id)s::uuid))
ORDER BY created_at DESC, id DESC LIMIT %(most)s

-- name: count_jobs
SELECT count(*) FROM training_jobs WHERE %(status)s::text IS NULL OR status = %(status)s

-- name: begin_job
-- The oldest that waits for this daemon.
UPDATE training_jobs SET status = 'running', started_at = instant(%(now)s::bigint), progress = 0
WHERE id = (SELECT id FROM training_jobs WHERE instance = %(instance)s AND status = 'queued' ORDER BY created_at, id LIMIT 1 FOR UPDATE)
    AND status = 'queued'
RETURNING id::text

-- name: progress_job
UPDATE training_jobs SET progress = %s WHERE id = %s AND status = 'running'

-- name: advance_job
-- One of many series has come so far, and goes on from there after a restart.
UPDATE training_jobs SET progress = %s, outcome = %s WHERE id = %s AND status = 'running'

-- name: end_job
-- What was cancelled meanwhile stays so.
UPDATE training_jobs SET status = %(status)s, progress = %(progress)s, finished_at = instant(%(finished_at)s::bigint),
    model_id = %(model_id)s, seconds = %(seconds)s, outcome = %(outcome)s, reason = %(reason)s
WHERE id = %(id)s AND status = 'running'

-- name: cancel_job
UPDATE training_jobs SET status = 'cancelled', finished_at = instant(%s::bigint), reason = %s
WHERE id = %s AND status IN ('queued', 'running')

-- name: resume_jobs
-- What was under way when the daemon ended begins anew.
UPDATE training_jobs SET status = 'queued', started_at = NULL, progress = 0 WHERE instance = %s AND status = 'running'
