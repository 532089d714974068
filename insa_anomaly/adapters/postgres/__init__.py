"""PostgreSQL: readings and results are recorded there, and read back for training."""
