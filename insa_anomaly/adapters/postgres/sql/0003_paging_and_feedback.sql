-- What the admin API reads page by page, and what operators say of episodes.

CREATE INDEX idx_anomaly_detections_time ON anomaly_detections (timestamp, id);
CREATE INDEX idx_anomaly_detections_episode ON anomaly_detections (episode_id) WHERE episode_id IS NOT NULL;
CREATE INDEX idx_anomaly_episodes_time ON anomaly_episodes (started_at, id);
CREATE INDEX idx_anomaly_episodes_model ON anomaly_episodes (model_id, started_at);

-- The last word of an operator; audit_log has the words before it.
CREATE TABLE feedback (
    episode_id uuid PRIMARY KEY,
    verdict text NOT NULL CHECK (verdict IN ('confirmed', 'dismissed')),
    note text NOT NULL DEFAULT '',
    given_by text NOT NULL,
    given_at timestamptz NOT NULL DEFAULT now()
);
