"""Virtual keys and provider keys."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    counter = op.create_table(
        "llmgate_control",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("version", sa.BigInteger, nullable=False),
    )
    op.bulk_insert(counter, [{"id": 1, "version": 0}])
    op.create_table(
        "llmgate_keys",
        sa.Column("kid", sa.String(32), primary_key=True),
        sa.Column("tenant", sa.String(128), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("user_id", sa.String(256)),
        sa.Column("parent", sa.String(32), sa.ForeignKey("llmgate_keys.kid")),
        sa.Column("scopes", sa.JSON, nullable=False),
        sa.Column("models", sa.JSON),
        sa.Column("providers", sa.JSON),
        sa.Column("routes", sa.JSON),
        sa.Column("tags", sa.JSON, nullable=False),
        sa.Column("hint", sa.String(8), nullable=False),
        sa.Column("is_imported", sa.Boolean, nullable=False),
        sa.Column("created_at_s", sa.Double, nullable=False),
        sa.Column("expires_at_s", sa.Double),
        sa.Column("revoked_at_s", sa.Double),
        sa.Column("handle", sa.String(64), nullable=False, unique=True),
        sa.Column("digest", sa.LargeBinary(32), nullable=False),
        sa.Column("secret_id", sa.String(16), nullable=False),
        sa.Column("old_handle", sa.String(64)),
        sa.Column("old_digest", sa.LargeBinary(32)),
        sa.Column("old_secret_id", sa.String(16)),
        sa.Column("old_expires_at_s", sa.Double),
        sa.Column("version", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_llmgate_keys_old_handle", "llmgate_keys", ["old_handle"])
    op.create_index("ix_llmgate_keys_version", "llmgate_keys", ["version"])
    op.create_index("llmgate_keys_by_tenant", "llmgate_keys", ["tenant", "name"])
    op.create_table(
        "llmgate_provider_keys",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("provider", sa.String(128), nullable=False),
        sa.Column("tenant", sa.String(128), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("weight", sa.Double, nullable=False),
        sa.Column("hint", sa.String(8), nullable=False),
        sa.Column("envelope", sa.LargeBinary, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("created_at_s", sa.Double, nullable=False),
        sa.UniqueConstraint("provider", "tenant", "name", name="llmgate_provider_keys_names"),
    )
