"""The tables. Columns that PocoFlow 0.2 had keep their names.

A change here comes with a script in migrations/versions; a test holds the two against each other.

Moments for a human to read are timestamps (ISO 8601 text in SQLite). Moments to count with (`due_at`,
`wake_at`, `unroutable_at`, `deadline_at`, `used_at`, `seen_at`) are seconds since 1970 by the clock of the
database, so that the same arithmetic works in both databases.

What `store_json` and `input` hold is told in `engine/history.py`; `blobs` and `input_blobs` list the
digests of the blobs that they name, a space between two. `pf_blob_uses` says which run needs which blob.
`flow_hash` names the graph that has led a run to where it stands; `pf_graphs` has it, once for all its runs.

No foreign keys: the rows of a step are written by the one statement that moves its run, so none can
point nowhere, and the check would cost each step a look-up per row.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Double,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from pocoflow.engine.records import Status

metadata = MetaData()

_Timestamp = DateTime(timezone=True).with_variant(String(32), "sqlite")
_Serial = BigInteger().with_variant(Integer, "sqlite")
_STATUSES = ", ".join(f"'{status.value}'" for status in Status)

runs = Table(
    "pf_runs",
    metadata,
    Column("run_id", Text, primary_key=True),
    Column("flow_name", Text, nullable=False),
    Column("flow_hash", Text),
    Column("status", Text, CheckConstraint(f"status in ({_STATUSES})"), nullable=False),
    Column("want", Text, CheckConstraint("want in ('pause', 'cancel')")),
    Column("total_steps", Integer, key="step", nullable=False, default=0),
    Column("current_node", Text, key="node"),
    # Only for a run of 0.2 that no worker has found the place of yet; see engine/placing.py.
    Column("stands", Text),
    Column("queue", Text),
    Column("home", Text),
    Column("epoch", BigInteger, nullable=False, default=0),
    Column("owner", Text),
    Column("attempt", Integer, nullable=False, default=0),
    Column("crashes", Integer, nullable=False, default=0),
    Column("dispatches", Integer, nullable=False, default=0),
    Column("due_at", Double, nullable=False, default=0.0),
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
    Column("created_at", _Timestamp, nullable=False),
    Column("started_at", _Timestamp),
    Column("completed_at", _Timestamp),
    postgresql_with={"fillfactor": 70, "autovacuum_vacuum_scale_factor": 0.01},
)
Index(
    "pf_runs_wake",
    runs.c.wake_at,
    postgresql_where=runs.c.wake_at.is_not(None),
    sqlite_where=runs.c.wake_at.is_not(None),
)
Index("pf_runs_created", runs.c.created_at)
Index(
    "pf_runs_completed",
    runs.c.completed_at,
    postgresql_where=runs.c.completed_at.is_not(None),
    sqlite_where=runs.c.completed_at.is_not(None),
)

checkpoints = Table(
    "pf_checkpoints",
    metadata,
    Column("id", _Serial, primary_key=True, autoincrement=True),
    Column("run_id", Text, nullable=False),
    Column("step", Integer, nullable=False),
    Column("node_name", Text, nullable=False),
    Column("action", Text),
    Column("next_node", Text),
    Column("next_queue", Text),
    Column("store_json", Text, nullable=False),
    Column("depth", Integer, nullable=False, default=0),
    Column("blobs", Text),
    Column("epoch", BigInteger, nullable=False, default=0),
    Column("created_at", _Timestamp, nullable=False),
    UniqueConstraint("run_id", "step"),
)

events = Table(
    "pf_events",
    metadata,
    Column("id", _Serial, primary_key=True, autoincrement=True),
    Column("run_id", Text, nullable=False),
    Column("step", Integer),
    Column("attempt", Integer),
    Column("node_name", Text),
    Column("event", Text, nullable=False),
    Column("action", Text),
    Column("elapsed_ms", Double),
    Column("error_msg", Text),
    Column("worker", Text),
    Column("ts", _Timestamp, nullable=False),
)
Index("pf_events_run", events.c.run_id, events.c.id)


blobs = Table(
    "pf_blobs",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("body", Text, nullable=False),
    Column("used_at", Double, nullable=False),
)

blob_uses = Table(
    "pf_blob_uses",
    metadata,
    Column("run_id", Text, primary_key=True),
    Column("digest", Text, primary_key=True),
)
Index("pf_blob_uses_digest", blob_uses.c.digest)


graphs = Table(
    "pf_graphs",
    metadata,
    Column("fingerprint", Text, primary_key=True),
    Column("text", Text, nullable=False),
    Column("seen_at", Double, nullable=False),
)


class Now(FunctionElement[float]):
    """Seconds since 1970 by the clock of the database; the only clock the protocol reads."""

    type = Double()
    inherit_cache = True


class Timestamp(FunctionElement[Any]):
    """The same moment for a human, `ago_s` seconds back."""

    type = _Timestamp
    inherit_cache = True
    name = "pf_timestamp"


# statement_timestamp() and not clock_timestamp(): being stable it can be looked up in the index on wake_at.
@compiles(Now, "postgresql")
def _now_postgresql(element: Now, compiler: Any, **kw: Any) -> str:
    return "extract(epoch from statement_timestamp())::float8"


@compiles(Now, "sqlite")
def _now_sqlite(element: Now, compiler: Any, **kw: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(Timestamp, "postgresql")
def _timestamp_postgresql(element: Timestamp, compiler: Any, **kw: Any) -> str:
    ago = compiler.process(element.clauses, **kw)
    return f"(statement_timestamp() - make_interval(secs => {ago}))"


@compiles(Timestamp, "sqlite")
def _timestamp_sqlite(element: Timestamp, compiler: Any, **kw: Any) -> str:
    ago = compiler.process(element.clauses, **kw)
    return f"strftime('%Y-%m-%dT%H:%M:%f+00:00', julianday('now') - {ago} / 86400.0)"
