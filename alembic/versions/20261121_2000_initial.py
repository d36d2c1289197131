"""The first tables: catalog, customers, changes, provider, ledger, keys.

Revision: 20261121_2000, the first
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import context, op
from sqlalchemy.dialects import postgresql

revision: str = "20261121_2000"
down_revision: str | Sequence[str] | None = None
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

JSON_DATA = sa.JSON(none_as_null=True).with_variant(
    postgresql.JSONB(none_as_null=True), "postgresql"
)


def upgrade() -> None:
    op.create_table(
        "api_key",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(length=500), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_key")),
        sa.UniqueConstraint("hash", name=op.f("uq_api_key_hash")),
    )
    op.create_table(
        "audit_entry",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("stream", sa.String(length=300), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.String(length=500), nullable=False),
        sa.Column("action", sa.String(length=100), nullable=False),
        sa.Column("object_type", sa.String(length=50), nullable=False),
        sa.Column("object_id", sa.String(length=300), nullable=False),
        sa.Column("before", JSON_DATA, nullable=True),
        sa.Column("after", JSON_DATA, nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("request_id", sa.String(length=100), nullable=True),
        sa.Column("mrr_delta_minor", sa.BigInteger(), nullable=True),
        sa.Column("currency", sa.String(length=3), nullable=True),
        sa.Column("previous_hash", sa.String(length=64), nullable=True),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_entry")),
        sa.UniqueConstraint("stream", "sequence", name=op.f("uq_audit_entry_stream_sequence")),
    )
    op.create_index(op.f("ix_audit_entry_at"), "audit_entry", ["at"], unique=False)
    op.create_index(
        op.f("ix_audit_entry_object_type_object_id"),
        "audit_entry",
        ["object_type", "object_id"],
        unique=False,
    )
    op.create_table(
        "catalog_revision",
        sa.Column("revision", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("effective_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("published_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("document", JSON_DATA, nullable=False),
        sa.Column("resolved", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("revision", name=op.f("pk_catalog_revision")),
    )
    op.create_table(
        "customer",
        sa.Column("id", sa.String(length=255), nullable=False),
        sa.Column("sequence", sa.String(length=64), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("email", sa.String(length=320), nullable=True),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("token_generation", sa.Integer(), nullable=False),
        sa.Column("provider_id", sa.String(length=255), nullable=True),
        sa.Column("sandbox_payment_method", sa.String(length=100), nullable=True),
        sa.Column("payment_method_id", sa.String(length=255), nullable=True),
        sa.Column("card_brand", sa.String(length=50), nullable=True),
        sa.Column("card_last4", sa.String(length=4), nullable=True),
        sa.Column("card_expires", sa.String(length=7), nullable=True),
        sa.Column("credit_balance_minor", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_customer")),
        sa.UniqueConstraint("provider_id", name=op.f("uq_customer_provider_id")),
        sa.UniqueConstraint("sequence", name=op.f("uq_customer_sequence")),
    )
    op.create_table(
        "installation",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("mode", sa.String(length=8), nullable=False),
        sa.Column("sandbox_now", sa.DateTime(timezone=True), nullable=True),
        sa.Column("test_clock_id", sa.String(length=255), nullable=True),
        sa.CheckConstraint("id = 1", name=op.f("ck_installation_only_one")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_installation")),
    )
    op.create_table(
        "webhook_event",
        sa.Column("id", sa.String(length=255), nullable=False),
        sa.Column("type", sa.String(length=100), nullable=False),
        sa.Column("object_id", sa.String(length=255), nullable=True),
        sa.Column("customer_provider_id", sa.String(length=255), nullable=True),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_event")),
    )
    op.create_index(
        op.f("ix_webhook_event_customer_provider_id"),
        "webhook_event",
        ["customer_provider_id"],
        unique=False,
    )
    op.create_index(
        op.f("ix_webhook_event_status_due_at"), "webhook_event", ["status", "due_at"], unique=False
    )
    op.create_table(
        "catalog_proposal",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("proposed_by", sa.String(length=500), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("effective_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("base_revision", sa.Integer(), nullable=False),
        sa.Column("published_revision", sa.Integer(), nullable=True),
        sa.Column("decided_by", sa.String(length=500), nullable=True),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("decision_note", sa.Text(), nullable=True),
        sa.Column("document", JSON_DATA, nullable=False),
        sa.Column("draft", sa.Text(), nullable=True),
        sa.Column("policies", JSON_DATA, nullable=False),
        sa.ForeignKeyConstraint(
            ["published_revision"],
            ["catalog_revision.revision"],
            name=op.f("fk_catalog_proposal_published_revision_catalog_revision"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_catalog_proposal")),
    )
    op.create_index(
        op.f("ix_catalog_proposal_status"), "catalog_proposal", ["status"], unique=False
    )
    op.create_table(
        "change",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("customer_id", sa.String(length=255), nullable=False),
        sa.Column("product_id", sa.String(length=64), nullable=False),
        sa.Column("subscription_id", sa.String(length=64), nullable=True),
        sa.Column("status", sa.String(length=24), nullable=False),
        sa.Column("direction", sa.String(length=16), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("mutation", sa.String(length=40), nullable=False),
        sa.Column("idempotency_key", sa.String(length=255), nullable=False),
        sa.Column("request_digest", sa.String(length=64), nullable=False),
        sa.Column("request", JSON_DATA, nullable=False),
        sa.Column("plan", sa.Text(), nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("effective_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("leased_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(length=500), nullable=False),
        sa.Column("authority", sa.String(length=16), nullable=False),
        sa.Column("abandoned_by", sa.String(length=500), nullable=True),
        sa.Column("due_now_minor", sa.BigInteger(), nullable=False),
        sa.Column("return_url", sa.Text(), nullable=True),
        sa.Column("checkout_id", sa.String(length=255), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("lines", JSON_DATA, nullable=False),
        sa.Column("total_minor", sa.BigInteger(), nullable=False),
        sa.Column("mrr_delta_minor", sa.BigInteger(), nullable=False),
        sa.Column("invoice_provider_id", sa.String(length=255), nullable=True),
        sa.Column("failure_code", sa.String(length=64), nullable=True),
        sa.Column("decline_code", sa.String(length=64), nullable=True),
        sa.Column("failure_message", sa.Text(), nullable=True),
        sa.Column("hosted_url", sa.Text(), nullable=True),
        sa.Column("payment_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("settled_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["customer_id"], ["customer.id"], name=op.f("fk_change_customer_id_customer")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_change")),
        sa.UniqueConstraint(
            "customer_id",
            "mutation",
            "idempotency_key",
            name=op.f("uq_change_customer_id_mutation_idempotency_key"),
        ),
    )
    op.create_index(op.f("ix_change_customer_id_id"), "change", ["customer_id", "id"], unique=False)
    op.create_index(
        op.f("ix_change_status_created_at"), "change", ["status", "created_at"], unique=False
    )
    op.create_table(
        "package_version",
        sa.Column("package_id", sa.String(length=64), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["revision"],
            ["catalog_revision.revision"],
            name=op.f("fk_package_version_revision_catalog_revision"),
        ),
        sa.PrimaryKeyConstraint("package_id", "version", name=op.f("pk_package_version")),
    )
    op.create_index(
        op.f("ix_package_version_revision"), "package_version", ["revision"], unique=False
    )
    op.create_table(
        "subscription",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("customer_id", sa.String(length=255), nullable=False),
        sa.Column("product_id", sa.String(length=64), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("interval", sa.String(length=8), nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("period_start", sa.DateTime(timezone=True), nullable=False),
        sa.Column("period_end", sa.DateTime(timezone=True), nullable=False),
        sa.Column("anchor", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("trial_ends_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cancel_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("past_due_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("provider_id", sa.String(length=255), nullable=True),
        sa.Column("quantities", JSON_DATA, nullable=False),
        sa.Column("pending_lines", JSON_DATA, nullable=False),
        sa.ForeignKeyConstraint(
            ["customer_id"], ["customer.id"], name=op.f("fk_subscription_customer_id_customer")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_subscription")),
        sa.UniqueConstraint("provider_id", name=op.f("uq_subscription_provider_id")),
    )
    op.create_index(
        op.f("ix_subscription_customer_id_product_id"),
        "subscription",
        ["customer_id", "product_id"],
        unique=False,
    )
    op.create_index(
        op.f("ix_subscription_period_end"), "subscription", ["period_end"], unique=False
    )
    op.create_table(
        "invoice",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("provider_id", sa.String(length=255), nullable=False),
        sa.Column("customer_id", sa.String(length=255), nullable=False),
        sa.Column("subscription_id", sa.String(length=64), nullable=True),
        sa.Column("number", sa.String(length=100), nullable=True),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("total_minor", sa.BigInteger(), nullable=False),
        sa.Column("amount_due_minor", sa.BigInteger(), nullable=False),
        sa.Column("amount_paid_minor", sa.BigInteger(), nullable=False),
        sa.Column("hosted_url", sa.Text(), nullable=True),
        sa.Column("lines", JSON_DATA, nullable=False),
        sa.ForeignKeyConstraint(
            ["customer_id"], ["customer.id"], name=op.f("fk_invoice_customer_id_customer")
        ),
        sa.ForeignKeyConstraint(
            ["subscription_id"],
            ["subscription.id"],
            name=op.f("fk_invoice_subscription_id_subscription"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_invoice")),
        sa.UniqueConstraint("provider_id", name=op.f("uq_invoice_provider_id")),
    )
    op.create_index(
        op.f("ix_invoice_customer_id_id"), "invoice", ["customer_id", "id"], unique=False
    )
    op.create_table(
        "provider_price",
        sa.Column("lookup_key", sa.String(length=200), nullable=False),
        sa.Column("provider_id", sa.String(length=255), nullable=False),
        sa.Column("package_id", sa.String(length=64), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("charge_id", sa.String(length=130), nullable=False),
        sa.ForeignKeyConstraint(
            ["package_id", "version"],
            ["package_version.package_id", "package_version.version"],
            name=op.f("fk_provider_price_package_id_version_package_version"),
        ),
        sa.PrimaryKeyConstraint("lookup_key", name=op.f("pk_provider_price")),
        sa.UniqueConstraint("provider_id", name=op.f("uq_provider_price_provider_id")),
    )
    op.create_table(
        "subscription_item",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("subscription_id", sa.String(length=64), nullable=False),
        sa.Column("package_id", sa.String(length=64), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("entitlements_version", sa.Integer(), nullable=False),
        sa.Column("quantity", sa.Integer(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("charges", JSON_DATA, nullable=False),
        sa.ForeignKeyConstraint(
            ["package_id", "version"],
            ["package_version.package_id", "package_version.version"],
            name=op.f("fk_subscription_item_package_id_version_package_version"),
        ),
        sa.ForeignKeyConstraint(
            ["subscription_id"],
            ["subscription.id"],
            name=op.f("fk_subscription_item_subscription_id_subscription"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_subscription_item")),
        sa.UniqueConstraint(
            "subscription_id",
            "package_id",
            name=op.f("uq_subscription_item_subscription_id_package_id"),
        ),
    )
    op.create_index(
        op.f("ix_subscription_item_package_id_version"),
        "subscription_item",
        ["package_id", "version"],
        unique=False,
    )
    _stamp_mode()
    _make_ledger_append_only()


def _stamp_mode() -> None:
    """What the database is for, said once and never changed."""
    mode = context.config.attributes.get("mode", "live")
    installation = sa.table("installation", sa.column("id"), sa.column("mode"))
    op.bulk_insert(installation, [{"id": 1, "mode": mode}])


def _make_ledger_append_only() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE FUNCTION refuse_ledger_change() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'the ledger is append-only'; END $$"
        )
        op.execute(
            "CREATE TRIGGER audit_entry_append_only BEFORE UPDATE OR DELETE ON audit_entry "
            "FOR EACH ROW EXECUTE FUNCTION refuse_ledger_change()"
        )
        op.execute(
            "CREATE TRIGGER audit_entry_no_truncate BEFORE TRUNCATE ON audit_entry "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_ledger_change()"
        )
        return
    for operation in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER audit_entry_no_{operation.lower()} BEFORE {operation} ON audit_entry "
            "BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END"
        )


def downgrade() -> None:
    op.drop_index(op.f("ix_subscription_item_package_id_version"), table_name="subscription_item")
    op.drop_table("subscription_item")
    op.drop_table("provider_price")
    op.drop_index(op.f("ix_invoice_customer_id_id"), table_name="invoice")
    op.drop_table("invoice")
    op.drop_index(op.f("ix_subscription_period_end"), table_name="subscription")
    op.drop_index(op.f("ix_subscription_customer_id_product_id"), table_name="subscription")
    op.drop_table("subscription")
    op.drop_index(op.f("ix_package_version_revision"), table_name="package_version")
    op.drop_table("package_version")
    op.drop_index(op.f("ix_change_status_created_at"), table_name="change")
    op.drop_index(op.f("ix_change_customer_id_id"), table_name="change")
    op.drop_table("change")
    op.drop_index(op.f("ix_catalog_proposal_status"), table_name="catalog_proposal")
    op.drop_table("catalog_proposal")
    op.drop_index(op.f("ix_webhook_event_status_due_at"), table_name="webhook_event")
    op.drop_index(op.f("ix_webhook_event_customer_provider_id"), table_name="webhook_event")
    op.drop_table("webhook_event")
    op.drop_table("installation")
    op.drop_table("customer")
    op.drop_table("catalog_revision")
    op.drop_index(op.f("ix_audit_entry_object_type_object_id"), table_name="audit_entry")
    op.drop_index(op.f("ix_audit_entry_at"), table_name="audit_entry")
    op.drop_table("audit_entry")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION refuse_ledger_change()")
    op.drop_table("api_key")
