"""PostgreSQL: what is recorded, and read back for training."""
