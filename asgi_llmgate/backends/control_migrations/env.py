"""What Alembic runs; the connection is handed over by `control_schema.py`."""

from __future__ import annotations

from alembic import context

from asgi_llmgate.backends.control_tables import metadata, version_table

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=version_table,
    # The caller's transaction also holds the lock, and is his to commit.
    transaction_per_migration=False,
)
context.run_migrations()
