-- What only the owner of the tables may do, as functions, so that the daemon's login needs no such rights; and who may do what else.

-- The week of telemetry that begins on this day, filled from the default partition before it is attached: PostgreSQL refuses one whose
-- rows lie there. Keep the default partition locked until the transaction ends.
CREATE FUNCTION add_week(monday date) RETURNS text LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    name text := 'telemetry_' || to_char(monday, 'YYYYMMDD');
    first timestamptz := monday::timestamp AT TIME ZONE 'UTC';
    past timestamptz := (monday + 7)::timestamp AT TIME ZONE 'UTC';
BEGIN
    LOCK TABLE telemetry_default IN ACCESS EXCLUSIVE MODE;
    EXECUTE format('CREATE TABLE %I (LIKE telemetry INCLUDING ALL)', name);
    EXECUTE format('WITH moved AS (DELETE FROM telemetry_default WHERE %L <= ts AND ts < %L RETURNING *) INSERT INTO %I TABLE moved',
        first, past, name);
    EXECUTE format('ALTER TABLE telemetry ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', name, first, past);
    RETURN name;
END
$$;

-- Forget what is older, at most so many rows at once; whole weeks of telemetry go as they are. Answers how many tables and rows went.
CREATE FUNCTION forget(what text, cutoff timestamptz, most integer) RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    name text;
    went bigint := 0;
    more bigint;
BEGIN
    CASE what
    WHEN 'telemetry' THEN
        FOR name IN
            SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
            WHERE i.inhparent = 'telemetry'::regclass AND c.relname ~ '^telemetry_[0-9]{8}$'
                AND (to_date(right(c.relname, 8), 'YYYYMMDD') + 7)::timestamp AT TIME ZONE 'UTC' <= cutoff
        LOOP
            EXECUTE format('DROP TABLE %I', name);
            went := went + 1;
        END LOOP;
        DELETE FROM telemetry_default WHERE ctid = ANY (ARRAY(SELECT ctid FROM telemetry_default WHERE ts < cutoff LIMIT most));
    WHEN 'anomalies' THEN
        DELETE FROM feedback WHERE episode_id IN (
            SELECT id FROM anomaly_episodes WHERE closed_at < cutoff ORDER BY started_at LIMIT most);
        DELETE FROM anomaly_episodes WHERE id IN (SELECT id FROM anomaly_episodes WHERE closed_at < cutoff ORDER BY started_at LIMIT most);
        GET DIAGNOSTICS went = ROW_COUNT;
        DELETE FROM anomaly_detections WHERE id IN (SELECT id FROM anomaly_detections WHERE timestamp < cutoff ORDER BY timestamp LIMIT most);
    WHEN 'dead_letters' THEN
        DELETE FROM dead_letters WHERE digest IN (
            SELECT digest FROM dead_letters WHERE received < cutoff AND last_received < cutoff ORDER BY received LIMIT most);
    WHEN 'audit' THEN
        DELETE FROM audit_log WHERE id IN (
            SELECT id FROM audit_log WHERE at < least(cutoff, now() - interval '2 years') ORDER BY at LIMIT most);
    END CASE;
    GET DIAGNOSTICS more = ROW_COUNT;
    RETURN went + more;
END
$$;

-- Rights of the daemon's parts, as four groups: `ingest` records, `api` answers, `audit` adds to the audit log and does not even read it,
-- `keys` makes API keys. Whoever migrates calls this again, so that it fits the tables there are.
CREATE FUNCTION share_out(ingest name, api name, audit name, keys name) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    entry name;
    all_groups text := format('%I, %I, %I, %I', ingest, api, audit, keys);
    S CONSTANT text := 'SELECT';
    W CONSTANT text := 'SELECT, INSERT, UPDATE';
    to_ingest text;
    to_api text;
BEGIN
    EXECUTE format('REVOKE ALL ON SCHEMA %I FROM PUBLIC', current_schema());
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO %s', current_schema(), all_groups);
    FOR entry IN
        SELECT relname FROM pg_class
        WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p', 'v') AND NOT relispartition
    LOOP
        EXECUTE format('REVOKE ALL ON %I FROM PUBLIC, %s', entry, all_groups);
        CASE
        WHEN entry = 'audit_log' THEN
            EXECUTE format('GRANT INSERT ON audit_log TO %I', audit);
            CONTINUE;
        WHEN entry = 'api_keys' THEN
            EXECUTE format('GRANT SELECT, UPDATE (last_used_at) ON api_keys TO %I', api);
            EXECUTE format('GRANT %s ON api_keys TO %I', W, keys);
            CONTINUE;
        WHEN entry = 'schema_migrations' THEN
            EXECUTE format('GRANT SELECT ON schema_migrations TO %s', all_groups);
            CONTINUE;
        WHEN entry IN ('telemetry', 'telemetry_readings', 'series', 'ingest_cursor', 'dead_letters', 'anomaly_detections', 'anomaly_episodes') THEN
            to_ingest := W; to_api := S;
        WHEN entry IN ('feedback', 'training_jobs') THEN
            to_ingest := S; to_api := W;
        WHEN entry IN ('schedule', 'series_activity', 'instance_activity', 'health_report', 'health_decision') THEN
            to_ingest := S; to_api := W || ', DELETE';
        ELSE
            to_ingest := W; to_api := W;
        END CASE;
        EXECUTE format('GRANT %s ON %I TO %I', to_ingest, entry, ingest);
        EXECUTE format('GRANT %s ON %I TO %I', to_api, entry, api);
    END LOOP;
    EXECUTE format('REVOKE ALL ON FUNCTION add_week(date), forget(text, timestamptz, integer) FROM PUBLIC');
    EXECUTE format('GRANT EXECUTE ON FUNCTION add_week(date), forget(text, timestamptz, integer) TO %I', ingest);
END
$$;

-- With the owner's rights comes the owner's view: no table of somebody else's making is taken for ours.
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION add_week SET search_path = %I, pg_temp', current_schema());
    EXECUTE format('ALTER FUNCTION forget SET search_path = %I, pg_temp', current_schema());
END
$$;
REVOKE ALL ON FUNCTION add_week(date), forget(text, timestamptz, integer), share_out(name, name, name, name) FROM PUBLIC;
