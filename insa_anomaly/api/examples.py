"""Example answers of a single plant, for the description of the API."""

ID, EPISODE_ID, ANOMALY_ID = (
    "4b8f2f5e-2a53-4a3c-9a45-1d2c6a0e9f11",
    "0d0f5b0c-8f0e-5d0f-9a57-1f9c0f6f7a11",
    "77a1c0de-0d51-5b0a-8a9e-0a1b2c3d4e5f",
)
MODEL = {
    "id": ID,
    "device_id": "PUMP-101",
    "metric_name": "temperature",
    "model_type": "isolation_forest",
    "version": 3,
    "status": "active",
    "threshold": 0.42,
    "accuracy": None,
    "false_positive_rate": None,
    "true_positive_rate": None,
    "basis": None,
    "training_samples": 20000,
    "trained_at": "2026-11-22T10:00:00.000000Z",
    "model_path": "PUMP-101/temperature/scorer_20261122_100000.npz",
    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "reason": "",
}
LIVE = {
    "state": "serving",
    "readings": 81200,
    "newest": "2026-11-22T12:00:01.000000Z",
    "serving": True,
    "in_episode": False,
}
MODELS = {"models": [MODEL], "total": 1, "active_count": 1, "next": None}
MODEL_DETAIL = {
    "info": MODEL,
    "metrics": {"threshold": 0.42},
    "parameters": {"n_estimators": 100},
    "status": "active",
    "live": LIVE,
}
PERFORMANCE = {
    "model_id": ID,
    "accuracy": None,
    "false_positive_rate": None,
    "true_positive_rate": None,
    "basis": None,
    "reason": "this model carries no self-assessment",
    "last_trained": "2026-11-22T10:00:00.000000Z",
    "figures": {"threshold": 0.42},
    "live": {
        "days": 7.0,
        "anomalies": 31,
        "episodes": 2,
        "alarms_per_day": 0.286,
        "device_anomalies_24h": 4,
    },
    "feedback": {"confirmed": 1, "dismissed": 1, "precision": 0.5},
    "versions": [
        {
            "id": ID,
            "version": 3,
            "status": "active",
            "trained_at": "2026-11-22T10:00:00.000000Z",
            "training_samples": 20000,
            "accuracy": None,
            "false_positive_rate": None,
            "reason": "",
        }
    ],
}
ANOMALY = {
    "id": ANOMALY_ID,
    "device_id": "PUMP-101",
    "metric_name": "temperature",
    "timestamp": "2026-11-22T09:47:00.000000Z",
    "value": 105.8,
    "score": -0.58,
    "confidence": 0.58,
    "raw_score": -0.11,
    "expected": 68.84,
    "lower": 65.0,
    "upper": 72.68,
    "reasons": [
        {
            "feature": "jump",
            "share": 0.61,
            "text": "jump: +15.25 against the last reading (usual +-0.508)",
        }
    ],
    "model_id": ID,
    "model_version": 3,
    "episode_id": EPISODE_ID,
    "historical": False,
}
ANOMALIES = {"anomalies": [ANOMALY], "total": 1, "next": None}
FEEDBACK = {
    "verdict": "confirmed",
    "note": "bearing replaced",
    "given_by": "0a1b2c3d4e5f (shift lead)",
    "given_at": "2026-11-22T11:00:00.000000Z",
}
EPISODE = {
    "id": EPISODE_ID,
    "device_id": "PUMP-101",
    "metric_name": "temperature",
    "model_id": ID,
    "model_version": 3,
    "started_at": "2026-11-22T09:47:00.000000Z",
    "updated_at": "2026-11-22T09:52:00.000000Z",
    "closed_at": None,
    "readings": 5,
    "peak_confidence": 0.71,
    "historical": False,
    "feedback": None,
}
EPISODES = {"episodes": [EPISODE], "total": 1, "next": None}
THRESHOLD = {
    "success": True,
    "model_id": ID,
    "threshold_before": 0.42,
    "threshold": 0.5,
    "alarms_per_day": {"days": 7.0, "before": 0.571, "after": 0.286},
}
ACTIVATED = {"success": True, "model_id": ID, "status": "active", "replaced_model_id": ANOMALY_ID}
DELETED = {"success": True, "model_id": ID, "status": "deleted", "replaced_model_id": None}
SHADOWED = {"success": True, "model_id": ID, "status": "shadow", "replaced_model_id": None}
UNSHADOWED = {**SHADOWED, "status": "archived"}
COMPARISON = {
    "model_id": ID,
    "champion_id": ANOMALY_ID,
    "champion_versions": 1,
    "since": "2026-11-15T10:00:00.000000Z",
    "newest": "2026-11-22T10:00:00.000000Z",
    "readings": 10080,
    "champion": {
        "anomalies": 31,
        "anomaly_rate": 0.0030754,
        "episodes": 4,
        "episodes_per_day": 0.571,
    },
    "shadow": {
        "anomalies": 19,
        "anomaly_rate": 0.0018849,
        "episodes": 2,
        "episodes_per_day": 0.286,
    },
    "both_anomalous": 17,
    "agreement": 0.998413,
}
TAKEN = {"success": True, "readings": 2}
READINGS = {
    "device_id": "PUMP-101",
    "timestamp": "2026-11-22T10:00:00Z",
    "id": "42",
    "metrics": {"temperature": 71.3, "pressure": 3.2},
}
JOB = {
    "job_id": EPISODE_ID,
    "kind": "train",
    "device_id": "PUMP-101",
    "metric_name": "temperature",
    "training_window": 14.0,
    "status": "done",
    "progress": 100,
    "requested_by": "0a1b2c3d4e5f (shift)",
    "created_at": "2026-11-22T10:00:00.000000Z",
    "started_at": "2026-11-22T10:00:00.200000Z",
    "finished_at": "2026-11-22T10:00:02.300000Z",
    "model_id": ID,
    "new_model_id": None,
    "training_time": 2.1,
    "training_samples": 20000,
    "accuracy": None,
    "false_positive_rate": None,
    "true_positive_rate": None,
    "basis": None,
    "figures": {"threshold": 0.42},
    "improvement_percentage": None,
    "promoted": None,
    "fleet": None,
    "reason": "",
}
QUEUED = {
    **JOB,
    "status": "queued",
    "progress": 0,
    "started_at": None,
    "finished_at": None,
    "model_id": None,
    "training_time": None,
}
RETRAINED = {**JOB, "kind": "retrain", "new_model_id": ANOMALY_ID, "promoted": True}
JOBS = {"jobs": [JOB], "total": 1, "next": None}
PREDICTION = {
    "is_anomaly": True,
    "score": -0.58,
    "confidence": 0.58,
    "expected": 68.84,
    "lower": 65.0,
    "upper": 72.68,
    "model_id": ID,
    "model_version": 3,
}
PREDICTIONS = {
    "predictions": [
        {
            "value": 71.3,
            "is_anomaly": False,
            "score": 0.83,
            "confidence": 0.83,
            "expected": 68.84,
            "lower": 65.0,
            "upper": 72.68,
        },
        {
            "value": 105.8,
            "is_anomaly": True,
            "score": -0.58,
            "confidence": 0.58,
            "expected": 68.84,
            "lower": 65.0,
            "upper": 72.68,
        },
    ],
    "anomaly_count": 1,
    "model_id": ID,
    "model_version": 3,
}
HEALTH_REPORT = {
    "run_id": EPISODE_ID,
    "task_type": "ml_model_health_check",
    "actions": [
        "check_model_age",
        "check_model_accuracy",
        "auto_retrain_if_needed",
        "escalate_if_degraded",
    ],
    "requested_by": "health check",
    "started_at": "2026-11-22T02:00:12.000000Z",
    "seconds": 0.41,
    "healthy": False,
    "summary": "1 of 300 models are below accuracy 0.9,"
    " the lowest PUMP-101/temperature with 0.71; 1 degraded",
    "models": 300,
    "disabled": 0,
    "found": {"degraded": 1, "inaccurate": 1},
    "decided": {"escalate": 1, "retrain": 1},
    "worst": [
        {
            "device_id": "PUMP-101",
            "metric_name": "temperature",
            "model_id": ID,
            "accuracy": 0.71,
            "reasons": {
                "inaccurate": "accuracy 0.710, below 0.9",
                "degraded": "accuracy 0.710, 9.0 points below the 0.800 at its promotion",
            },
        }
    ],
}
DECISION = {
    "id": ANOMALY_ID,
    "run_id": EPISODE_ID,
    "at": "2026-11-22T02:00:12.000000Z",
    "kind": "retrain",
    "cause": "degraded",
    "reason": "accuracy 0.710, 9.0 points below the 0.800 at its promotion",
    "device_id": "PUMP-101",
    "metric_name": "temperature",
    "model_id": ID,
    "model_version": 3,
    "figures": {
        "age_days": 3.2,
        "accuracy": 0.71,
        "accuracy_at_promotion": 0.8,
        "readings": 86400,
        "failures": 0,
    },
    "status": "done",
    "due_at": "2026-11-22T02:00:12.000000Z",
    "settled_at": "2026-11-22T02:00:31.000000Z",
    "outcome": "queued: job 0d0f5b0c-8f0e-5d0f-9a57-1f9c0f6f7a11",
    "job_id": EPISODE_ID,
    "job_status": "done",
    "job_outcome": "promoted",
}
DECISIONS = {"decisions": [DECISION], "next": None}
