"""The tables of PocoFlow 0.3, with all that 0.2 kept; see docs/decisions/0011-migrations.md."""

from __future__ import annotations

from alembic import op
from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Double,
    Integer,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from pocoflow.db.migrations.seed_runs import carry_over

revision = "0002"
down_revision = "0001"

_TIME = DateTime(timezone=True).with_variant(String(32), "sqlite")
_SERIAL = BigInteger().with_variant(Integer, "sqlite")
_STATUSES = "status in ('queued', 'running', 'paused', 'completed', 'failed', 'cancelled')"
_TABLES = ("pf_events", "pf_checkpoints", "pf_runs")


def upgrade() -> None:
    for name in _TABLES:
        op.rename_table(name, f"{name}_0_2")
    events, checkpoints, runs = _make_events(), _make_checkpoints(), _make_runs()
    report = op.get_context().opts["report"] or (lambda done, total: None)
    _make_blobs()
    _make_graphs()
    carry_over(op.get_bind(), runs=runs, checkpoints=checkpoints, events=events, report=report)
    for name in _TABLES:
        op.drop_table(f"{name}_0_2")


def _make_runs() -> Table:
    table = op.create_table(
        "pf_runs",
        Column("run_id", Text, primary_key=True),
        Column("flow_name", Text, nullable=False),
        Column("flow_hash", Text),
        Column("status", Text, CheckConstraint(_STATUSES), nullable=False),
        Column("want", Text, CheckConstraint("want in ('pause', 'cancel')")),
        Column("total_steps", Integer, nullable=False),
        Column("current_node", Text),
        Column("stands", Text),
        Column("queue", Text),
        Column("home", Text),
        Column("epoch", BigInteger, nullable=False),
        Column("owner", Text),
        Column("attempt", Integer, nullable=False),
        Column("crashes", Integer, nullable=False),
        Column("dispatches", Integer, nullable=False),
        Column("due_at", Double, nullable=False),
        Column("wake_at", Double),
        Column("unroutable_at", Double),
        Column("deadline_at", Double),
        Column("timeout_s", Double),
        Column("parent_run_id", Text),
        Column("parent_step", Integer),
        Column("first_node", Text),
        Column("first_queue", Text),
        Column("input", Text),
        Column("input_blobs", Text),
        Column("input_hash", Text),
        Column("schema", Text),
        Column("error_type", Text),
        Column("error_msg", Text),
        Column("created_at", _TIME, nullable=False),
        Column("started_at", _TIME),
        Column("completed_at", _TIME),
        postgresql_with={"fillfactor": 70, "autovacuum_vacuum_scale_factor": 0.01},
    )
    some = text("wake_at is not null")
    op.create_index("pf_runs_wake", "pf_runs", ["wake_at"], postgresql_where=some, sqlite_where=some)
    op.create_index("pf_runs_created", "pf_runs", ["created_at"])
    some = text("completed_at is not null")
    op.create_index(
        "pf_runs_completed", "pf_runs", ["completed_at"], postgresql_where=some, sqlite_where=some
    )
    return table


def _make_checkpoints() -> Table:
    return op.create_table(
        "pf_checkpoints",
        Column("id", _SERIAL, primary_key=True, autoincrement=True),
        Column("run_id", Text, nullable=False),
        Column("step", Integer, nullable=False),
        Column("node_name", Text, nullable=False),
        Column("action", Text),
        Column("next_node", Text),
        Column("next_queue", Text),
        Column("store_json", Text, nullable=False),
        Column("depth", Integer, nullable=False),
        Column("blobs", Text),
        Column("epoch", BigInteger, nullable=False),
        Column("created_at", _TIME, nullable=False),
        UniqueConstraint("run_id", "step"),
    )


def _make_events() -> Table:
    table = op.create_table(
        "pf_events",
        Column("id", _SERIAL, primary_key=True, autoincrement=True),
        Column("run_id", Text, nullable=False),
        Column("step", Integer),
        Column("attempt", Integer),
        Column("node_name", Text),
        Column("event", Text, nullable=False),
        Column("action", Text),
        Column("elapsed_ms", Double),
        Column("error_msg", Text),
        Column("worker", Text),
        Column("ts", _TIME, nullable=False),
    )
    op.create_index("pf_events_run", "pf_events", ["run_id", "id"])
    return table


def _make_blobs() -> None:
    op.create_table(
        "pf_blobs",
        Column("digest", Text, primary_key=True),
        Column("body", Text, nullable=False),
        Column("used_at", Double, nullable=False),
    )
    op.create_table(
        "pf_blob_uses",
        Column("run_id", Text, primary_key=True),
        Column("digest", Text, primary_key=True),
    )
    op.create_index("pf_blob_uses_digest", "pf_blob_uses", ["digest"])


def _make_graphs() -> None:
    op.create_table(
        "pf_graphs",
        Column("fingerprint", Text, primary_key=True),
        Column("text", Text, nullable=False),
        Column("seen_at", Double, nullable=False),
    )
