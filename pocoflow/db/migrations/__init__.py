"""Scripts for Alembic, and what they need; `pocoflow.db.migrate` runs them."""
