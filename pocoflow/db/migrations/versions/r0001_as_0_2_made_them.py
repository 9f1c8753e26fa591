"""The tables of PocoFlow 0.2, which made them itself, in SQLite only, and noted no revision."""

from __future__ import annotations

from alembic import op
from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Float,
    ForeignKey,
    Integer,
    Text,
    UniqueConstraint,
)

revision = "0001"
down_revision = None

_TIME = DateTime(timezone=True).with_variant(Text, "sqlite")
_SERIAL = BigInteger().with_variant(Integer, "sqlite")
_STATUSES = "status in ('queued', 'running', 'paused', 'completed', 'failed')"


def upgrade() -> None:
    # A file of 0.2 has them, or some of them: it may have been killed while it made them.
    op.create_table(
        "pf_runs",
        Column("run_id", Text, primary_key=True),
        Column("flow_name", Text, nullable=False, server_default=""),
        Column("status", Text, CheckConstraint(_STATUSES), nullable=False, server_default="running"),
        Column("started_at", _TIME, nullable=False),
        Column("completed_at", _TIME),
        Column("total_steps", Integer),
        Column("current_node", Text),
        Column("error_msg", Text),
        if_not_exists=True,
    )
    op.create_table(
        "pf_checkpoints",
        Column("id", _SERIAL, primary_key=True, autoincrement=True),
        Column("run_id", Text, ForeignKey("pf_runs.run_id"), nullable=False),
        Column("step", Integer, nullable=False),
        Column("node_name", Text, nullable=False),
        Column("store_json", Text, nullable=False),
        Column("created_at", _TIME, nullable=False),
        UniqueConstraint("run_id", "step"),
        if_not_exists=True,
    )
    op.create_table(
        "pf_events",
        Column("id", _SERIAL, primary_key=True, autoincrement=True),
        Column("run_id", Text, ForeignKey("pf_runs.run_id"), nullable=False),
        Column("step", Integer),
        Column("node_name", Text),
        Column("event", Text, nullable=False),
        Column("action", Text),
        Column("elapsed_ms", Float),
        Column("error_msg", Text),
        Column("ts", _TIME, nullable=False),
        if_not_exists=True,
    )
