SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;
CREATE FUNCTION public.add_week(monday date) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'public', 'pg_temp'
    AS $$
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
CREATE FUNCTION public.forget(what text, cutoff timestamp with time zone, most integer) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'public', 'pg_temp'
    AS $_$
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
$_$;
CREATE FUNCTION public.instant(microseconds bigint) RETURNS timestamp with time zone
    LANGUAGE sql STABLE STRICT PARALLEL SAFE
    RETURN ('1970-01-01 00:00:00+00'::timestamp with time zone + ((microseconds)::double precision * '00:00:00.000001'::interval));
CREATE FUNCTION public.microseconds(at timestamp with time zone) RETURNS bigint
    LANGUAGE sql STABLE STRICT PARALLEL SAFE
    RETURN ((EXTRACT(epoch FROM at) * (1000000)::numeric))::bigint;
CREATE FUNCTION public.refuse_change_of_audit() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    IF TG_OP = 'DELETE' AND OLD.at < now() - interval '2 years' THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION 'audit_log is append-only' USING ERRCODE = 'insufficient_privilege';
END
$$;
CREATE FUNCTION public.share_out(ingest name, api name, audit name, keys name) RETURNS void
    LANGUAGE plpgsql
    AS $$
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
SET default_tablespace = '';
SET default_table_access_method = heap;
CREATE TABLE public.anomaly_detections (
    id uuid NOT NULL,
    model_id uuid NOT NULL,
    device_id text NOT NULL,
    metric_name text NOT NULL,
    value double precision NOT NULL,
    anomaly_score double precision NOT NULL,
    is_anomaly boolean NOT NULL,
    confidence double precision NOT NULL,
    "timestamp" timestamp with time zone NOT NULL,
    metadata jsonb DEFAULT '{}'::jsonb NOT NULL,
    episode_id uuid
);
CREATE TABLE public.anomaly_episodes (
    id uuid NOT NULL,
    device_id text NOT NULL,
    metric_name text NOT NULL,
    model_id uuid NOT NULL,
    model_version integer NOT NULL,
    started_at timestamp with time zone NOT NULL,
    updated_at timestamp with time zone NOT NULL,
    closed_at timestamp with time zone,
    readings integer NOT NULL,
    peak_confidence double precision NOT NULL,
    historical boolean NOT NULL
);
CREATE TABLE public.api_keys (
    id text NOT NULL,
    name text NOT NULL,
    digest text NOT NULL,
    permissions text[] NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    expires_at timestamp with time zone,
    revoked_at timestamp with time zone,
    last_used_at timestamp with time zone,
    predictions_a_minute integer,
    CONSTRAINT api_keys_permissions_check CHECK ((permissions <@ ARRAY['ml:read'::text, 'ml:write'::text, 'telemetry:write'::text, 'admin'::text]))
);
CREATE TABLE public.audit_log (
    id bigint NOT NULL,
    at timestamp with time zone DEFAULT now() NOT NULL,
    who text NOT NULL,
    origin text NOT NULL,
    action text NOT NULL,
    subject text NOT NULL,
    before jsonb,
    after jsonb
);
COMMENT ON TABLE public.audit_log IS 'Written before the change it tells of; append-only, but for what is older than two years';
ALTER TABLE public.audit_log ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.audit_log_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE public.dead_letters (
    log_id uuid NOT NULL,
    received timestamp with time zone NOT NULL,
    topic text NOT NULL,
    payload bytea NOT NULL,
    reason text NOT NULL,
    detail text NOT NULL,
    digest bytea NOT NULL,
    last_received timestamp with time zone NOT NULL,
    times bigint DEFAULT 1 NOT NULL
);
COMMENT ON COLUMN public.dead_letters.received IS 'When it came first';
COMMENT ON COLUMN public.dead_letters.digest IS 'SHA-256 of topic, a zero byte and payload';
COMMENT ON COLUMN public.dead_letters.times IS 'How often it came, what the broker said again included';
CREATE TABLE public.feedback (
    episode_id uuid NOT NULL,
    verdict text NOT NULL,
    note text DEFAULT ''::text NOT NULL,
    given_by text NOT NULL,
    given_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT feedback_verdict_check CHECK ((verdict = ANY (ARRAY['confirmed'::text, 'dismissed'::text])))
);
CREATE TABLE public.health_decision (
    id uuid NOT NULL,
    run_id uuid NOT NULL,
    at timestamp with time zone NOT NULL,
    kind text NOT NULL,
    cause text NOT NULL,
    reason text NOT NULL,
    instance uuid,
    device_id text NOT NULL,
    metric_name text NOT NULL,
    model_id uuid,
    model_version integer NOT NULL,
    figures jsonb NOT NULL,
    status text DEFAULT 'waiting'::text NOT NULL,
    due_at timestamp with time zone,
    settled_at timestamp with time zone,
    outcome text DEFAULT ''::text NOT NULL,
    job_id uuid,
    CONSTRAINT health_decision_cause_check CHECK ((cause = ANY (ARRAY['age'::text, 'degraded'::text, 'failing'::text, 'slow'::text, 'silent'::text, 'inactive'::text]))),
    CONSTRAINT health_decision_kind_check CHECK ((kind = ANY (ARRAY['retrain'::text, 'escalate'::text, 'recover'::text, 'disable'::text, 'retire'::text, 'clean_up'::text]))),
    CONSTRAINT health_decision_status_check CHECK ((status = ANY (ARRAY['waiting'::text, 'done'::text, 'void'::text])))
);
CREATE TABLE public.health_report (
    id uuid NOT NULL,
    task_type text NOT NULL,
    started_at timestamp with time zone NOT NULL,
    report jsonb NOT NULL
);
CREATE TABLE public.ingest_cursor (
    log_id uuid NOT NULL,
    seq bigint NOT NULL
);
CREATE TABLE public.instance_activity (
    instance uuid NOT NULL,
    hour timestamp with time zone NOT NULL,
    batches bigint NOT NULL,
    slow bigint NOT NULL
);
CREATE TABLE public.ml_models (
    id uuid NOT NULL,
    device_id text NOT NULL,
    metric_name text NOT NULL,
    model_type text DEFAULT 'isolation_forest'::text NOT NULL,
    model_path text NOT NULL,
    status text NOT NULL,
    accuracy double precision,
    false_positive_rate double precision,
    training_samples integer NOT NULL,
    trained_at timestamp with time zone NOT NULL,
    last_used_at timestamp with time zone,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    version integer NOT NULL,
    threshold double precision NOT NULL,
    parameters jsonb DEFAULT '{}'::jsonb NOT NULL,
    figures jsonb DEFAULT '{}'::jsonb NOT NULL,
    sha256 text NOT NULL,
    reason text DEFAULT ''::text NOT NULL,
    instance uuid,
    CONSTRAINT ml_models_status_check CHECK ((status = ANY (ARRAY['active'::text, 'shadow'::text, 'archived'::text, 'disabled'::text, 'failed'::text, 'deleted'::text])))
);
CREATE TABLE public.schedule (
    task_type text NOT NULL,
    due_at timestamp with time zone NOT NULL,
    run_at timestamp with time zone NOT NULL
);
CREATE TABLE public.schema_migrations (
    version integer NOT NULL,
    name text NOT NULL,
    sha256 text NOT NULL,
    applied_at timestamp with time zone DEFAULT now() NOT NULL
);
CREATE TABLE public.series (
    id integer NOT NULL,
    device_id text NOT NULL,
    metric_name text NOT NULL,
    first_seen timestamp with time zone DEFAULT now() NOT NULL
);
CREATE TABLE public.series_activity (
    device_id text NOT NULL,
    metric_name text NOT NULL,
    hour timestamp with time zone NOT NULL,
    instance uuid NOT NULL,
    newest timestamp with time zone NOT NULL,
    readings bigint NOT NULL,
    anomalies bigint NOT NULL
);
ALTER TABLE public.series ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.series_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE public.telemetry (
    ts timestamp with time zone NOT NULL,
    disc bigint NOT NULL,
    value double precision NOT NULL,
    series_id integer NOT NULL,
    quality smallint NOT NULL,
    flags smallint NOT NULL,
    original text
)
PARTITION BY RANGE (ts);
COMMENT ON COLUMN public.telemetry.disc IS 'Tells readings of one series at one time apart: hash of the message id, else of the value';
COMMENT ON COLUMN public.telemetry.quality IS '0 good, 1 uncertain, 2 bad';
COMMENT ON COLUMN public.telemetry.flags IS 'Bits: 1 stamped at receipt, 2 restamped (original kept), 4 historical';
CREATE TABLE public.telemetry_20261012 (
    ts timestamp with time zone CONSTRAINT telemetry_ts_not_null NOT NULL,
    disc bigint CONSTRAINT telemetry_disc_not_null NOT NULL,
    value double precision CONSTRAINT telemetry_value_not_null NOT NULL,
    series_id integer CONSTRAINT telemetry_series_id_not_null NOT NULL,
    quality smallint CONSTRAINT telemetry_quality_not_null NOT NULL,
    flags smallint CONSTRAINT telemetry_flags_not_null NOT NULL,
    original text
);
COMMENT ON COLUMN public.telemetry_20261012.disc IS 'Tells readings of one series at one time apart: hash of the message id, else of the value';
COMMENT ON COLUMN public.telemetry_20261012.quality IS '0 good, 1 uncertain, 2 bad';
COMMENT ON COLUMN public.telemetry_20261012.flags IS 'Bits: 1 stamped at receipt, 2 restamped (original kept), 4 historical';
CREATE TABLE public.telemetry_20261019 (
    ts timestamp with time zone CONSTRAINT telemetry_ts_not_null NOT NULL,
    disc bigint CONSTRAINT telemetry_disc_not_null NOT NULL,
    value double precision CONSTRAINT telemetry_value_not_null NOT NULL,
    series_id integer CONSTRAINT telemetry_series_id_not_null NOT NULL,
    quality smallint CONSTRAINT telemetry_quality_not_null NOT NULL,
    flags smallint CONSTRAINT telemetry_flags_not_null NOT NULL,
    original text
);
COMMENT ON COLUMN public.telemetry_20261019.disc IS 'Tells readings of one series at one time apart: hash of the message id, else of the value';
COMMENT ON COLUMN public.telemetry_20261019.quality IS '0 good, 1 uncertain, 2 bad';
COMMENT ON COLUMN public.telemetry_20261019.flags IS 'Bits: 1 stamped at receipt, 2 restamped (original kept), 4 historical';
CREATE TABLE public.telemetry_20261026 (
    ts timestamp with time zone CONSTRAINT telemetry_ts_not_null NOT NULL,
    disc bigint CONSTRAINT telemetry_disc_not_null NOT NULL,
    value double precision CONSTRAINT telemetry_value_not_null NOT NULL,
    series_id integer CONSTRAINT telemetry_series_id_not_null NOT NULL,
    quality smallint CONSTRAINT telemetry_quality_not_null NOT NULL,
    flags smallint CONSTRAINT telemetry_flags_not_null NOT NULL,
    original text
);
COMMENT ON COLUMN public.telemetry_20261026.disc IS 'Tells readings of one series at one time apart: hash of the message id, else of the value';
COMMENT ON COLUMN public.telemetry_20261026.quality IS '0 good, 1 uncertain, 2 bad';
COMMENT ON COLUMN public.telemetry_20261026.flags IS 'Bits: 1 stamped at receipt, 2 restamped (original kept), 4 historical';
CREATE TABLE public.telemetry_20261102 (
    ts timestamp with time zone CONSTRAINT telemetry_ts_not_null NOT NULL,
    disc bigint CONSTRAINT telemetry_disc_not_null NOT NULL,
    value double precision CONSTRAINT telemetry_value_not_null NOT NULL,
    series_id integer CONSTRAINT telemetry_series_id_not_null NOT NULL,
    quality smallint CONSTRAINT telemetry_quality_not_null NOT NULL,
    flags smallint CONSTRAINT telemetry_flags_not_null NOT NULL,
    original text
);
COMMENT ON COLUMN public.telemetry_20261102.disc IS 'Tells readings of one series at one time apart: hash of the message id, else of the value';
COMMENT ON COLUMN public.telemetry_20261102.quality IS '0 good, 1 uncertain, 2 bad';
COMMENT ON COLUMN public.telemetry_20261102.flags IS 'Bits: 1 stamped at receipt, 2 restamped (original kept), 4 historical';
CREATE TABLE public.telemetry_20261109 (
    ts timestamp with time zone CONSTRAINT telemetry_ts_not_null NOT NULL,
    disc bigint CONSTRAINT telemetry_disc_not_null NOT NULL,
    value double precision CONSTRAINT telemetry_value_not_null NOT NULL,
    series_id integer CONSTRAINT telemetry_series_id_not_null NOT NULL,
    quality smallint CONSTRAINT telemetry_quality_not_null NOT NULL,
    flags smallint CONSTRAINT telemetry_flags_not_null NOT NULL,
    original text
);
COMMENT ON COLUMN public.telemetry_20261109.disc IS 'Tells readings of one series at one time apart: hash of the message id, else of the value';
COMMENT ON COLUMN public.telemetry_20261109.quality IS '0 good, 1 uncertain, 2 bad';
COMMENT ON COLUMN public.telemetry_20261109.flags IS 'Bits: 1 stamped at receipt, 2 restamped (original kept), 4 historical';
CREATE TABLE public.telemetry_20261116 (
    ts timestamp with time zone CONSTRAINT telemetry_ts_not_null NOT NULL,
    disc bigint CONSTRAINT telemetry_disc_not_null NOT NULL,
    value double precision CONSTRAINT telemetry_value_not_null NOT NULL,
    series_id integer CONSTRAINT telemetry_series_id_not_null NOT NULL,
    quality smallint CONSTRAINT telemetry_quality_not_null NOT NULL,
    flags smallint CONSTRAINT telemetry_flags_not_null NOT NULL,
    original text
);
COMMENT ON COLUMN public.telemetry_20261116.disc IS 'Tells readings of one series at one time apart: hash of the message id, else of the value';
COMMENT ON COLUMN public.telemetry_20261116.quality IS '0 good, 1 uncertain, 2 bad';
COMMENT ON COLUMN public.telemetry_20261116.flags IS 'Bits: 1 stamped at receipt, 2 restamped (original kept), 4 historical';
CREATE TABLE public.telemetry_20261123 (
    ts timestamp with time zone CONSTRAINT telemetry_ts_not_null NOT NULL,
    disc bigint CONSTRAINT telemetry_disc_not_null NOT NULL,
    value double precision CONSTRAINT telemetry_value_not_null NOT NULL,
    series_id integer CONSTRAINT telemetry_series_id_not_null NOT NULL,
    quality smallint CONSTRAINT telemetry_quality_not_null NOT NULL,
    flags smallint CONSTRAINT telemetry_flags_not_null NOT NULL,
    original text
);
COMMENT ON COLUMN public.telemetry_20261123.disc IS 'Tells readings of one series at one time apart: hash of the message id, else of the value';
COMMENT ON COLUMN public.telemetry_20261123.quality IS '0 good, 1 uncertain, 2 bad';
COMMENT ON COLUMN public.telemetry_20261123.flags IS 'Bits: 1 stamped at receipt, 2 restamped (original kept), 4 historical';
CREATE TABLE public.telemetry_20261130 (
    ts timestamp with time zone CONSTRAINT telemetry_ts_not_null NOT NULL,
    disc bigint CONSTRAINT telemetry_disc_not_null NOT NULL,
    value double precision CONSTRAINT telemetry_value_not_null NOT NULL,
    series_id integer CONSTRAINT telemetry_series_id_not_null NOT NULL,
    quality smallint CONSTRAINT telemetry_quality_not_null NOT NULL,
    flags smallint CONSTRAINT telemetry_flags_not_null NOT NULL,
    original text
);
COMMENT ON COLUMN public.telemetry_20261130.disc IS 'Tells readings of one series at one time apart: hash of the message id, else of the value';
COMMENT ON COLUMN public.telemetry_20261130.quality IS '0 good, 1 uncertain, 2 bad';
COMMENT ON COLUMN public.telemetry_20261130.flags IS 'Bits: 1 stamped at receipt, 2 restamped (original kept), 4 historical';
CREATE TABLE public.telemetry_20261207 (
    ts timestamp with time zone CONSTRAINT telemetry_ts_not_null NOT NULL,
    disc bigint CONSTRAINT telemetry_disc_not_null NOT NULL,
    value double precision CONSTRAINT telemetry_value_not_null NOT NULL,
    series_id integer CONSTRAINT telemetry_series_id_not_null NOT NULL,
    quality smallint CONSTRAINT telemetry_quality_not_null NOT NULL,
    flags smallint CONSTRAINT telemetry_flags_not_null NOT NULL,
    original text
);
COMMENT ON COLUMN public.telemetry_20261207.disc IS 'Tells readings of one series at one time apart: hash of the message id, else of the value';
COMMENT ON COLUMN public.telemetry_20261207.quality IS '0 good, 1 uncertain, 2 bad';
COMMENT ON COLUMN public.telemetry_20261207.flags IS 'Bits: 1 stamped at receipt, 2 restamped (original kept), 4 historical';
CREATE TABLE public.telemetry_20261214 (
    ts timestamp with time zone CONSTRAINT telemetry_ts_not_null NOT NULL,
    disc bigint CONSTRAINT telemetry_disc_not_null NOT NULL,
    value double precision CONSTRAINT telemetry_value_not_null NOT NULL,
    series_id integer CONSTRAINT telemetry_series_id_not_null NOT NULL,
    quality smallint CONSTRAINT telemetry_quality_not_null NOT NULL,
    flags smallint CONSTRAINT telemetry_flags_not_null NOT NULL,
    original text
);
COMMENT ON COLUMN public.telemetry_20261214.disc IS 'Tells readings of one series at one time apart: hash of the message id, else of the value';
COMMENT ON COLUMN public.telemetry_20261214.quality IS '0 good, 1 uncertain, 2 bad';
COMMENT ON COLUMN public.telemetry_20261214.flags IS 'Bits: 1 stamped at receipt, 2 restamped (original kept), 4 historical';
CREATE TABLE public.telemetry_default (
    ts timestamp with time zone CONSTRAINT telemetry_ts_not_null NOT NULL,
    disc bigint CONSTRAINT telemetry_disc_not_null NOT NULL,
    value double precision CONSTRAINT telemetry_value_not_null NOT NULL,
    series_id integer CONSTRAINT telemetry_series_id_not_null NOT NULL,
    quality smallint CONSTRAINT telemetry_quality_not_null NOT NULL,
    flags smallint CONSTRAINT telemetry_flags_not_null NOT NULL,
    original text
);
CREATE VIEW public.telemetry_readings AS
 SELECT s.device_id,
    s.metric_name,
    t.ts AS "timestamp",
    t.value,
    t.quality,
    t.flags,
    t.original,
    t.disc AS discriminator
   FROM (public.telemetry t
     JOIN public.series s ON ((s.id = t.series_id)));
CREATE TABLE public.training_jobs (
    id uuid NOT NULL,
    instance uuid NOT NULL,
    kind text NOT NULL,
    device_id text NOT NULL,
    metric_name text NOT NULL,
    window_days double precision,
    champion_id uuid,
    requested_by text NOT NULL,
    status text NOT NULL,
    progress smallint DEFAULT 0 NOT NULL,
    created_at timestamp with time zone NOT NULL,
    started_at timestamp with time zone,
    finished_at timestamp with time zone,
    model_id uuid,
    seconds double precision,
    outcome jsonb DEFAULT '{}'::jsonb NOT NULL,
    reason text DEFAULT ''::text NOT NULL,
    CONSTRAINT training_jobs_kind_check CHECK ((kind = ANY (ARRAY['train'::text, 'retrain'::text, 'fleet'::text]))),
    CONSTRAINT training_jobs_status_check CHECK ((status = ANY (ARRAY['queued'::text, 'running'::text, 'done'::text, 'failed'::text, 'cancelled'::text])))
);
ALTER TABLE ONLY public.telemetry ATTACH PARTITION public.telemetry_20261012 FOR VALUES FROM ('2026-10-12 00:00:00+00') TO ('2026-10-19 00:00:00+00');
ALTER TABLE ONLY public.telemetry ATTACH PARTITION public.telemetry_20261019 FOR VALUES FROM ('2026-10-19 00:00:00+00') TO ('2026-10-26 00:00:00+00');
ALTER TABLE ONLY public.telemetry ATTACH PARTITION public.telemetry_20261026 FOR VALUES FROM ('2026-10-26 00:00:00+00') TO ('2026-11-02 00:00:00+00');
ALTER TABLE ONLY public.telemetry ATTACH PARTITION public.telemetry_20261102 FOR VALUES FROM ('2026-11-02 00:00:00+00') TO ('2026-11-09 00:00:00+00');
ALTER TABLE ONLY public.telemetry ATTACH PARTITION public.telemetry_20261109 FOR VALUES FROM ('2026-11-09 00:00:00+00') TO ('2026-11-16 00:00:00+00');
ALTER TABLE ONLY public.telemetry ATTACH PARTITION public.telemetry_20261116 FOR VALUES FROM ('2026-11-16 00:00:00+00') TO ('2026-11-23 00:00:00+00');
ALTER TABLE ONLY public.telemetry ATTACH PARTITION public.telemetry_20261123 FOR VALUES FROM ('2026-11-23 00:00:00+00') TO ('2026-11-30 00:00:00+00');
ALTER TABLE ONLY public.telemetry ATTACH PARTITION public.telemetry_20261130 FOR VALUES FROM ('2026-11-30 00:00:00+00') TO ('2026-12-07 00:00:00+00');
ALTER TABLE ONLY public.telemetry ATTACH PARTITION public.telemetry_20261207 FOR VALUES FROM ('2026-12-07 00:00:00+00') TO ('2026-12-14 00:00:00+00');
ALTER TABLE ONLY public.telemetry ATTACH PARTITION public.telemetry_20261214 FOR VALUES FROM ('2026-12-14 00:00:00+00') TO ('2026-12-21 00:00:00+00');
ALTER TABLE ONLY public.telemetry ATTACH PARTITION public.telemetry_default DEFAULT;
INSERT INTO public.api_keys VALUES ('k1', 'kept', 'd', '{ml:read}', '2026-11-22 23:19:30.381777+00', NULL, NULL, NULL, NULL);
INSERT INTO public.audit_log OVERRIDING SYSTEM VALUE VALUES (1, '2026-11-22 23:19:30.382768+00', 'w', 'o', 'a', 's', NULL, NULL);
INSERT INTO public.ingest_cursor VALUES ('57e800ed-38a6-4f9c-8a40-01f74b39780b', 1);
INSERT INTO public.ingest_cursor VALUES ('7e40e04b-d236-429e-a337-42de85e77c19', 2);
INSERT INTO public.ingest_cursor VALUES ('40ae32dd-114b-4ba2-990a-384eb85216b0', 0);
INSERT INTO public.ml_models VALUES ('9137c160-07a1-5595-b673-cd52810de37f', 'pump-1', 'a', 'isolation_forest', 'a/1', 'active', 0.9, NULL, 500, '2025-10-09 08:53:20.000001+00', NULL, '2026-11-22 23:19:30.376568+00', 1, 0.4, '{"warm": false, "max_samples": "auto", "n_estimators": 100}', '{"n": 500, "span": null, "basis": "holdout", "share": 0.25}', 'abababababababababababababababababababababababababababababababab', '', NULL);
INSERT INTO public.schema_migrations VALUES (1, '0001_first_tables', 'e984bd9c3999c8f966797d6094945cad3acdcd361724d70b4abec821c2143ab8', '2026-11-22 23:19:30.317021+00');
INSERT INTO public.schema_migrations VALUES (2, '0002_keys_and_audit', 'be8949bbd30d1965fc103d3fa60e6ee5a8fcabb1d914f397271152a086663a80', '2026-11-22 23:19:30.32746+00');
INSERT INTO public.schema_migrations VALUES (3, '0003_paging_and_feedback', '12ab99dad38e3ea43afc887c918f6a033a788a7ba4032a65df3363d1fd1f0e48', '2026-11-22 23:19:30.33132+00');
INSERT INTO public.schema_migrations VALUES (4, '0004_training_jobs', '8be6e20ca925553f6bf88ee698131caed4b3617bf980acb98ef970ce200d5520', '2026-11-22 23:19:30.333307+00');
INSERT INTO public.schema_migrations VALUES (5, '0005_dead_letters_once', 'fc0e268538b806d9387b1888f86eddbdae218576417dcb0ec5e3ad90ac504731', '2026-11-22 23:19:30.335583+00');
INSERT INTO public.schema_migrations VALUES (6, '0006_fleet_jobs', '83281207960ec0229d934bee336d3cc84b7fa204c2af7e5904c1252a88fe6fee', '2026-11-22 23:19:30.337992+00');
INSERT INTO public.schema_migrations VALUES (7, '0007_health_check', 'b604433ed4bafef912e19bab312770d8e3759113df894fa5b321d15d426b2029', '2026-11-22 23:19:30.338939+00');
INSERT INTO public.schema_migrations VALUES (8, '0008_upkeep_and_roles', '1500be6ce55dd529da6215a1c2f8bfb070cf3553573f3da2b8697e2c5c2a412f', '2026-11-22 23:19:30.345051+00');
INSERT INTO public.series OVERRIDING SYSTEM VALUE VALUES (1, 'P-0', 'flow', '2026-11-22 23:19:30.374064+00');
INSERT INTO public.telemetry_default VALUES ('2025-10-09 08:53:20+00', 0, 0, 1, 0, 0, NULL);
INSERT INTO public.telemetry_default VALUES ('2025-10-09 08:53:20+00', 1, 1, 1, 0, 0, NULL);
INSERT INTO public.telemetry_default VALUES ('2025-10-09 08:53:20+00', 2, 2, 1, 0, 0, NULL);
SELECT pg_catalog.setval('public.audit_log_id_seq', 1, true);
SELECT pg_catalog.setval('public.series_id_seq', 1, true);
ALTER TABLE ONLY public.anomaly_detections
    ADD CONSTRAINT anomaly_detections_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.anomaly_episodes
    ADD CONSTRAINT anomaly_episodes_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.api_keys
    ADD CONSTRAINT api_keys_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.audit_log
    ADD CONSTRAINT audit_log_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.dead_letters
    ADD CONSTRAINT dead_letters_pkey PRIMARY KEY (digest);
ALTER TABLE ONLY public.feedback
    ADD CONSTRAINT feedback_pkey PRIMARY KEY (episode_id);
ALTER TABLE ONLY public.health_decision
    ADD CONSTRAINT health_decision_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.health_report
    ADD CONSTRAINT health_report_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.ingest_cursor
    ADD CONSTRAINT ingest_cursor_pkey PRIMARY KEY (log_id);
ALTER TABLE ONLY public.instance_activity
    ADD CONSTRAINT instance_activity_pkey PRIMARY KEY (instance, hour);
ALTER TABLE ONLY public.ml_models
    ADD CONSTRAINT ml_models_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.schedule
    ADD CONSTRAINT schedule_pkey PRIMARY KEY (task_type);
ALTER TABLE ONLY public.schema_migrations
    ADD CONSTRAINT schema_migrations_pkey PRIMARY KEY (version);
ALTER TABLE ONLY public.series_activity
    ADD CONSTRAINT series_activity_pkey PRIMARY KEY (device_id, metric_name, hour);
ALTER TABLE ONLY public.series
    ADD CONSTRAINT series_device_id_metric_name_key UNIQUE (device_id, metric_name);
ALTER TABLE ONLY public.series
    ADD CONSTRAINT series_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.telemetry
    ADD CONSTRAINT telemetry_pkey PRIMARY KEY (series_id, ts, disc);
ALTER TABLE ONLY public.telemetry_20261012
    ADD CONSTRAINT telemetry_20261012_pkey PRIMARY KEY (series_id, ts, disc);
ALTER TABLE ONLY public.telemetry_20261019
    ADD CONSTRAINT telemetry_20261019_pkey PRIMARY KEY (series_id, ts, disc);
ALTER TABLE ONLY public.telemetry_20261026
    ADD CONSTRAINT telemetry_20261026_pkey PRIMARY KEY (series_id, ts, disc);
ALTER TABLE ONLY public.telemetry_20261102
    ADD CONSTRAINT telemetry_20261102_pkey PRIMARY KEY (series_id, ts, disc);
ALTER TABLE ONLY public.telemetry_20261109
    ADD CONSTRAINT telemetry_20261109_pkey PRIMARY KEY (series_id, ts, disc);
ALTER TABLE ONLY public.telemetry_20261116
    ADD CONSTRAINT telemetry_20261116_pkey PRIMARY KEY (series_id, ts, disc);
ALTER TABLE ONLY public.telemetry_20261123
    ADD CONSTRAINT telemetry_20261123_pkey PRIMARY KEY (series_id, ts, disc);
ALTER TABLE ONLY public.telemetry_20261130
    ADD CONSTRAINT telemetry_20261130_pkey PRIMARY KEY (series_id, ts, disc);
ALTER TABLE ONLY public.telemetry_20261207
    ADD CONSTRAINT telemetry_20261207_pkey PRIMARY KEY (series_id, ts, disc);
ALTER TABLE ONLY public.telemetry_20261214
    ADD CONSTRAINT telemetry_20261214_pkey PRIMARY KEY (series_id, ts, disc);
ALTER TABLE ONLY public.telemetry_default
    ADD CONSTRAINT telemetry_default_pkey PRIMARY KEY (series_id, ts, disc);
ALTER TABLE ONLY public.training_jobs
    ADD CONSTRAINT training_jobs_pkey PRIMARY KEY (id);
CREATE INDEX idx_anomaly_detections_device ON public.anomaly_detections USING btree (device_id, "timestamp");
CREATE INDEX idx_anomaly_detections_episode ON public.anomaly_detections USING btree (episode_id) WHERE (episode_id IS NOT NULL);
CREATE INDEX idx_anomaly_detections_model ON public.anomaly_detections USING btree (model_id);
CREATE INDEX idx_anomaly_detections_time ON public.anomaly_detections USING btree ("timestamp", id);
CREATE INDEX idx_anomaly_episodes_device ON public.anomaly_episodes USING btree (device_id, started_at);
CREATE INDEX idx_anomaly_episodes_model ON public.anomaly_episodes USING btree (model_id, started_at);
CREATE INDEX idx_anomaly_episodes_open ON public.anomaly_episodes USING btree (device_id, metric_name) WHERE (closed_at IS NULL);
CREATE INDEX idx_anomaly_episodes_time ON public.anomaly_episodes USING btree (started_at, id);
CREATE INDEX idx_audit_log_at ON public.audit_log USING btree (at);
CREATE INDEX idx_dead_letters_received ON public.dead_letters USING btree (received);
CREATE INDEX idx_health_decision_series ON public.health_decision USING btree (device_id, metric_name, at);
CREATE INDEX idx_health_decision_time ON public.health_decision USING btree (at, id);
CREATE INDEX idx_health_decision_waiting ON public.health_decision USING btree (due_at) WHERE (status = 'waiting'::text);
CREATE INDEX idx_health_report_time ON public.health_report USING btree (started_at);
CREATE INDEX idx_ml_models_assessed ON public.ml_models USING btree (device_id, metric_name, version) WHERE (accuracy IS NOT NULL);
CREATE INDEX idx_ml_models_device ON public.ml_models USING btree (device_id, metric_name);
CREATE INDEX idx_ml_models_idle ON public.ml_models USING btree (id) WHERE (status = ANY (ARRAY['archived'::text, 'disabled'::text, 'failed'::text]));
CREATE INDEX idx_ml_models_learnt ON public.ml_models USING btree (device_id, metric_name, version) WHERE ((figures ->> 'training'::text) = 'anew'::text);
CREATE INDEX idx_ml_models_measured ON public.ml_models USING btree (device_id, metric_name, version) WHERE ((figures ->> 'predecessor_accuracy'::text) IS NOT NULL);
CREATE UNIQUE INDEX idx_ml_models_one_active ON public.ml_models USING btree (device_id, metric_name) WHERE (status = 'active'::text);
CREATE INDEX idx_series_activity_hour ON public.series_activity USING btree (hour);
CREATE UNIQUE INDEX idx_training_jobs_one_a_series ON public.training_jobs USING btree (device_id, metric_name) WHERE (status = ANY (ARRAY['queued'::text, 'running'::text]));
CREATE INDEX idx_training_jobs_series ON public.training_jobs USING btree (device_id, metric_name, created_at);
CREATE INDEX idx_training_jobs_time ON public.training_jobs USING btree (created_at, id);
ALTER INDEX public.telemetry_pkey ATTACH PARTITION public.telemetry_20261012_pkey;
ALTER INDEX public.telemetry_pkey ATTACH PARTITION public.telemetry_20261019_pkey;
ALTER INDEX public.telemetry_pkey ATTACH PARTITION public.telemetry_20261026_pkey;
ALTER INDEX public.telemetry_pkey ATTACH PARTITION public.telemetry_20261102_pkey;
ALTER INDEX public.telemetry_pkey ATTACH PARTITION public.telemetry_20261109_pkey;
ALTER INDEX public.telemetry_pkey ATTACH PARTITION public.telemetry_20261116_pkey;
ALTER INDEX public.telemetry_pkey ATTACH PARTITION public.telemetry_20261123_pkey;
ALTER INDEX public.telemetry_pkey ATTACH PARTITION public.telemetry_20261130_pkey;
ALTER INDEX public.telemetry_pkey ATTACH PARTITION public.telemetry_20261207_pkey;
ALTER INDEX public.telemetry_pkey ATTACH PARTITION public.telemetry_20261214_pkey;
ALTER INDEX public.telemetry_pkey ATTACH PARTITION public.telemetry_default_pkey;
CREATE TRIGGER audit_log_is_append_only BEFORE DELETE OR UPDATE ON public.audit_log FOR EACH ROW EXECUTE FUNCTION public.refuse_change_of_audit();
ALTER TABLE public.audit_log ENABLE ALWAYS TRIGGER audit_log_is_append_only;
CREATE TRIGGER audit_log_is_not_emptied BEFORE TRUNCATE ON public.audit_log FOR EACH STATEMENT EXECUTE FUNCTION public.refuse_change_of_audit();
ALTER TABLE public.audit_log ENABLE ALWAYS TRIGGER audit_log_is_not_emptied;
