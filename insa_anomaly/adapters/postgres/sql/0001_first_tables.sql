-- The tables of the first version: what came in, what was found in it, and how far the log is recorded.
-- Text columns hold names already checked at intake; times are timestamptz throughout.

-- Intake counts in microseconds since the epoch; intervals keep them exact where to_timestamp(double) would round.
CREATE FUNCTION instant(microseconds bigint) RETURNS timestamptz
    LANGUAGE sql STABLE STRICT PARALLEL SAFE
    RETURN timestamptz 'epoch' + microseconds * interval '1 microsecond';


CREATE TABLE series (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    device_id text NOT NULL,
    metric_name text NOT NULL,
    first_seen timestamptz NOT NULL DEFAULT now(),
    UNIQUE (device_id, metric_name)
);


-- Eight-byte columns first, so that no row is padded. No foreign key to series: it would cost a look-up a row,
-- and only the recorder writes here, with ids it has just read from series.
CREATE TABLE telemetry (
    ts timestamptz NOT NULL,
    disc bigint NOT NULL,
    value double precision NOT NULL,
    series_id integer NOT NULL,
    quality smallint NOT NULL,
    flags smallint NOT NULL,
    original text,
    PRIMARY KEY (series_id, ts, disc)
) PARTITION BY RANGE (ts);

COMMENT ON COLUMN telemetry.disc IS 'Tells readings of one series at one time apart: hash of the message id, else of the value';
COMMENT ON COLUMN telemetry.quality IS '0 good, 1 uncertain, 2 bad';
COMMENT ON COLUMN telemetry.flags IS 'Bits: 1 stamped at receipt, 2 restamped (original kept), 4 historical';

-- Weeks are made ahead by the recorder; what falls into none of them is kept here.
CREATE TABLE telemetry_default PARTITION OF telemetry DEFAULT;

CREATE VIEW telemetry_readings AS
SELECT s.device_id, s.metric_name, t.ts AS timestamp, t.value, t.quality, t.flags, t.original, t.disc AS discriminator
FROM telemetry t JOIN series s ON s.id = t.series_id;


CREATE TABLE ml_models (
    id uuid PRIMARY KEY,
    device_id text NOT NULL,
    metric_name text NOT NULL,
    model_type text NOT NULL DEFAULT 'isolation_forest',
    model_path text NOT NULL,
    status text NOT NULL CHECK (status IN ('active', 'shadow', 'archived', 'disabled', 'failed', 'deleted')),
    accuracy double precision,
    false_positive_rate double precision,
    training_samples integer NOT NULL,
    trained_at timestamptz NOT NULL,
    last_used_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    version integer NOT NULL,
    threshold double precision NOT NULL,
    parameters jsonb NOT NULL DEFAULT '{}',
    figures jsonb NOT NULL DEFAULT '{}',
    sha256 text NOT NULL,
    reason text NOT NULL DEFAULT ''
);

CREATE INDEX idx_ml_models_device ON ml_models (device_id, metric_name);
CREATE UNIQUE INDEX idx_ml_models_one_active ON ml_models (device_id, metric_name) WHERE status = 'active';


-- No foreign keys to ml_models and anomaly_episodes: the index of models on disk is the truth, and its rows may come later.
CREATE TABLE anomaly_detections (
    id uuid PRIMARY KEY,
    model_id uuid NOT NULL,
    device_id text NOT NULL,
    metric_name text NOT NULL,
    value double precision NOT NULL,
    anomaly_score double precision NOT NULL,
    is_anomaly boolean NOT NULL,
    confidence double precision NOT NULL,
    timestamp timestamptz NOT NULL,
    metadata jsonb NOT NULL DEFAULT '{}',
    episode_id uuid
);

CREATE INDEX idx_anomaly_detections_device ON anomaly_detections (device_id, timestamp);
CREATE INDEX idx_anomaly_detections_model ON anomaly_detections (model_id);


CREATE TABLE anomaly_episodes (
    id uuid PRIMARY KEY,
    device_id text NOT NULL,
    metric_name text NOT NULL,
    model_id uuid NOT NULL,
    model_version integer NOT NULL,
    started_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    closed_at timestamptz,
    readings integer NOT NULL,
    peak_confidence double precision NOT NULL,
    historical boolean NOT NULL
);

CREATE INDEX idx_anomaly_episodes_device ON anomaly_episodes (device_id, started_at);
CREATE INDEX idx_anomaly_episodes_open ON anomaly_episodes (device_id, metric_name) WHERE closed_at IS NULL;


-- `received` is unique in a log, so a page that comes twice stores a message once.
CREATE TABLE dead_letters (
    log_id uuid NOT NULL,
    received timestamptz NOT NULL,
    topic text NOT NULL,
    payload bytea NOT NULL,
    reason text NOT NULL,
    detail text NOT NULL,
    PRIMARY KEY (log_id, received)
);

CREATE INDEX idx_dead_letters_received ON dead_letters (received);


CREATE TABLE ingest_cursor (
    log_id uuid PRIMARY KEY,
    seq bigint NOT NULL
);
