-- name: set_up
-- The server's own limits, below the client's deadline; a reported commit must survive a crash.
SELECT set_config('statement_timeout', %(deadline)s, false), set_config('lock_timeout', '3s', false),
    set_config('idle_in_transaction_session_timeout', '15s', false), set_config('synchronous_commit', 'on', false),
    set_config('TimeZone', 'UTC', false)

-- name: series_ids
-- The known names; unknown names are missing from the answer.
SELECT s.device_id, s.metric_name, s.id
FROM series s JOIN unnest(%(devices)s::text[], %(metrics)s::text[]) AS wanted (device_id, metric_name) USING (device_id, metric_name)

-- name: add_series
-- In a fixed order, so that two recorders that add the same names do not deadlock.
INSERT INTO series (device_id, metric_name)
SELECT device_id, metric_name FROM unnest(%(devices)s::text[], %(metrics)s::text[]) AS new (device_id, metric_name) ORDER BY 1, 2
ON CONFLICT DO NOTHING

-- name: add_telemetry
-- Arrays in binary form, built by column; `original` may be shorter, its missing values are null.
INSERT INTO telemetry (series_id, ts, disc, value, quality, flags, original)
SELECT * FROM unnest(%b::integer[], %b::timestamptz[], %b::bigint[], %b::double precision[], %b::smallint[], %b::smallint[], %b::text[])
ON CONFLICT DO NOTHING

-- name: copy_telemetry
-- For pages of new readings: half the work of the query above, but a recorded reading makes it
-- fail.
COPY telemetry (series_id, ts, disc, value, quality, flags) FROM STDIN (FORMAT binary)

-- name: add_anomalies
-- A row is a function of its reading, so a row that exists already is the same.
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
-- The latest state wins, a closed state for good: states of an episode may come twice, and several
-- in a page.
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
-- The recorded readings among the wanted ones, by their number from 1.
SELECT wanted.number::integer
FROM unnest(%s::integer[], %s::bigint[], %s::bigint[]) WITH ORDINALITY AS wanted (series_id, ts, disc, number)
JOIN telemetry t ON t.series_id = wanted.series_id AND t.ts = instant(wanted.ts) AND t.disc = wanted.disc

-- name: add_dead_letter
-- A row a message, whatever its size: an array of payloads could exceed the limit of a parameter.
-- Receive times are unique in a log, so a page that comes twice counts no message twice.
INSERT INTO dead_letters AS known (digest, log_id, received, last_received, topic, payload, reason, detail)
SELECT digest, log_id, instant(received), instant(received), topic, payload, reason, detail
FROM (VALUES (%b, %s::uuid, %s::bigint, %s, %b, %s, %s)) AS letter (digest, log_id, received, topic, payload, reason, detail)
ON CONFLICT (digest) DO UPDATE SET times = known.times + 1, last_received = excluded.last_received, log_id = excluded.log_id
WHERE excluded.last_received > known.last_received

-- name: retire_model
-- Archive the active model before another takes over: a series has a single active model.
UPDATE ml_models SET status = 'archived' WHERE device_id = %s AND metric_name = %s AND status = 'active' AND id <> %s

-- name: put_model
-- Columns that may change after training are set again.
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
-- The sequence up to which a log is recorded.
SELECT seq FROM ingest_cursor WHERE log_id = %s

-- name: reach
-- Never backwards: an older page that comes again does not undo a newer page.
INSERT INTO ingest_cursor AS known (log_id, seq) VALUES (%s, %s::bigint)
ON CONFLICT (log_id) DO UPDATE SET seq = greatest(known.seq, excluded.seq)

-- name: today
-- The server's date: partitions follow its clock, which all writers share.
SELECT (now() AT TIME ZONE 'UTC')::date

-- name: partitions
-- The weeks of telemetry that have a partition.
SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'telemetry'::regclass

-- name: carry_cursor
-- No further than the log itself reaches: records beyond its last entry are not of its entries.
INSERT INTO ingest_cursor (log_id, seq) SELECT %s, least(seq, %s) FROM ingest_cursor WHERE log_id = %s

-- name: carry_jobs
UPDATE training_jobs SET instance = %s WHERE instance = %s

-- name: share_out
SELECT share_out(%s, %s, %s, %s)

-- name: roles_are_given
-- Roles belong to the whole server, their rights to a database.
SELECT (SELECT nspowner FROM pg_namespace WHERE nspname = current_schema()) = %(owner)s::regrole
    AND (SELECT bool_and(pg_has_role(%(login)s::name, each, 'MEMBER')) FROM unnest(%(groups)s::name[]) AS each)
    AND has_table_privilege(%(ingest)s::name, 'telemetry', 'INSERT')

-- name: add_week
SELECT add_week(%s)

-- name: forget
-- Rows older than a number of days by the server's clock.
SELECT forget(%s, now() - %s * interval '1 day', %s)

-- name: series_with_readings
-- Names alone do not count: a series may have been named by a page that then failed.
SELECT device_id, metric_name FROM series s WHERE EXISTS (SELECT FROM telemetry t WHERE t.series_id = s.id) ORDER BY 1, 2

-- name: series_id
SELECT id FROM series WHERE device_id = %s AND metric_name = %s

-- name: good_readings
-- The newest readings of a series, in time order, as a binary stream of rows of equal width.
-- Readings that an operator confirmed to be a fault are not learnt.
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

-- name: confirmed_times
SELECT microseconds(a.timestamp) FROM anomaly_detections a JOIN feedback f ON f.episode_id = a.episode_id
WHERE a.device_id = %s AND a.metric_name = %s AND a.is_anomaly AND a.timestamp >= instant(%s::bigint) AND f.verdict = 'confirmed'

-- name: migrations_table
-- Looked up by name first: a role that may not create tables can still see that no migration is
-- pending.
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
-- For this session: any other process that migrates this database waits.
SELECT pg_advisory_lock(7308604897068083045)

-- name: claim
-- For this session: no other daemon of this name records into this database. The session's name
-- identifies its daemon.
SELECT set_config('application_name', %(session)s, false), pg_try_advisory_lock(hashtextextended(%(name)s, 7308604897068083047))

-- name: end_own_session
-- A session of ours that the server still takes for alive, because the network lost its end.
SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE locktype = 'advisory' AND objsubid = 1 AND granted AND pg_locks.database = datid AND datname = current_database()
    AND (classid::bigint << 32 | objid::bigint) = hashtextextended(%(name)s, 7308604897068083047)
    AND pid <> pg_backend_pid() AND application_name = %(session)s AND usename = session_user

-- name: one_at_a_time_here
-- Until the transaction ends: any other process that creates partitions waits.
SELECT pg_advisory_xact_lock(7308604897068083046)

-- name: counts
-- Readings of a time span, and the number of their distinct pairs of series and time.
SELECT count(*), count(DISTINCT (series_id, ts)) FROM telemetry WHERE ts >= instant(%s) AND ts < instant(%s)

-- name: api_keys
-- All keys: a plant has a handful, and a request with a revoked key shall be answered as such.
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
-- A page, newest first. A filter's open parts are null, which the planner sees because the
-- statement is not prepared.
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
-- All anomalies that pass the filter, of every page.
SELECT count(*) FROM anomaly_detections
WHERE (%(device_id)s::text IS NULL OR device_id = %(device_id)s) AND (%(metric_name)s::text IS NULL OR metric_name = %(metric_name)s)
    AND (%(model_id)s::uuid IS NULL OR model_id = %(model_id)s::uuid)
    AND (%(episode_id)s::uuid IS NULL OR episode_id = %(episode_id)s::uuid)
    AND (%(since)s::bigint IS NULL OR timestamp >= instant(%(since)s)) AND (%(until)s::bigint IS NULL OR timestamp < instant(%(until)s))
    AND (%(least_confidence)s::double precision IS NULL OR confidence >= %(least_confidence)s)

-- name: episodes
-- Episodes under the filter of anomalies, with the feedback of operators.
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
-- The findings of a model since a time, and the verdicts of operators on all its episodes.
SELECT (SELECT count(*) FROM anomaly_detections WHERE model_id = %(model_id)s::uuid AND timestamp >= instant(%(since)s)),
    (SELECT count(*) FROM anomaly_episodes WHERE model_id = %(model_id)s::uuid AND started_at >= instant(%(since)s)),
    count(*) FILTER (WHERE verdict = 'confirmed'), count(*) FILTER (WHERE verdict = 'dismissed')
FROM feedback JOIN anomaly_episodes e ON e.id = episode_id WHERE e.model_id = %(model_id)s::uuid

-- name: confidences
-- Confidences of a series, in time order: enough to compute the effect of another threshold.
SELECT microseconds(timestamp), confidence FROM anomaly_detections
WHERE device_id = %s AND metric_name = %s AND timestamp >= instant(%s::bigint) ORDER BY timestamp LIMIT %s

-- name: put_feedback
-- The last feedback counts; the audit log holds the earlier ones.
INSERT INTO feedback (episode_id, verdict, note, given_by, given_at) VALUES (%s, %s, %s, %s, instant(%s::bigint))
ON CONFLICT (episode_id) DO UPDATE SET verdict = excluded.verdict, note = excluded.note, given_by = excluded.given_by,
    given_at = excluded.given_at

-- name: series_exists
SELECT EXISTS (SELECT FROM series WHERE device_id = %s AND metric_name = %s)

-- name: add_job
-- A single job of a series at a time, and a bounded number of waiting jobs.
INSERT INTO training_jobs (id, instance, kind, device_id, metric_name, window_days, champion_id, requested_by, status, created_at)
SELECT %(id)s, %(instance)s, %(kind)s, %(device_id)s, %(metric_name)s, %(window_days)s, %(champion_id)s, %(requested_by)s, 'queued',
    instant(%(created_at)s::bigint)
WHERE (SELECT count(*) FROM training_jobs WHERE status = 'queued') < %(most)s
ON CONFLICT (device_id, metric_name) WHERE status IN ('queued', 'running') DO NOTHING

-- name: job_of_series
SELECT id::text FROM training_jobs WHERE device_id = %s AND metric_name = %s AND status IN ('queued', 'running')

-- name: jobs
-- A page, newest first, or a single job by its id.
SELECT id::text, kind, device_id, metric_name, window_days, champion_id::text, requested_by, status, progress, microseconds(created_at),
    microseconds(started_at), microseconds(finished_at), model_id::text, seconds, outcome, reason
FROM training_jobs
WHERE (%(id)s::uuid IS NULL OR id = %(id)s::uuid) AND (%(status)s::text IS NULL OR status = %(status)s)
    AND (%(after_time)s::bigint IS NULL OR (created_at, id) < (instant(%(after_time)s), %(after_id)s::uuid))
ORDER BY created_at DESC, id DESC LIMIT %(most)s

-- name: count_jobs
SELECT count(*) FROM training_jobs WHERE %(status)s::text IS NULL OR status = %(status)s

-- name: begin_job
-- The oldest job that waits for this daemon.
UPDATE training_jobs SET status = 'running', started_at = instant(%(now)s::bigint), progress = 0
WHERE id = (SELECT id FROM training_jobs WHERE instance = %(instance)s AND status = 'queued' ORDER BY created_at, id LIMIT 1 FOR UPDATE)
    AND status = 'queued'
RETURNING id::text

-- name: progress_job
UPDATE training_jobs SET progress = %s WHERE id = %s AND status = 'running'

-- name: advance_job
-- Progress and outcome of a job over many series, which continues from its outcome after a restart.
UPDATE training_jobs SET progress = %s, outcome = %s WHERE id = %s AND status = 'running'

-- name: end_job
-- A job that was cancelled meanwhile stays cancelled.
UPDATE training_jobs SET status = %(status)s, progress = %(progress)s, finished_at = instant(%(finished_at)s::bigint),
    model_id = %(model_id)s, seconds = %(seconds)s, outcome = %(outcome)s, reason = %(reason)s
WHERE id = %(id)s AND status = 'running'

-- name: put_ended_job
INSERT INTO training_jobs (id, instance, kind, device_id, metric_name, champion_id, requested_by, status, created_at, finished_at, reason)
VALUES (%(id)s, %(instance)s, %(kind)s, %(device_id)s, %(metric_name)s, %(champion_id)s, %(requested_by)s, %(status)s,
    instant(%(created_at)s::bigint), instant(%(finished_at)s::bigint), %(reason)s)
ON CONFLICT (id) DO NOTHING

-- name: cancel_job
UPDATE training_jobs SET status = 'cancelled', finished_at = instant(%s::bigint), reason = %s
WHERE id = %s AND status IN ('queued', 'running')

-- name: resume_jobs
-- Jobs that ran when the daemon ended begin anew.
UPDATE training_jobs SET status = 'queued', started_at = NULL, progress = 0 WHERE instance = %s AND status = 'running'

-- name: health_alone
-- As long as this connection stands, any other daemon that would check is refused.
SELECT pg_try_advisory_lock(7308604897068083047)

-- name: schedule_of
SELECT microseconds(due_at) FROM schedule WHERE task_type = %s

-- name: put_schedule
INSERT INTO schedule (task_type, due_at, run_at) VALUES (%(task)s, instant(%(due)s::bigint), instant(%(run)s::bigint))
ON CONFLICT (task_type) DO UPDATE SET due_at = greatest(schedule.due_at, excluded.due_at), run_at = excluded.run_at

-- name: add_series_activity
-- In a fixed order, so that two daemons do not deadlock.
INSERT INTO series_activity AS known (device_id, metric_name, hour, instance, newest, readings, anomalies)
SELECT device_id, metric_name, date_trunc('hour', instant(%(now)s::bigint), 'UTC'), %(instance)s::uuid, instant(%(now)s::bigint), readings, anomalies
FROM unnest(%(devices)s::text[], %(metrics)s::text[], %(readings)s::bigint[], %(anomalies)s::bigint[])
    AS new (device_id, metric_name, readings, anomalies) ORDER BY 1, 2
ON CONFLICT (device_id, metric_name, hour) DO UPDATE SET readings = known.readings + excluded.readings,
    anomalies = known.anomalies + excluded.anomalies, newest = excluded.newest, instance = excluded.instance

-- name: add_instance_activity
INSERT INTO instance_activity AS known (instance, hour, batches, slow)
VALUES (%(instance)s::uuid, date_trunc('hour', instant(%(now)s::bigint), 'UTC'), %(batches)s, %(slow)s)
ON CONFLICT (instance, hour) DO UPDATE SET batches = known.batches + excluded.batches, slow = known.slow + excluded.slow

-- name: forget_series_activity
-- The oldest day of the activity.
DELETE FROM series_activity
WHERE hour < least(instant(%(activity)s::bigint), (SELECT min(hour) FROM series_activity) + interval '1 day')

-- name: forget_instance_activity
DELETE FROM instance_activity WHERE hour < instant(%(activity)s::bigint)

-- name: forget_decisions
DELETE FROM health_decision WHERE at < instant(%(decisions)s::bigint) AND status <> 'waiting'

-- name: forget_reports
DELETE FROM health_report WHERE started_at < instant(%(decisions)s::bigint)

-- name: void_decisions
-- Decisions that no daemon carried out: their daemon is unreachable, or a newer decision replaces
-- them.
UPDATE health_decision SET status = 'void', settled_at = instant(%(now)s::bigint), outcome = 'nobody carried it out in time'
WHERE status = 'waiting' AND at < instant(%(before)s::bigint)

-- name: use_models
-- When models were last used, and by which daemon.
UPDATE ml_models m SET last_used_at = greatest(m.last_used_at, used.newest), instance = used.instance
FROM ml_models serving CROSS JOIN LATERAL (
    SELECT newest, instance FROM series_activity a
    WHERE a.device_id = serving.device_id AND a.metric_name = serving.metric_name ORDER BY hour DESC LIMIT 1
) AS used
WHERE serving.status = 'active' AND m.id = serving.id

-- name: use_device_models
-- A model of all metrics is used when any of its metrics reports.
UPDATE ml_models m SET last_used_at = greatest(m.last_used_at, used.newest), instance = used.instance
FROM ml_models serving CROSS JOIN LATERAL (
    SELECT newest, instance FROM series_activity a
    WHERE a.device_id = serving.device_id AND a.hour >= instant(%(since)s::bigint) ORDER BY newest DESC LIMIT 1
) AS used
WHERE serving.status = 'active' AND serving.metric_name = '_device' AND m.id = serving.id

-- name: standings
-- A page of serving models, by name, each with the figures that the check judges it by. Every part
-- is an index look-up.
SELECT m.device_id, m.metric_name, m.instance::text, m.id::text, m.version, microseconds(m.trained_at), microseconds(learnt.trained_at),
    microseconds(coalesce(m.last_used_at, m.trained_at)), promoted.accuracy, promoted.false_positive_rate, measured.accuracy, measured.times,
    greatest(0, active.readings - confirmed.readings), greatest(0, active.anomalies - confirmed.readings), tried.failures,
    coalesce(tried.failure, ''), microseconds(tried.ended_at), tried.under_way OR coalesce(told.waiting, false),
    microseconds(CASE WHEN told.degraded = 'escalate' THEN told.degraded_at END),
    microseconds(CASE WHEN told.failing IN ('escalate', 'disable') THEN told.failing_at END)
FROM (
    SELECT id, device_id, metric_name, version, trained_at, last_used_at, instance FROM ml_models
    WHERE status = 'active' AND (device_id, metric_name) > (%(device_id)s, %(metric_name)s)
    ORDER BY device_id, metric_name LIMIT %(most)s
) AS m
LEFT JOIN LATERAL (
    SELECT trained_at FROM ml_models v
    WHERE v.device_id = m.device_id AND v.metric_name = m.metric_name AND v.figures ->> 'training' = 'anew' ORDER BY version DESC LIMIT 1
) AS learnt ON true
LEFT JOIN LATERAL (
    SELECT version, trained_at, accuracy, false_positive_rate FROM ml_models v
    WHERE v.device_id = m.device_id AND v.metric_name = m.metric_name AND v.accuracy IS NOT NULL
        AND coalesce(v.figures ->> 'refusal', '') = '' ORDER BY version DESC LIMIT 1
) AS promoted ON true
LEFT JOIN LATERAL (
    SELECT trained_at FROM ml_models v
    WHERE v.device_id = m.device_id AND v.metric_name = m.metric_name AND v.accuracy IS NOT NULL ORDER BY version DESC LIMIT 1
) AS assessed ON true
CROSS JOIN LATERAL (
    SELECT avg(accuracy) AS accuracy, count(*) AS times FROM (
        SELECT (v.figures ->> 'predecessor_accuracy')::double precision AS accuracy FROM ml_models v
        WHERE v.device_id = m.device_id AND v.metric_name = m.metric_name AND v.version > promoted.version
            AND v.figures ->> 'predecessor_accuracy' IS NOT NULL ORDER BY version DESC LIMIT 7
    ) AS newest
) AS measured
CROSS JOIN LATERAL (
    SELECT coalesce(sum(a.readings), 0)::bigint AS readings, coalesce(sum(a.anomalies), 0)::bigint AS anomalies FROM series_activity a
    WHERE a.device_id = m.device_id AND a.metric_name = m.metric_name
        AND a.hour >= greatest(instant(%(since)s::bigint), promoted.trained_at)
) AS active
CROSS JOIN LATERAL (
    SELECT count(*) AS readings FROM anomaly_episodes e JOIN feedback f ON f.episode_id = e.id AND f.verdict = 'confirmed'
    JOIN anomaly_detections a ON a.episode_id = e.id AND a.metric_name = m.metric_name
    WHERE e.device_id = m.device_id AND e.started_at >= instant(%(since)s::bigint) - interval '7 days'
        AND a.timestamp >= greatest(instant(%(since)s::bigint), promoted.trained_at)
) AS confirmed
CROSS JOIN LATERAL (
    SELECT bool_or(kind IN ('retrain', 'disable', 'retire') AND status = 'waiting') AS waiting,
        (array_agg(kind ORDER BY at DESC, id) FILTER (WHERE cause = 'degraded' AND kind IN ('escalate', 'recover')))[1] AS degraded,
        max(at) FILTER (WHERE cause = 'degraded' AND kind = 'escalate') AS degraded_at,
        (array_agg(kind ORDER BY at DESC, id) FILTER (WHERE cause = 'failing'))[1] AS failing,
        max(at) FILTER (WHERE cause = 'failing' AND kind <> 'recover') AS failing_at, max(at) FILTER (WHERE kind = 'disable') AS disabled_at
    FROM health_decision d WHERE d.device_id = m.device_id AND d.metric_name = m.metric_name
) AS told
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (
            WHERE status = 'failed' AND finished_at > greatest(succeeded, m.trained_at, assessed.trained_at, told.disabled_at)
        ) AS failures,
        (array_agg(reason ORDER BY created_at DESC) FILTER (WHERE status = 'failed'))[1] AS failure,
        max(finished_at) FILTER (WHERE status IN ('done', 'failed')) AS ended_at,
        coalesce(bool_or(status IN ('queued', 'running')), false) AS under_way
    FROM (
        SELECT status, reason, created_at, finished_at, max(finished_at) FILTER (WHERE status = 'done') OVER () AS succeeded
        FROM training_jobs j WHERE j.device_id = m.device_id AND j.metric_name = m.metric_name AND j.kind = 'retrain'
        ORDER BY created_at DESC LIMIT 10
    ) AS jobs
) AS tried
ORDER BY m.device_id, m.metric_name

-- name: paces
-- The pace of every daemon since a time, and when its slowness was last escalated.
SELECT a.instance::text, sum(a.batches)::bigint, sum(a.slow)::bigint, microseconds((
    SELECT CASE WHEN d.kind = 'escalate' THEN d.at END FROM health_decision d
    WHERE d.device_id = '' AND d.metric_name = '' AND d.cause = 'slow' AND d.instance = a.instance ORDER BY d.at DESC LIMIT 1
))
FROM instance_activity a WHERE a.hour >= instant(%(since)s::bigint) GROUP BY a.instance ORDER BY a.instance

-- name: idle_models
-- A page of stored models that have long not served; a model whose series fell silent stays as long
-- again.
SELECT device_id, metric_name, instance::text, id::text, version, status, microseconds(greatest(trained_at, last_used_at))
FROM ml_models
WHERE status IN ('archived', 'disabled', 'failed') AND id > %(after)s::uuid
    AND greatest(trained_at, last_used_at) < instant(%(before)s::bigint)
    AND NOT EXISTS (SELECT FROM health_decision d WHERE d.device_id = ml_models.device_id AND d.metric_name = ml_models.metric_name
        AND d.model_id = ml_models.id AND (d.kind = 'clean_up' OR (d.kind = 'retire' AND d.at >= instant(%(before)s::bigint))))
ORDER BY id LIMIT %(most)s

-- name: disabled_models
SELECT count(*) FROM ml_models m WHERE status = 'disabled' AND NOT EXISTS (
    SELECT FROM ml_models a WHERE a.device_id = m.device_id AND a.metric_name = m.metric_name AND a.status = 'active')

-- name: add_decisions
-- A retraining has no time yet: it gets a time once the number of retrainings is known.
INSERT INTO health_decision (id, run_id, at, kind, cause, reason, instance, device_id, metric_name, model_id, model_version, figures, due_at)
SELECT id, %(run_id)s::uuid, instant(%(at)s::bigint), kind, cause, reason, instance, device_id, metric_name, model_id, model_version, figures,
    CASE WHEN kind <> 'retrain' THEN instant(%(at)s::bigint) END
FROM jsonb_to_recordset(%(decisions)s) AS decision (id uuid, kind text, cause text, reason text, instance uuid, device_id text,
    metric_name text, model_id uuid, model_version integer, figures jsonb)
ON CONFLICT (id) DO NOTHING

-- name: spread_decisions
-- Retrainings of degraded models go first.
UPDATE health_decision d SET due_at = d.at + (placed.place - 1) * %(pace)s * interval '1 second'
FROM (
    SELECT id, row_number() OVER (PARTITION BY instance ORDER BY cause = 'degraded' DESC, device_id, metric_name) AS place
    FROM health_decision WHERE run_id = %(run_id)s::uuid AND kind = 'retrain' AND due_at IS NULL
) AS placed WHERE placed.id = d.id

-- name: put_report
INSERT INTO health_report (id, task_type, started_at, report) VALUES (%(run_id)s::uuid, %(task)s, instant(%(at)s::bigint), %(report)s)

-- name: newest_report
SELECT report FROM health_report WHERE task_type = %s ORDER BY started_at DESC LIMIT 1

-- name: due_decisions
-- Decisions for this daemon and for any daemon; retrainings last, since they may have to wait for
-- room.
SELECT id::text, run_id::text, microseconds(at), kind, cause, reason, instance::text, device_id, metric_name, model_id::text, model_version,
    figures, status, microseconds(due_at), microseconds(settled_at), outcome, job_id::text, NULL, NULL
FROM health_decision
WHERE status = 'waiting' AND due_at <= instant(%(now)s::bigint) AND (instance = %(instance)s::uuid OR instance IS NULL)
ORDER BY kind = 'retrain', due_at, id LIMIT %(most)s

-- name: settle_decision
UPDATE health_decision SET status = %(status)s, settled_at = instant(%(now)s::bigint), outcome = %(outcome)s, job_id = %(job_id)s::uuid
WHERE id = %(id)s::uuid AND status = 'waiting'

-- name: decisions
-- A page, newest first, each with the result of the training it led to.
SELECT d.id::text, d.run_id::text, microseconds(d.at), d.kind, d.cause, d.reason, d.instance::text, d.device_id, d.metric_name,
    d.model_id::text, d.model_version, d.figures, d.status, microseconds(d.due_at), microseconds(d.settled_at), d.outcome, d.job_id::text,
    j.status, CASE WHEN j.status = 'done' AND (j.outcome ->> 'promoted')::boolean THEN 'promoted'
        WHEN j.status = 'done' THEN 'refused: ' || j.reason ELSE j.reason END
FROM health_decision d LEFT JOIN training_jobs j ON j.id = d.job_id
WHERE (%(device_id)s::text IS NULL OR d.device_id = %(device_id)s) AND (%(metric_name)s::text IS NULL OR d.metric_name = %(metric_name)s)
    AND (%(model_id)s::uuid IS NULL OR d.model_id = %(model_id)s::uuid) AND (%(run_id)s::uuid IS NULL OR d.run_id = %(run_id)s::uuid)
    AND (%(after_time)s::bigint IS NULL OR (d.at, d.id) < (instant(%(after_time)s), %(after_id)s::uuid))
ORDER BY d.at DESC, d.id DESC LIMIT %(most)s
