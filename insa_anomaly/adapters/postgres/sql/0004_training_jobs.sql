-- Trainings that were asked for; each belongs to the daemon that took it, known by its log.
CREATE TABLE training_jobs (
    id uuid PRIMARY KEY,
    instance uuid NOT NULL,
    kind text NOT NULL CHECK (kind IN ('train', 'retrain')),
    device_id text NOT NULL,
    metric_name text NOT NULL,
    window_days double precision,
    champion_id uuid,
    requested_by text NOT NULL,
    status text NOT NULL CHECK (status IN ('queued', 'running', 'done', 'failed', 'cancelled')),
    progress smallint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL,
    started_at timestamptz,
    finished_at timestamptz,
    model_id uuid,
    seconds double precision,
    outcome jsonb NOT NULL DEFAULT '{}',
    reason text NOT NULL DEFAULT ''
);

CREATE INDEX idx_training_jobs_time ON training_jobs (created_at, id);
CREATE UNIQUE INDEX idx_training_jobs_one_a_series ON training_jobs (device_id, metric_name) WHERE status IN ('queued', 'running');
