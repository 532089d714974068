"""Care of models while the daemon runs: training, jobs, activity, health."""
