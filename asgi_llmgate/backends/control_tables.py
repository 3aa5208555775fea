"""The tables of the control store. How they came to be so is in `control_migrations/`.

Names begin with `llmgate_`, for a PostgreSQL is often shared with the application.
"""

from __future__ import annotations

import sqlalchemy as sa

__all__ = ["counter", "keys", "metadata", "provider_keys", "version_table"]

metadata = sa.MetaData()

version_table = "llmgate_alembic_version"

counter = sa.Table(
    "llmgate_control",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    # Grows with every change, in the same transaction: how others notice.
    sa.Column("version", sa.BigInteger, nullable=False),
)

keys = sa.Table(
    "llmgate_keys",
    metadata,
    sa.Column("kid", sa.String(32), primary_key=True),
    sa.Column("tenant", sa.String(128), nullable=False),
    sa.Column("name", sa.String(128), nullable=False),
    sa.Column("user_id", sa.String(256)),
    sa.Column("parent", sa.String(32), sa.ForeignKey("llmgate_keys.kid")),
    sa.Column("scopes", sa.JSON, nullable=False),
    sa.Column("models", sa.JSON(none_as_null=True)),
    sa.Column("providers", sa.JSON(none_as_null=True)),
    sa.Column("routes", sa.JSON(none_as_null=True)),
    sa.Column("tags", sa.JSON, nullable=False),
    sa.Column("rates", sa.Text),
    sa.Column("hint", sa.String(8), nullable=False),
    sa.Column("is_imported", sa.Boolean, nullable=False),
    sa.Column("created_at_s", sa.Double, nullable=False),
    sa.Column("expires_at_s", sa.Double),
    sa.Column("revoked_at_s", sa.Double),
    sa.Column("handle", sa.String(64), nullable=False, unique=True),
    sa.Column("digest", sa.LargeBinary(32), nullable=False),
    sa.Column("secret_id", sa.String(16), nullable=False),
    # The secret that this one replaced, and until when it still works.
    sa.Column("old_handle", sa.String(64), index=True),
    sa.Column("old_digest", sa.LargeBinary(32)),
    sa.Column("old_secret_id", sa.String(16)),
    sa.Column("old_expires_at_s", sa.Double),
    # Of the counter, when this row last changed.
    sa.Column("version", sa.BigInteger, nullable=False, index=True),
    sa.Index("llmgate_keys_by_tenant", "tenant", "name"),
)

provider_keys = sa.Table(
    "llmgate_provider_keys",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("provider", sa.String(128), nullable=False),
    # `*` is everybody; never null, for a null tenant would be a shared one.
    sa.Column("tenant", sa.String(128), nullable=False),
    sa.Column("name", sa.String(128), nullable=False),
    sa.Column("weight", sa.Double, nullable=False),
    sa.Column("hint", sa.String(8), nullable=False),
    sa.Column("envelope", sa.LargeBinary, nullable=False),
    # Of the envelope: part of what it is bound to.
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("created_at_s", sa.Double, nullable=False),
    sa.UniqueConstraint("provider", "tenant", "name", name="llmgate_provider_keys_names"),
)
