-- The daily health check: what it measures by, what it decided and why, and when it is due.

-- Who serves a model: it alone can retrain it or put it aside, since models are files of its machine.
ALTER TABLE ml_models ADD COLUMN instance uuid;

-- The newest of each kind of version is asked for: a series that is refitted every hour has thousands.
CREATE INDEX idx_ml_models_assessed ON ml_models (device_id, metric_name, version) WHERE accuracy IS NOT NULL;
CREATE INDEX idx_ml_models_learnt ON ml_models (device_id, metric_name, version) WHERE figures ->> 'training' = 'anew';
CREATE INDEX idx_ml_models_measured ON ml_models (device_id, metric_name, version) WHERE figures ->> 'predecessor_accuracy' IS NOT NULL;
CREATE INDEX idx_ml_models_idle ON ml_models (id) WHERE status IN ('archived', 'disabled', 'failed');
CREATE INDEX idx_training_jobs_series ON training_jobs (device_id, metric_name, created_at);

-- Readings that were scored, and those of them that stood out, by the hour in which they were. Losable: a crash takes some minutes of it.
CREATE TABLE series_activity (
    device_id text NOT NULL,
    metric_name text NOT NULL,
    hour timestamptz NOT NULL,
    instance uuid NOT NULL,
    newest timestamptz NOT NULL,
    readings bigint NOT NULL,
    anomalies bigint NOT NULL,
    PRIMARY KEY (device_id, metric_name, hour)
);
CREATE INDEX idx_series_activity_hour ON series_activity (hour);

-- Batches that a daemon scored, and those that took longer than health.latency.
CREATE TABLE instance_activity (
    instance uuid NOT NULL,
    hour timestamptz NOT NULL,
    batches bigint NOT NULL,
    slow bigint NOT NULL,
    PRIMARY KEY (instance, hour)
);

-- When a task last ran: whoever finds it due, and nobody else at it, runs it.
CREATE TABLE schedule (
    task_type text PRIMARY KEY,
    due_at timestamptz NOT NULL,
    run_at timestamptz NOT NULL
);

CREATE TABLE health_report (
    id uuid PRIMARY KEY,
    task_type text NOT NULL,
    started_at timestamptz NOT NULL,
    report jsonb NOT NULL
);
CREATE INDEX idx_health_report_time ON health_report (started_at);

-- A decision waits until the daemon that serves its model carries it out; a retraining, until its turn has come (due_at).
CREATE TABLE health_decision (
    id uuid PRIMARY KEY,
    run_id uuid NOT NULL,
    at timestamptz NOT NULL,
    kind text NOT NULL CHECK (kind IN ('retrain', 'escalate', 'recover', 'disable', 'retire', 'clean_up')),
    cause text NOT NULL CHECK (cause IN ('age', 'degraded', 'failing', 'slow', 'silent', 'inactive')),
    reason text NOT NULL,
    instance uuid,
    device_id text NOT NULL,
    metric_name text NOT NULL,
    model_id uuid,
    model_version integer NOT NULL,
    figures jsonb NOT NULL,
    status text NOT NULL DEFAULT 'waiting' CHECK (status IN ('waiting', 'done', 'void')),
    due_at timestamptz,
    settled_at timestamptz,
    outcome text NOT NULL DEFAULT '',
    job_id uuid
);
CREATE INDEX idx_health_decision_series ON health_decision (device_id, metric_name, at);
CREATE INDEX idx_health_decision_time ON health_decision (at, id);
CREATE INDEX idx_health_decision_waiting ON health_decision (due_at) WHERE status = 'waiting';
