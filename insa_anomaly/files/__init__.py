"""Files: written whole, sealed, or opened by SQLite."""
