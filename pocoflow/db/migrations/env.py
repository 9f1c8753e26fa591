"""What Alembic reads first: it works within the transaction of the connection that it is given."""

from alembic import context

from pocoflow.db.schema import metadata
from pocoflow.db.version import versions

given = context.config.attributes
context.configure(
    connection=given["connection"],
    report=given["report"],
    target_metadata=metadata,
    version_table=versions.name,
)
context.run_migrations()
