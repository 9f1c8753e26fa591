"""History in SQLite or Postgres, by SQLAlchemy Core."""
